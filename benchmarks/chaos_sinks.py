"""Where the jobs of chaos.py write: a folder, a Delta table, or tables of a PostgreSQL server that is killed as well."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

if TYPE_CHECKING:
    from postgres import PostgresServer


class Place(Protocol):
    """Where a seed's job writes."""

    def arguments(self, name: str) -> list[str]:
        """What is typed for the output of this name: `out`, or `calm` for the undisturbed run."""

    def environment(self) -> Mapping[str, str]:
        """What the job's environment holds besides."""

    def parts(self) -> int:
        """How many parts of `out` are committed."""

    def predicted(self) -> Iterator[int]:
        """The ids of all rows of `out`."""

    def aside(self) -> Iterator[int]:
        """The ids of all rows in its quarantine."""

    def digests(self, name: str) -> dict[str, str]:
        """A digest of each part."""

    def disturb(self) -> str | None:
        """Kill what is the sink's own, and start it again: what was killed, `None` if there is nothing."""


@dataclass(frozen=True)
class InFolder:
    """Files below a folder, by a path of the local disk or taken for a remote storage."""

    folder: Path
    remote: bool

    def arguments(self, name: str) -> list[str]:
        """A path or a URI."""
        path = self.folder / name
        return [f"sink.path=chaos://{path}" if self.remote else f"sink.path={path}"]

    def environment(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def parts(self) -> int:
        """Those that are listed."""
        out = self.folder / "out"
        return sum(name.startswith("part-") for name in os.listdir(out)) if out.exists() else 0  # noqa: PTH208

    def predicted(self) -> Iterator[int]:
        """Of all parts."""
        yield from (row for file in sorted((self.folder / "out").glob("part-*")) for row in _ids(file))

    def aside(self) -> Iterator[int]:
        """Of all quarantine files."""
        yield from (
            row for file in sorted((self.folder / "out/_runner/quarantine").glob("part-*")) for row in _ids(file)
        )

    def digests(self, name: str) -> dict[str, str]:
        """Of the bytes of each file."""
        return {
            part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in (self.folder / name).glob("part-*")
        }

    def disturb(self) -> str | None:
        """A disk is not killed."""
        return None


@dataclass(frozen=True)
class InDelta:
    """A Delta table on the local disk. What readers see of it is read from its log."""

    folder: Path

    def arguments(self, name: str) -> list[str]:
        """A path."""
        return ["sink=delta", f"sink.path={self.folder / name}"]

    def environment(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def parts(self) -> int:
        """Those that are listed, whether or not a commit has shown them."""
        out = self.folder / "out/predictions"
        return sum(name.startswith("part-") for name in os.listdir(out)) if out.exists() else 0  # noqa: PTH208

    def predicted(self) -> Iterator[int]:
        """Of the newest version."""
        import delta_log

        yield from (row["id"] for row in delta_log.rows(self.folder / "out"))

    def aside(self) -> Iterator[int]:
        """Of all quarantine files."""
        yield from (
            row for file in sorted((self.folder / "out/_runner/quarantine").glob("part-*")) for row in _ids(file)
        )

    def digests(self, name: str) -> dict[str, str]:
        """Of the bytes of each file of the newest version."""
        import delta_log

        files = delta_log.version(self.folder / name).files
        return {path: hashlib.sha256((self.folder / name / path).read_bytes()).hexdigest() for path in files}

    def disturb(self) -> str | None:
        """A disk is not killed."""
        return None


@dataclass(frozen=True)
class InPostgres:
    """Two tables of a database of its own."""

    server: PostgresServer
    database: str

    def __post_init__(self) -> None:
        """Create the database, which no transaction may do."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.server.uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {self.database}")

    def arguments(self, name: str) -> list[str]:
        """The password comes from the environment."""
        return ["sink=sql", "sink.uri=${oc.env:CHAOS_URI}", f"sink.table={name}"]

    def environment(self) -> Mapping[str, str]:
        """The URI with the password."""
        return {"CHAOS_URI": self.server.uri_of(self.database)}

    def _rows(self, query: str) -> list[Any]:
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.server.uri_of(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def parts(self) -> int:
        """Those with a mark; 0 while the server does not answer. Asked too often, the server would do nothing else."""
        time.sleep(0.1)
        with contextlib.suppress(Exception):
            return int(self._rows("SELECT count(*) FROM _runner_parts WHERE target = 'out'")[0][0])
        return 0

    def predicted(self) -> Iterator[int]:
        """Of the table."""
        yield from (row for (row,) in self._rows("SELECT id FROM out"))

    def aside(self) -> Iterator[int]:
        """Of the quarantine files among the records."""
        query = "SELECT content FROM _runner_records WHERE target = 'out' AND name LIKE '_runner/quarantine/%'"
        yield from (row for (content,) in self._rows(query) for row in _ids(io.BytesIO(content)))

    def digests(self, name: str) -> dict[str, str]:
        """Of the rows of each part, and of its mark."""
        query = (
            f"SELECT p.shard, md5(string_agg(t.id || ' ' || t.thrice, ',' ORDER BY t.id)) || p.checksum || p.row_count "
            f"FROM _runner_parts p LEFT JOIN {name} t ON t._part = p.part WHERE p.target = '{name}' "
            "GROUP BY p.shard, p.checksum, p.row_count"
        )
        return dict(self._rows(query))

    def disturb(self) -> str | None:
        """The server with all its processes, which is down for a moment."""
        self.server.stop(signal.SIGKILL)
        time.sleep(random.uniform(0, 1.5))
        self.server.start()
        return "server"


def _ids(file: Any) -> list[int]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        found: list[int] = parquet.read(columns=["id"])["id"].to_pylist()
    return found
