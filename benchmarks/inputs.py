"""The input of each workload: a few files that are made once, and links to them in any number."""

from __future__ import annotations

import ast
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Originals = Callable[[Path, int], Sequence[Path]]
"""From a folder for new files, and how many files are wanted, to files that an input of so many is put together from."""

LINKS_PER_FILE = 100  # file systems bound how many names a file may have


def fill(folder: Path, originals: Sequence[Path], files: int) -> int:
    """Fill a new folder with so many files, each a link to, or a copy of, one of the originals.

    Returns:
        Their rows.
    """
    folder.mkdir()
    rows = [rows_of(file) for file in originals]
    for number in range(files):
        _link(originals[number % len(originals)], folder / f"{number:06}.parquet")
    return sum(rows[number % len(rows)] for number in range(files))


def rides(_folder: Path, files: int) -> Sequence[Path]:
    """The demo's files: a month of taxi rides each, about 140,000 rows; which lie in its cache."""
    from runner.sources import taxi

    taxi.ensure(taxi.folder(), print)
    return sorted(taxi.folder().glob("*.parquet"))[:files]


def few_rides(rows: int) -> Originals:
    """Files of so many rides each."""

    def make(folder: Path, files: int) -> Sequence[Path]:
        january = pq.read_table(rides(folder, 1)[0])
        count = -(-files // LINKS_PER_FILE)
        return [_write(january.slice(number * rows, rows), folder, number) for number in range(max(count, 12))]

    return make


def texts(rows: int) -> Originals:
    """Files of so many texts each: the first paragraphs of the documentation strings of Python's standard library."""

    def make(folder: Path, files: int) -> Sequence[Path]:
        table = pa.table({"text": list(_paragraphs())})
        count = min(files, table.num_rows // rows)
        return [_write(table.slice(number * rows, rows), folder, number) for number in range(count)]

    return make


def rows_of(file: Path) -> int:
    """As its footer says."""
    return int(pq.read_metadata(file).num_rows)


def _paragraphs() -> Iterator[str]:
    """First paragraphs of every module, class and function, in order."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield text.partition("\n\n")[0]


def _write(table: pa.Table, folder: Path, number: int) -> Path:
    file = folder / f"original-{number}.parquet"
    pq.write_table(table, file)
    return file


def _link(file: Path, name: Path) -> None:
    """A hard link, or a copy where the two lie on different file systems."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)
