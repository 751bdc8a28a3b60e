"""Reads files of any kind, each as one row: its path and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner.sources.formats import FileContents, Items
from runner.sources.opening import read_whole
from runner.types import Fragment, Input

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Binary:
    """Reads a file as one row: `path`, and in `bytes` the content as it is stored, also where it is compressed."""

    left_out: ClassVar[tuple[str, ...]] = ("bytes",)  # of a row that is put aside, whose file stays where it is

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:  # noqa: ARG002
        """Return one row. Nothing is read, since there may be very many files."""
        import pyarrow as pa

        return FileContents(
            [Fragment(file, file.size, 1)], pa.schema([("path", pa.string()), ("bytes", pa.large_binary())])
        )

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Read the file, unless only its path is asked for."""
        import pyarrow as pa

        columns: dict[str, Any] = {"path": pa.array([fragment.input.name])}
        if "bytes" in schema.names:
            columns["bytes"] = pa.array([read_whole(fragment.input, options)], pa.large_binary())
        yield 0, pa.table(columns)
