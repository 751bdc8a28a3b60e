"""Kinds that forget a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from runner.types import Fragment, Input, Source


class NoReader(Source):
    """Nothing to read with."""

    def inputs(self) -> list[Input]:
        """Nothing."""
        return []

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Nothing."""
        return [], None
