"""The demo's source: taxi rides that are generated on first use, and then read like any other files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner.sources import taxi
from runner.sources.files import Files
from runner.sources.reader import FilesReader
from runner.types import Filters, Fragment, Input, Source

if TYPE_CHECKING:
    import pyarrow as pa


class _Line:
    """A line of progress on stderr: it is overwritten on a terminal, and printed once elsewhere."""

    def __init__(self, ending: str) -> None:
        self._ending, self._said = ending, False

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            last = re.search(r" (\d+)/\1$", text) is not None
            print(f"\r{text} {self._ending}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif not self._said:
            print(f"{text} {self._ending}", file=sys.stderr, flush=True)
        self._said = True


@dataclass(frozen=True)
class Taxi(Source):
    """Twelve monthly files of 2009, with the schema and the row counts of the classic example's data.

    Attributes:
        path: Where the files are kept; `None` is the platform's cache folder, or `RUNNER_CACHE`.
        columns: Only these columns are offered; `None` for all 18.
        filters: As in every source of files.
    """

    piece: ClassVar[str] = Files.piece

    path: str | None = None
    columns: list[str] | None = None
    filters: Filters = None
    allow_empty: bool = False

    @cached_property
    def _files(self) -> Files:
        folder = Path(self.path).expanduser() if self.path else taxi.folder()
        return Files(str(folder), "parquet", self.columns, self.filters)

    @property
    def filtered(self) -> bool:
        """As in every source of files."""
        return self._files.filtered

    def settings(self) -> Mapping[str, Any]:
        """As in every source of files."""
        return self._files.settings()

    def inputs(self) -> list[Input]:
        """List all twelve files; missing ones are generated first."""
        folder = Path(str(self._files.path))
        taxi.ensure(folder, _Line(f"in {folder}, once"))
        return self._files.inputs()

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """As in every source of files."""
        return self._files.inspect(inputs, needed)

    def reader(self, schema: pa.Schema) -> FilesReader:
        """As in every source of files."""
        return self._files.reader(schema)

    def divide(self, fragment: Fragment, most_bytes: int | None, most_rows: int | None) -> list[Fragment]:
        """As in every source of files."""
        return self._files.divide(fragment, most_bytes, most_rows)
