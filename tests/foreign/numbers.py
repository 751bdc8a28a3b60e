"""A source of whole numbers, which lie nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from runner.types import Fragment, Input, Source


@dataclass(frozen=True)
class Counting:
    """Reads whole numbers, each times `scale`."""

    scale: int

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        yield self.whole_rows(fragment, list(self.positions(fragment))).select(columns or ["x"])

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        return pa.table({"x": [number * self.scale for number in numbers]})

    def positions(self, fragment: Fragment) -> Iterator[int]:
        return iter(range(fragment.first_row, fragment.first_row + (fragment.rows or 0)))


class Numbers(Source):
    """One input of 40 rows in pieces that have no span; tells no settings."""

    def __init__(self, scale: int = 1, apart: bool = True, api_key: str = "") -> None:
        self.scale, self.apart, self.api_key = scale, apart, api_key

    def inputs(self) -> list[Input]:
        return [Input("numbers", 40, "1")]

    def inspect(
        self,
        inputs: Sequence[Input],
        needed: Mapping[str, str] | None = None,
    ) -> tuple[list[Fragment], pa.Schema | None]:
        pieces = range(0, 40, 10)
        fragments = [Fragment(file, 100, 10, first * self.apart) for file in inputs for first in pieces]
        return fragments, pa.schema([("x", pa.int64())])

    def reader(self, schema: pa.Schema) -> Counting:
        return Counting(self.scale)


class Settled(Numbers):
    """Tells by itself what counts."""

    def settings(self) -> Mapping[str, Any]:
        return {"code": "1", "kind": "even" if self.scale % 2 == 0 else "odd"}
