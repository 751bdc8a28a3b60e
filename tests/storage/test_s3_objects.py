"""S3 by obstore: fsspec's options are understood or refused, and what is there looks as it does to s3fs."""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import S3Server

from runner.config.crosscheck import slower_clients
from runner.errors import ConfigError
from runner.sources.files import Files
from runner.storage.locations import locate, why_not_faster
from runner.storage.s3_options import S3Options, translated
from runner.storage.walking import children, stream_files

pytest.importorskip("obstore")
NOWHERE = {"AWS_CONFIG_FILE": "/nowhere"}


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({}, {}, {}),
        ({"key": "k", "secret": "s", "token": "t"}, {}, {"key": "k", "secret": "s", "token": "t"}),
        ({"username": "k", "password": "s"}, {}, {"key": "k", "secret": "s"}),
        ({"anon": True, "client_kwargs": {"region_name": "r"}}, {}, {"anonymous": True, "region": "r"}),
        (
            {"client_kwargs": {"endpoint_url": "http://h", "aws_access_key_id": "k", "aws_secret_access_key": "s"}},
            {"AWS_ENDPOINT_URL": "http://other"},
            {"endpoint": "http://h", "key": "k", "secret": "s"},
        ),
        (
            {"key": "k", "secret": "s"},
            {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "f", "AWS_SESSION_TOKEN": "g"},
            {"key": "k", "secret": "s"},
        ),
        (
            {},
            {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "f", "AWS_SESSION_TOKEN": "g"},
            {"key": "e", "secret": "f", "token": "g"},
        ),
        ({"profile": "p"}, {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "f"}, {"profile": "p"}),
        ({"config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": 1}}, {}, {"retries": 0, "read_seconds": 1}),
        ({"config_kwargs": {"retries": {"total_max_attempts": 3}}}, {}, {"retries": 2}),
        ({"use_listings_cache": True, "use_ssl": True, "default_block_size": 5}, {}, {"block_bytes": 5}),
        ({"config_kwargs": {"s3": {"addressing_style": "path"}}}, {}, {}),
    ],
)  # fmt: skip
def test_options_are_translated(options: dict[str, Any], environment: dict[str, str], expected: dict[str, Any]) -> None:
    assert translated(options, {**NOWHERE, **environment}) == S3Options(**expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}, "storage_options.s3_additional_kwargs"),
        ({"config_kwargs": {"proxies": {"http": "x"}}}, "storage_options.config_kwargs.proxies"),
        ({"config_kwargs": {"s3": {"addressing_style": "virtual"}}}, "storage_options.config_kwargs.s3"),
        ({"client_kwargs": {"verify": False}}, "storage_options.client_kwargs.verify"),
        ({"key": "k"}, "a key without a secret"),
    ],
)
def test_an_option_without_counterpart_is_named(options: dict[str, Any], named: str) -> None:
    found = translated(options, NOWHERE)
    assert isinstance(found, str)
    assert named in found


