"""A source that must be held open while it is listed and read, as a database's snapshot is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from foreign.sqlite_rows import SqliteRows
from runner.errors import ConfigError
from runner.types import Fragment, Input, Reader


@dataclass(frozen=True)
class Held(SqliteRows):
    """Notes when it is held open, and is read only then."""

    @property
    def _note(self) -> Path:
        return Path(f"{self.path}.open")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        self._note.touch()
        try:
            yield
        finally:
            self._note.unlink()

    def inputs(self) -> list[Input]:
        assert self._note.exists()
        if not self.tables:
            raise ConfigError("source.tables=[]: expected a table")
        return super().inputs()

    def reader(self, schema: pa.Schema) -> Reader:
        return HeldReader(super().reader(schema), self._note)


@dataclass(frozen=True)
class HeldReader:
    within: Reader
    note: Path

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[Any]:
        assert self.note.exists()
        return self.within.read(fragment, columns)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        return self.within.positions(fragment)

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        return self.within.whole_rows(fragment, numbers)
