"""From every kind of source into every kind of sink: the table of docs/data.md is what runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lake
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from databases import Fresh, fresh
from datasets import Dataset
from deltalake import DeltaTable, write_deltalake
from PIL import Image
from sources.test_source_seam import typed

from runner import run
from runner.__main__ import main

ROWS = 6
pytestmark = pytest.mark.slow


def rows() -> pa.Table:
    return pa.table({"x": pa.array(range(ROWS), pa.int64()), "name": [f"row {i}" for i in range(ROWS)]})


def database(folder: Path) -> Fresh:
    folder.mkdir(exist_ok=True)
    with fresh("sqlite", folder, None) as made:
        return made


def catalog(end: str, folder: Path) -> dict[str, str]:
    return {f"{end}.catalog.{name}": value for name, value in lake.properties(folder).items()}


def parquet(folder: Path) -> None:
    pq.write_table(rows(), folder / "a.parquet")


def csv(folder: Path) -> None:
    pyarrow.csv.write_csv(rows(), folder / "a.csv")


def jsonl(folder: Path) -> None:
    rows().to_pandas().to_json(folder / "a.jsonl", orient="records", lines=True)


def arrow(folder: Path) -> None:
    ds.write_dataset(rows(), folder, format="arrow")


def orc(folder: Path) -> None:
    pyarrow.orc.write_table(rows(), folder / "a.orc")


def text(folder: Path) -> None:
    (folder / "a.txt").write_text("".join(f"line {i}\n" for i in range(ROWS)))


def binary(folder: Path) -> None:
    for i in range(ROWS):
        (folder / f"{i}.bin").write_bytes(bytes([i]))


def images(folder: Path) -> None:
    for i in range(ROWS):
        Image.new("RGB", (4, 3), (i, 0, 0)).save(folder / f"{i}.png")


def huggingface(folder: Path) -> None:
    Dataset(rows()).save_to_disk(folder)


def sql(folder: Path) -> dict[str, Any]:
    made = database(folder)
    made.load("rides", rows())
    return {"source.uri": made.uri, "source.table": "rides", "source.key": "x"}


def delta(folder: Path) -> None:
    write_deltalake(folder, rows())


def iceberg(folder: Path) -> dict[str, Any]:
    lake.create(folder, rows())
    return {**catalog("source", folder), "source.table": lake.TABLE}


SOURCES: list[Callable[[Path], dict[str, Any] | None]] = [
    parquet, csv, jsonl, arrow, orc, text, binary, images, huggingface, sql, delta, iceberg,
]  # fmt: skip


def into_files(folder: Path) -> tuple[dict[str, Any], Callable[[], int]]:
    return {"sink": "parquet", "sink.path": str(folder)}, lambda: ds.dataset(folder).count_rows()


def into_sql(folder: Path) -> tuple[dict[str, Any], Callable[[], int]]:
    made = database(folder)
    given = {"sink": "sql", "sink.uri": made.uri, "sink.table": "scores"}
    return given, lambda: len(made.rows("SELECT * FROM scores"))


def into_delta(folder: Path) -> tuple[dict[str, Any], Callable[[], int]]:
    given = {"sink": "delta", "sink.path": str(folder)}
    return given, lambda: DeltaTable(folder).to_pyarrow_table().num_rows


def into_iceberg(folder: Path) -> tuple[dict[str, Any], Callable[[], int]]:
    def count() -> int:
        with lake.table(folder, "shop.scores") as table:
            return int(table.scan().to_arrow().num_rows)

    lake.create(folder)  # which makes the catalog
    return {"sink": "iceberg", **catalog("sink", folder), "sink.table": "shop.scores"}, count


@pytest.mark.parametrize("sink", [into_files, into_sql, into_delta, into_iceberg], ids=lambda sink: sink.__name__)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_row_arrives_once(
    source: Callable[[Path], dict[str, Any] | None],
    sink: Callable[[Path], tuple[dict[str, Any], Callable[[], int]]],
    tmp_path: Path,
) -> None:
    there = tmp_path / "in"
    there.mkdir()
    given, count = sink(tmp_path / "out")
    config = {
        "source": source.__name__,
        **(source(there) or {"source.path": str(there)}),
        "model": "custom",
        "model._target_": "predictors.ones",
        "mode": "inline",
        **given,
    }
    assert run(config).rows_out == ROWS
    assert run(config).committed == 0
    assert count() == ROWS
    assert main([*typed(config), "action=verify", "verify.deep=true"]) == 0