def test_the_config_file_tells_a_region_or_more_than_obstore_knows(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("[default]\nregion = eu-west-1\n[profile other]\ns3 =\n  addressing_style = virtual\n")
    environment = {"AWS_CONFIG_FILE": str(file)}
    assert translated({}, environment) == S3Options(region="eu-west-1")
    assert translated({"profile": "other"}, environment) == "obstore has no counterpart for s3"


def test_a_secret_is_not_shown() -> None:
    assert "hidden" not in repr(S3Options(key="k", secret="hidden", token="hidden"))


def test_who_serves_is_chosen_and_a_reason_told(s3: S3Server) -> None:
    only_s3fs = {**s3.storage_options, "s3_additional_kwargs": {"StorageClass": "STANDARD"}}
    for options, kind in ((s3.storage_options, "S3Objects"), (only_s3fs, "S3FileSystem")):
        assert type(locate(f"s3://{s3.bucket}/a", options)[0]).__name__ == kind
    assert why_not_faster(f"s3://{s3.bucket}/a", s3.storage_options) == ""
    assert why_not_faster("/a", {}) == why_not_faster("gs://b/a", {}) == ""
    assert "s3_additional_kwargs" in why_not_faster(f"s3://{s3.bucket}/a", only_s3fs)
    assert "another type" in why_not_faster("s3://b/a", {"default_block_size": "large"})
    assert "cannot spell" in why_not_faster(f"s3://{s3.bucket}/a//b", s3.storage_options)


def test_a_slower_client_is_noted_before_the_run() -> None:
    odd = {"storage_options": {"s3_additional_kwargs": {"ACL": "private"}}}
    values = {"source": {"path": "s3://b/in", **odd}, "sink": {"path": "/out", **odd}}
    [note] = slower_clients(values)
    assert note.startswith("source.path=s3://b/in: ")
    assert note.endswith("storage_options.s3_additional_kwargs")


def test_what_is_there_looks_as_it_does_to_s3fs(s3: S3Server) -> None:
    root, plain = f"{s3.bucket}/{uuid4().hex}", s3.s3fs()
    for name in ("k=1/a b#%=[1]é.x", "k=1/sub/b", "pct%20x", "plus+x", "empty", "~t/*?", "z"):
        plain.pipe_file(f"{root}/{name}", b"" if name == "empty" else name.encode())
    plain.pipe_file(f"{root}/folder/", b"")  # as consoles mark folders
    fs = locate(f"s3://{root}", s3.storage_options)[0]
    found = {path: (what["size"], what["ETag"]) for path, what in stream_files(fs, root)}
    assert found == {path: (what["size"], what["ETag"]) for path, what in stream_files(plain, root)}
    assert dict(children(fs, root)).keys() == dict(children(plain, root)).keys()
    for path in found:
        with fs.open(path, "rb") as file:
            assert file.read() == plain.cat_file(path)
    assert [fs.isdir(f"{root}/{name}") for name in ("k=1", "z", "none")] == [True, False, False]


def test_a_name_that_obstore_cannot_spell_is_listed_and_read(s3: S3Server) -> None:
    root, plain = f"{s3.bucket}/{uuid4().hex}", s3.s3fs()
    for name in ("a", "b\nc", "d"):
        plain.pipe_file(f"{root}/{name}", name.encode())
    fs = locate(f"s3://{root}", s3.storage_options)[0]
    assert sorted(path for path, _ in stream_files(fs, root)) == [f"{root}/a", f"{root}/b\nc", f"{root}/d"]
    odd, path = locate(f"s3://{root}/b\nc", s3.storage_options)
    assert odd.cat_file(path) == b"b\nc"


def test_a_file_that_changed_since_its_listing_is_refused(s3: S3Server) -> None:
    def put(rows: int) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"x": range(rows)}), buffer)
        s3.s3fs().pipe_file(f"{folder}/a.parquet", buffer.getvalue())

    folder = f"{s3.bucket}/{uuid4().hex}"
    put(10)
    source = Files(f"s3://{folder}", "parquet", storage_options=s3.storage_options)
    [fragment], schema = source.inspect(source.inputs())
    assert schema is not None
    put(11)
    with pytest.raises(ConfigError, match="it changed since it was listed"):
        list(source.reader(schema).read(fragment))


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_is_served_by_s3fs(s3: S3Server) -> None:
    fs, path = locate(f"s3://{s3.bucket}/{uuid4().hex}", s3.storage_options)
    fs.pipe_file(path, b"content")
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read, args=(f"s3://{path}", s3.storage_options, theirs))
    child.start()
    assert ours.poll(30)
    assert ours.recv() == ("S3FileSystem", b"content")
    child.join()


def _read(uri: str, options: dict[str, Any], answer: Any) -> None:
    fs, path = locate(uri, options)
    answer.send((type(fs).__name__, fs.cat_file(path)))
