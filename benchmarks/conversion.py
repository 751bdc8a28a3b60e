"""What it costs to make a batch what the model wants, by `predict.input`: nanoseconds per value, and whether it is a copy.

python benchmarks/conversion.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from models._columns import matrix
from runner.arrow.batches import to_input
from runner.types import BatchKind

COLUMNS = 12


def batches(rows: int) -> dict[str, pa.Table]:
    """The same numbers in several shapes."""
    numbers = np.random.default_rng(0).random((COLUMNS, rows))
    names = [f"c{i}" for i in range(COLUMNS)]
    plain = pa.table(list(numbers), names=names)
    half = rows // 2
    return {
        "doubles": plain,
        "doubles, in two pieces": pa.concat_tables([plain.slice(0, half), plain.slice(half)]),
        "floats": plain.cast(pa.schema([(name, pa.float32()) for name in names])),
        "integers": pa.table([(column * 1e6).astype("int64") for column in numbers], names=names),
        "doubles, a null in each column": pa.table([pa.array([None, *column[1:]]) for column in numbers], names=names),
        f"vectors of {COLUMNS} floats": pa.table(
            {"v": pa.FixedSizeListArray.from_arrays(pa.array(numbers.T.reshape(-1).astype("float32")), COLUMNS)}
        ),
    }


def conversions() -> Iterator[tuple[str, Callable[[pa.Table], Any]]]:
    """Each input kind, and one float matrix of all columns, as `model=torch` and `model=sklearn` make it."""
    for kind in get_args(BatchKind):
        yield f"predict.input={kind}", lambda table, kind=kind: to_input(table, kind)
    for kind in get_args(BatchKind):
        yield (
            f"one float32 matrix, from {kind}",
            lambda table, kind=kind: matrix(to_input(table, kind), table.column_names, "float32"),
        )


def seconds(act: Callable[[], object], repeat: int) -> float:
    """The median of several times."""
    found = []
    for _ in range(repeat):
        started = time.perf_counter()
        act()
        found.append(time.perf_counter() - started)
    return median(found)


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--repeat", type=int, default=31)
    given = parser.parse_args()
    made = batches(given.rows)
    print(f"| {COLUMNS} columns, {given.rows:,} rows: nanoseconds per value | {' | '.join(made)} |")
    print(f"|---|{'---:|' * len(made)}")
    for title, convert in conversions():
        cells = []
        for name, table in made.items():
            if name.startswith("vectors") and "matrix" in title:
                cells.append("-")
                continue
            taken = seconds(lambda table=table, convert=convert: convert(table), given.repeat)
            cells.append(f"{taken * 1e9 / given.rows / COLUMNS:.2f}")
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
