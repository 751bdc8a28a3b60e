"""A table in a REST catalog whose files lie on S3: both are real, and one server's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from servers import REGION, S3Server, ServerMissingError, find_weed, s3_server

from runner import ConfigError, run

TABLE, SCORES = "shop.orders", "shop.scores"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    try:
        find_weed()
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with s3_server(tmp_path_factory.mktemp("s3"), tables=True) as running:
        yield running


def properties(server: S3Server) -> dict[str, str]:
    """The secrets are where they belong: in variables of the environment."""
    return {
        "type": "rest", "uri": server.catalog, "warehouse": "s3://lake", "credential": "${oc.env:LAKE_CREDENTIAL}",
        "oauth2-server-uri": f"{server.catalog}/v1/oauth/tokens", "s3.endpoint": server.endpoint, "s3.region": REGION,
    }  # fmt: skip


def job(server: S3Server, **more: Any) -> dict[str, Any]:
    return {
        "source": "iceberg",
        "source.catalog": properties(server),
        "source.table": TABLE,
        "model": "custom",
        "model._target_": "predictors.doubling",
        "predict.columns": ["x"],
        "mode": "inline",
        "sink": "iceberg",
        "sink.catalog": properties(server),
        "sink.table": SCORES,
        "sink.path": f"s3://{server.bucket}/scores",  # the catalog's own bucket takes nothing but tables
        "sink.storage_options": {"client_kwargs": {"endpoint_url": server.endpoint, "region_name": REGION}},
        "sink.save_mode": "append",
        **more,
    }


@pytest.mark.slow
def test_from_a_table_to_a_table(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.catalog import load_catalog

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
    monkeypatch.setenv("LAKE_CREDENTIAL", f"{server.key}:{server.secret}")
    catalog = load_catalog("default", **{**properties(server), "credential": f"{server.key}:{server.secret}"})
    catalog.create_namespace("shop")
    orders = catalog.create_table(TABLE, schema=pa.schema([("x", pa.int64())]))
    for first in (0, 50):
        orders.append(pa.table({"x": range(first, first + 50)}))
        assert run(job(server)).rows_out == 50
    scores = catalog.load_table(SCORES)
    assert sorted(scores.scan().to_arrow().column("twice").to_pylist()) == [2 * x for x in range(100)]
    assert len(scores.snapshots()) == 2
    assert run(job(server, **{"sink.save_mode": "overwrite", "model.factor": 3})).rows_out == 100
    assert sorted(catalog.load_table(SCORES).scan().to_arrow().column("twice").to_pylist()) == [
        3 * x for x in range(100)
    ]
    with pytest.raises(
        ConfigError, match=r"source\.table=shop\.order: there is no such table \(did you mean 'orders'\?\)"
    ):
        run(job(server, **{"source.table": "shop.order", "model.factor": 3}))
    monkeypatch.setenv("LAKE_CREDENTIAL", "nobody:nothing")
    with pytest.raises(ConfigError, match=r"sink\.catalog: cannot be used: .*Invalid client credentials"):
        run(job(server, **{"model.factor": 3}))
