"""A checksum of rows that does not depend on their order: what a database holds can be compared with what was given to it.

A file has bytes to hash. A table has rows, which a database returns in any order and in batches of its own. So each row gets a hash of its
values, and the checksum is the sum of these. All of it is arithmetic on whole NumPy arrays, since it runs over every row that is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runner.types import Written

if TYPE_CHECKING:
    import pyarrow as pa

GOLDEN = 0x9E3779B97F4A7C15  # an odd number whose bits look random; the other numbers, too
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
NULL = 0x6A09E667F3BCC909
OTHER = 0xBB67AE8584CAA73B
BASE = 0x5851F42D4C957F2D  # odd, so that it has an inverse among the numbers of 64 bits
WORD = 2**64
BLOCK = 2**18  # elements of lists and bytes of texts that are hashed at once, which the processor's cache holds


class RowSum:
    """The number of rows that were added, their size, and the sum of their hashes.

    The hash of a row depends on the values and on the order of the columns, and neither on the width of a number nor on the names.

    Attributes:
        rows: How many.
        bytes: 8 for each number, and the length of texts.
    """

    def __init__(self) -> None:
        """No row was added yet."""
        self.rows = self.bytes = 0
        self._low = self._high = 0

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table, whose columns must have the same meaning each time."""
        for batch in table.to_batches():
            self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        import numpy as np

        total = np.zeros(batch.num_rows, np.uint64)
        for i, column in enumerate(batch.columns):
            total += _mixed(_hashes(column) + np.uint64(GOLDEN * (i + 1) % WORD))
            self.bytes += _size(column)
        low = _mixed(total)
        self._low = (self._low + int(low.sum(dtype=np.uint64))) % WORD
        self._high = (self._high + int(_mixed(low ^ np.uint64(OTHER)).sum(dtype=np.uint64))) % WORD
        self.rows += batch.num_rows

    def written(self) -> Written:
        """What was added."""
        return Written(self.bytes, f"rows:{self._high:016x}{self._low:016x}", self.rows)


def _mixed(numbers: Any) -> Any:
    """Numbers of which every bit depends on every bit of those given: the last step of the generator SplitMix64."""
    import numpy as np

    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(FIRST)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(SECOND)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _size(array: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(array.type):
        return (
            sum(_size(each) for each in array.flatten()) if pa.types.is_struct(array.type) else _size(array.flatten())
        )
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        return int(pc.sum(pc.binary_length(array)).as_py() or 0)
    return 8 * len(array)


def _hashes(array: pa.Array) -> Any:
    """A number of 64 bits for each value; nulls of all types have the same one."""
    import numpy as np

    found = _hashes_of_values(array)
    if array.null_count:
        found = np.where(array.is_null().to_numpy(zero_copy_only=False), np.uint64(NULL), found)
    return found


def _hashes_of_values(array: pa.Array) -> Any:
    """As `_hashes`; what it gives for a null means nothing."""
    import numpy as np
    import pyarrow as pa

    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.uint64)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
        return _of_sequences(np.frombuffer(array.buffers()[2] or b"", np.uint8), offsets.astype(np.int64))
    if pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
    if pa.types.is_list(array.type):
        return _of_sequences(_hashes(array.values), array.offsets.to_numpy().astype(np.int64))
    if pa.types.is_struct(kind):
        fields = (_mixed(_hashes(each) + np.uint64(GOLDEN * (i + 1) % WORD)) for i, each in enumerate(array.flatten()))
        return sum(fields, np.zeros(len(array), np.uint64))
    if pa.types.is_decimal128(kind):
        words = np.frombuffer(array.buffers()[1], np.uint64)[2 * array.offset : 2 * (array.offset + len(array))]
        return words[::2] + _mixed(words[1::2] ^ np.uint64(OTHER))
    return _numbers(array)


def _numbers(array: pa.Array) -> Any:
    """Whole numbers, times and truth values as they are; fractions by their bits, where -0.0 is 0.0 and every NaN is the same."""
    import numpy as np
    import pyarrow as pa

    kind = array.type
    if pa.types.is_floating(kind):
        values = array.cast(pa.float64()).fill_null(0.0).to_numpy() + 0.0
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    values = array.fill_null(0).to_numpy()
    return values.astype(np.int64).view(np.uint64) if values.dtype != np.uint64 else values


# A sequence (the bytes of a text, the hashes of a list's elements) is hashed as a polynomial in BASE. Its value for all sequences of an
# array at once is a difference of two running sums over all elements, divided by the power of BASE at which the sequence begins. The
# plain way, a hash function called for each text, takes ten times as long as all else that is done with a row. It would break if BASE
# were even: then its powers would have no inverse, and soon be 0.


def _of_sequences(elements: Any, offsets: Any) -> Any:
    import numpy as np

    found = [_of_block(elements, offsets[first : last + 1]) for first, last in _blocks(offsets)]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _blocks(offsets: Any) -> Iterator[tuple[int, int]]:
    """Ranges of sequences with about `BLOCK` elements each, and at least one sequence."""
    import numpy as np

    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + BLOCK, "right")) - 1
        yield first, (first := max(first + 1, min(last, count)))


def _of_block(elements: Any, offsets: Any) -> Any:
    import numpy as np

    begin, end = offsets[:-1] - offsets[0], offsets[1:] - offsets[0]
    powers, inverses = _powers(int(end[-1]) + 1)
    sums = np.zeros(int(end[-1]) + 1, np.uint64)
    values = elements[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)  # so that a zero counts, too
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    lengths = (end - begin).astype(np.uint64)
    return (sums[end] - sums[begin]) * inverses[begin] + lengths * np.uint64(GOLDEN)


_computed: list[tuple[Any, Any]] = []


def _powers(count: int) -> tuple[Any, Any]:
    """The first powers of BASE, and of its inverse. Those for a block are computed once in a process."""
    if not _computed:
        _computed.append((_powers_of(BASE, BLOCK + 1), _powers_of(pow(BASE, -1, WORD), BLOCK + 1)))
    if count <= BLOCK + 1:
        return _computed[0]
    return _powers_of(BASE, count), _powers_of(pow(BASE, -1, WORD), count)


def _powers_of(base: int, count: int) -> Any:
    import numpy as np

    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
