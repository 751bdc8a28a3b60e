"""Real Iceberg tables for tests: a catalog in an SQLite file, and what other engines do to a table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TABLE = "shop.orders"


def properties(folder: Path) -> dict[str, str]:
    """What opens the catalog of a folder."""
    return {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "warehouse")}


@contextlib.contextmanager
def catalog(folder: Path) -> Iterator[Any]:
    """The catalog of a folder. It is created if it is not there."""
    from pyiceberg.catalog import load_catalog

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(load_catalog("default", **properties(folder))) as opened:
        yield opened


def rows(first: int, count: int) -> pa.Table:
    """Rows of orders."""
    numbers = range(first, first + count)
    columns = [pa.array(numbers, pa.int64()), pa.array([f"row {i}" for i in numbers], pa.string())]
    return pa.table(columns, names=["x", "name"])


def create(folder: Path, *tables: pa.Table, name: str = TABLE, **more: Any) -> None:
    """Create a table of these rows: each Arrow table is one data file, and one snapshot."""
    with catalog(folder) as opened:
        opened.create_namespace_if_not_exists(name.split(".")[0])
        opened.create_table(name, schema=(tables or (rows(0, 0),))[0].schema, **more)
    append(folder, *tables, name=name)


def append(folder: Path, *tables: pa.Table, name: str = TABLE) -> None:
    """Append each Arrow table as a snapshot."""
    with table(folder, name) as there:
        for each in tables:
            there.append(each)


@contextlib.contextmanager
def table(folder: Path, name: str = TABLE) -> Iterator[Any]:
    """A table, while its catalog is open."""
    with catalog(folder) as opened:
        yield opened.load_table(name)


def replace_files(folder: Path, name: str = TABLE) -> None:
    """Write all data files anew as one, as a compaction does: a snapshot that replaces files and changes no row."""
    from pyiceberg.io.pyarrow import _dataframe_to_data_files
    from pyiceberg.table.snapshots import Operation
    from pyiceberg.table.update.snapshot import _OverwriteFiles

    class Replace(_OverwriteFiles):  # type: ignore[misc]
        def _summary(self, *arguments: Any) -> Any:
            return super()._summary(*arguments).model_copy(update={"operation": Operation.REPLACE})

    with table(folder, name) as there:
        whole = there.scan().to_arrow()
        with there.transaction() as transaction:
            update = Replace(Operation.OVERWRITE, transaction, there.io)
            for task in there.scan().plan_files():
                update.delete_data_file(task.file)
            files = _dataframe_to_data_files(there.metadata, whole, there.io, write_uuid=update.commit_uuid)
            for file in files:
                update.append_data_file(file)
            update.commit()


def delete_rows(folder: Path, positions: Mapping[str, Sequence[int]], name: str = TABLE) -> None:
    """Commit a file of positional deletes, as Spark does with `merge-on-read`: pyiceberg reads such files, and cannot write them."""
    from pyiceberg.manifest import DataFileContent

    ids = {"file_path": (2147483546, pa.string()), "pos": (2147483545, pa.int64())}
    fields = [
        pa.field(column, kind, nullable=False, metadata={"PARQUET:field_id": str(number)})
        for column, (number, kind) in ids.items()
    ]
    pairs = sorted((path, number) for path, numbers in positions.items() for number in numbers)
    columns = [[path for path, _ in pairs], [number for _, number in pairs]]
    _commit_deletes(folder, name, pa.table(columns, schema=pa.schema(fields)), DataFileContent.POSITION_DELETES)


def delete_equal(folder: Path, values: pa.Table, field_id: int, name: str = TABLE) -> None:
    """Commit a file of equality deletes, as Flink does."""
    from pyiceberg.manifest import DataFileContent

    _commit_deletes(folder, name, values, DataFileContent.EQUALITY_DELETES, equality_ids=[field_id])


def _commit_deletes(folder: Path, name: str, written: pa.Table, content: Any, **more: Any) -> None:
    from pyiceberg.manifest import (
        DataFile,
        FileFormat,
        ManifestContent,
        ManifestEntry,
        ManifestEntryStatus,
        ManifestWriterV2,
    )
    from pyiceberg.table.snapshots import Operation
    from pyiceberg.table.update.snapshot import _FastAppendFiles
    from pyiceberg.typedef import Record

    class Writer(ManifestWriterV2):  # type: ignore[misc]
        def content(self) -> Any:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    class Deletes(_FastAppendFiles):  # type: ignore[misc]
        def _existing_manifests(self) -> list[Any]:
            arguments = self.spec(0), self.schema(), self.new_manifest_output(), self._snapshot_id, "gzip"
            with Writer(*arguments) as writer:
                added = {"status": ManifestEntryStatus.ADDED, "snapshot_id": self._snapshot_id}
                writer.add(ManifestEntry.from_args(**added, data_file=file))
            return [*super()._existing_manifests(), writer.to_manifest_file()]

    with table(folder, name) as there:
        path = f"{there.location()}/data/deletes-{there.metadata.last_sequence_number}.parquet"
        pq.write_table(written, path)
        file = DataFile.from_args(
            content=content, file_path=path, file_format=FileFormat.PARQUET, partition=Record(), spec_id=0,
            record_count=written.num_rows, file_size_in_bytes=Path(path).stat().st_size, **more,
        )  # fmt: skip
        with there.transaction() as transaction:
            Deletes(Operation.DELETE, transaction, there.io).commit()
