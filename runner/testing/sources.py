"""What a source promises, as a check."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from runner.types import (
    Fragment,
    Input,
    Reader,
    Source,
)

if TYPE_CHECKING:
    import pyarrow as pa

from runner.testing.plain_data import holds_plain


def check_source(source: Source) -> None:
    """Hold a source against what runs rely on. All that it offers is read several times: give it a little data, in two inputs or more.

    Args:
        source: Of at least one input with rows. It must not be a tolerant one.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Source` or `runner.types.Reader`.
    """
    holds_plain("settings()", source.settings() or {})
    assert source.settings() == source.settings(), "settings() must return the same each time"
    with source.reading():
        inputs = source.inputs()
        _check_inputs(source, inputs)
        fragments, schema = source.inspect(inputs)
        _check_fragments(inputs, fragments)
        assert schema is not None, "inspect() must tell a schema where there are rows"
        assert fragments[1:] == [] or _alone(source, inputs) == fragments, (
            "inspect() of one input must give the fragments that inspect() of all inputs gives for it: a later run sees new inputs alone"
        )
        reader = source.reader(schema)
        rows = [_check_reader(reader, fragment, schema, source) for fragment in fragments]
        _check_places(reader, fragments)
        assert sum(rows), "there is no row to check with: give the source some data"
        _check_joined(reader, fragments, schema)
        for fragment in fragments:
            _check_divided(source, reader, fragment, schema)
        _check_travelled(reader, fragments, schema)


def _check_inputs(source: Source, inputs: Sequence[Input]) -> None:
    assert inputs, "inputs() must list something for this check"
    names = [each.name for each in inputs]
    assert len(set(names)) == len(names), f"inputs() must give each input another name: {names}"
    assert source.inputs() == inputs, "inputs() must list the same, in the same order, while nothing changes"
    assert all(each.version for each in inputs), "each input needs a version that changes when its content does"


def _check_fragments(inputs: Sequence[Input], fragments: Sequence[Fragment]) -> None:
    order = [each.name for each in inputs]
    given = [name for name, _ in groupby(each.input.name for each in fragments)]
    assert given == [name for name in order if name in given], (
        "inspect() must give fragments in the order of the inputs"
    )
    for each in fragments:
        holds_plain("a fragment's span", None if each.span is None else list(each.span))
        assert each.bytes >= 0, f"a fragment's bytes balance the shards: {each}"
    told_by = [(each.input.name, each.span, None if each.span else each.first_row) for each in fragments]
    assert len(set(told_by)) == len(told_by), (
        "the fragments of an input must differ in span, or in first_row where they have none"
    )
    for each in fragments:
        ends = (each.span or ())[-2:]
        assert not each.joinable or list(map(type, ends)) == [int, int], (
            f"a joinable fragment has a span (begin, end), which may have a text before it: {each}"
        )


def _alone(source: Source, inputs: Sequence[Input]) -> list[Fragment]:
    return [fragment for each in inputs for fragment in source.inspect([each])[0]]


def _check_reader(reader: Reader, fragment: Fragment, schema: pa.Schema, source: Source) -> int:
    """Rows of the fragment."""
    tables = _tables(reader, fragment)
    for table in tables:
        assert table.schema.equals(schema), (
            f"read() must give the columns, types and order of the reader's schema: {table.schema} is not {schema}"
        )
    read = _joined(tables, schema)
    assert source.filtered or fragment.rows in (None, read.num_rows), (
        f"the fragment tells {fragment.rows} rows and has {read.num_rows}; `filtered` must say if rows are left out"
    )
    assert _joined(_tables(reader, fragment), schema).equals(read), "read() must give the same rows each time"
    _check_columns(reader, fragment, read)
    _check_numbers(reader, fragment, read)
    return int(read.num_rows)


def _check_columns(reader: Reader, fragment: Fragment, read: pa.Table) -> None:
    wanted = read.column_names[::-1]
    for columns in (wanted, wanted[:1]):
        some, broken = (
            _tables(reader, fragment, columns),
            f"read(columns={columns}) must give these columns, in this order",
        )
        assert all(table.column_names == columns for table in some), broken
        assert _joined(some, read.select(columns).schema).equals(read.select(columns)), broken


def _check_numbers(reader: Reader, fragment: Fragment, read: pa.Table) -> None:
    """A bad row is found again by its number within the input."""
    numbers = list(reader.positions(fragment))
    assert len(numbers) == read.num_rows, "positions() must give a number for each row that read() yields"
    assert all(a < b for a, b in pairwise(numbers)), f"positions() must ascend: {numbers[:10]}"
    if not numbers:
        return
    ends = [0, len(numbers) - 1] if len(numbers) > 1 else [0]
    found = reader.whole_rows(fragment, [numbers[i] for i in ends])
    left_out = getattr(reader, "left_out", ())
    shared = [name for name in read.column_names if name in found.column_names]
    assert shared == [name for name in read.column_names if name not in left_out], (
        f"whole_rows() must have every column of read(): {found.column_names}"
    )
    assert found.select(shared).to_pylist() == read.select(shared).take(ends).to_pylist(), (
        "whole_rows() must give the rows of these numbers"
    )


def _check_places(reader: Reader, fragments: Sequence[Fragment]) -> None:
    """Messages and quarantine files name a row by its number, so no two rows of an input may have the same."""
    for name, group in groupby(fragments, key=lambda fragment: fragment.input.name):
        numbers = [number for fragment in group for number in reader.positions(fragment)]
        assert all(a < b for a, b in pairwise(numbers)), (
            f"positions() must number the rows within their input, not within their fragment: those of {name} do not ascend"
        )


def _check_joined(reader: Reader, fragments: Sequence[Fragment], schema: pa.Schema) -> None:
    for first, second in pairwise(fragments):
        if not (first.joinable and second.joinable and first.input == second.input and first.span and second.span):
            continue
        if (*first.span[:-2], first.span[-1]) != second.span[:-1]:
            continue
        both = (*first.span[:-1], second.span[-1])
        one = replace(first, bytes=first.bytes + second.bytes, rows=None, span=both)
        apart = [*_tables(reader, first), *_tables(reader, second)]
        assert _joined(_tables(reader, one), schema).equals(_joined(apart, schema)), (
            f"joinable fragments must read the same when they are one: {first.span} and {second.span}"
        )


def _check_divided(source: Source, reader: Reader, fragment: Fragment, schema: pa.Schema) -> None:
    rows = fragment.probable_rows
    pieces = source.divide(fragment, max(1, fragment.bytes // 3), rows and max(1, rows // 3))
    _check_fragments([fragment.input], pieces)
    _check_joined(reader, pieces, schema)
    read = [table for piece in pieces for table in _tables(reader, piece)]
    assert _joined(read, schema).equals(_joined(_tables(reader, fragment), schema)), (
        f"divide() must give pieces that hold the fragment's rows, in its order: {fragment}"
    )
    numbers = [number for piece in pieces for number in reader.positions(piece)]
    assert numbers == list(reader.positions(fragment)), f"divide() must not change the numbers of rows: {fragment}"
    for piece in pieces:
        _check_reader(reader, piece, schema, source)


def _check_travelled(reader: Reader, fragments: Sequence[Fragment], schema: pa.Schema) -> None:
    """A reader goes to workers, and reads several fragments at once there."""
    try:
        there: Reader = pickle.loads(pickle.dumps(reader))
    except Exception as error:
        raise AssertionError(f"the reader must be picklable, since it travels to the workers: {error!r}") from error
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda fragment: _joined(_tables(there, fragment), schema), fragments))
    for fragment, table in zip(fragments, found, strict=True):
        assert table.equals(_joined(_tables(reader, fragment), schema)), (
            "a reader that has travelled must read the same, also in several threads at once"
        )


def _tables(reader: Reader, fragment: Fragment, columns: Sequence[str] | None = None) -> list[pa.Table]:
    def sound() -> Iterator[pa.Table]:
        for table in reader.read(fragment, columns):
            assert hasattr(table, "schema"), f"only a tolerant source yields unreadable rows: {table}"
            yield table

    return list(sound())


def _joined(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([table.cast(schema) for table in tables] or [schema.empty_table()]).combine_chunks()
