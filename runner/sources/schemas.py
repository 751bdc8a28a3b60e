"""The schema that many files share, found file by file: what is missing, and how files differ."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from runner.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_PROBLEMS = 5
SHOWN_COLUMNS = 30


class Shared:
    """What all files have in common, as they come.

    Attributes:
        problems: Why there is no such schema, for people.
    """

    def __init__(self, needed: Mapping[str, str] | None, *, inferred: bool, keys: bool) -> None:
        """Begin without a file.

        Args:
            needed: Column to the config key that asks for it; `None` for all.
            inferred: Whether types are guessed from values, so that whole numbers may turn out to be fractions.
            keys: Whether a column that a file lacks is null there.
        """
        self.problems: list[str] = []
        self._needed, self._keys = needed, keys
        self._promote = "permissive" if inferred else "default"
        self._remedy = "source.column_types={name: type} fixes a type; " if inferred else ""
        self._schema: pa.Schema | None = None
        self._first = ""
        self._names: dict[str, None] = {}
        self._told: set[str] = set()

    def add(self, path: str, schema: pa.Schema, unusable: Mapping[str, str]) -> None:
        """Take in a file's schema, and why columns of it cannot be used."""
        import pyarrow as pa

        if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            self.problems.append(
                f"source.path: {path} has several columns named {', '.join(map(repr, twice))}; "
                "give each a name of its own, or leave the file out (errors.skip_files)"
            )
            return
        wanted = schema.names if self._needed is None else self._needed
        self.problems += [
            f"source.path: {path}: column {name!r} {why}" for name, why in unusable.items() if name in wanted
        ]
        self._names.update(dict.fromkeys(schema.names))
        if self._needed is not None:
            missing = [name for name in self._needed if name not in schema.names]
            if missing and not self._keys:
                self._tell_missing(missing, self._needed, path, schema.names)
                return
            schema = pa.schema([schema.field(name) for name in self._needed if name not in missing])
        self._merge(path, schema)

    def _merge(self, path: str, schema: pa.Schema) -> None:
        plain = _plain(schema)
        if self._schema is None:
            self._schema, self._first = plain, path
        elif not self._schema.equals(plain):
            merged = _merged(self._schema, plain, self._promote, self._keys)
            if merged is None:
                how = _difference(self._first, self._schema, path, plain)
                self.problems.append(
                    f"source.path: the schemas differ: {how} ({self._remedy}predict.columns can leave columns out)"
                )
            else:
                self._schema = merged

    def _tell_missing(self, missing: list[str], needed: Mapping[str, str], path: str, there: list[str]) -> None:
        self.problems += [_missing(needed[name], name, path, there) for name in missing if name not in self._told]
        self._told.update(missing)

    def expect(self, named: Mapping[str, str]) -> None:
        """Names that keys of the config give to columns: one that no file has is a problem, if any file told its names."""
        if self._names:
            self.problems[:0] = _absent(named, self._first or "the input", list(self._names))

    def result(self) -> pa.Schema | None:
        """The schema, `None` if no file told one.

        Raises:
            ConfigError: The first few problems.
        """
        if self._schema is not None and self._needed is not None and not self.problems:
            return self._in_order(self._schema, self._needed)
        if self.problems:
            raise ConfigError(shortened(self.problems))
        return self._schema

    def _in_order(self, found: pa.Schema, needed: Mapping[str, str]) -> pa.Schema:
        """The needed columns, of which none may be missing in every file."""
        import pyarrow as pa

        if missing := [name for name in needed if name not in found.names]:
            self._tell_missing(missing, needed, self._first, list(self._names))
            raise ConfigError(shortened(self.problems))
        return pa.schema([found.field(name) for name in needed])


def shortened(problems: Sequence[str]) -> list[str]:
    """The first few, and how many more."""
    more = len(problems) - SHOWN_PROBLEMS
    return [*problems[:SHOWN_PROBLEMS], *([f"source.path: {more} more problems like these"] if more > 0 else [])]


def _plain(schema: pa.Schema) -> pa.Schema:
    """Names and types: neither metadata nor whether nulls are announced tells files apart."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, column.type) for column in schema])


def _merged(one: pa.Schema, other: pa.Schema, promote: str, keys: bool) -> pa.Schema | None:
    import pyarrow as pa

    if not keys and set(one.names) != set(other.names):
        return None
    names = list(dict.fromkeys([*one.names, *other.names]))
    kinds = {name: _merged_type(_type(one, name), _type(other, name), promote) for name in names}
    found = {name: kind for name, kind in kinds.items() if kind is not None}
    return pa.schema(found) if len(found) == len(kinds) else None


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    import pyarrow as pa

    return schema.field(name).type if name in schema.names else pa.null()


def _merged_type(one: pa.DataType, other: pa.DataType, promote: str) -> pa.DataType | None:
    """The type that holds both; strings are strings, however they are encoded."""
    import pyarrow as pa

    if one == other:
        return one
    texts = [_text(one), _text(other)]
    if all(texts):
        return pa.large_string() if pa.large_string() in texts else pa.string()
    try:
        pair = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options=promote).field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None


def _text(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _text(kind.value_type)
    if pa.types.is_large_string(kind):
        return kind
    return pa.string() if pa.types.is_string(kind) or pa.types.is_string_view(kind) else None


def refuse_missing(asked: Mapping[str, str], there: Sequence[str]) -> None:
    """Refuse columns that the input has not, asked for by the key of each.

    Raises:
        ConfigError: Naming them, each with the nearest there is.
    """
    if found := _absent(asked, "the input", there):
        raise ConfigError(shortened(found))


def _absent(asked: Mapping[str, str], path: str, there: Sequence[str]) -> list[str]:
    return [_missing(key, name, path, there) for name, key in asked.items() if name not in there]


def _missing(key: str, name: str, path: str, there: Sequence[str]) -> str:
    more = f" and {len(there) - SHOWN_COLUMNS} more" if len(there) > SHOWN_COLUMNS else ""
    has = f"it has {', '.join(there[:SHOWN_COLUMNS])}{more}{_delimited(there)}"
    return f"{key}: there is no column {name!r} in {path}{nearest_column(name, there)}; {has}"


def nearest_column(name: str, there: Sequence[str]) -> str:
    """` (did you mean ...?)`: a name that looks the same, else one that is spelled alike."""
    if same := [each for each in there if _folded(each) == _folded(name)]:
        looks = _looks(same[0]) == _looks(name)
        return f" (did you mean {same[0]!a}, which only looks the same?)" if looks else f" (did you mean {same[0]!r}?)"
    near = get_close_matches(name, there, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _folded(name: str) -> str:
    return _looks(name).casefold()


def _looks(name: str) -> str:
    """One spelling for all that look the same: `ü` may be one character or two, a blank may be any of many."""
    return unicodedata.normalize("NFKC", name).strip()


def _delimited(there: Sequence[str]) -> str:
    """A single column whose name holds what other files are delimited with."""
    found = next((mark for mark in (";", "\t", "|") if len(there) == 1 and mark in there[0]), None)
    return "" if found is None else f"; is it delimited by {found!r}? source.delimiter={found!a}"


def _difference(path: str, schema: pa.Schema, other_path: str, other: pa.Schema) -> str:
    only = [f"{name!r} only in {path}" for name in schema.names if name not in other.names]
    only += [f"{name!r} only in {other_path}" for name in other.names if name not in schema.names]
    kinds = [
        f"{name!r} is {schema.field(name).type} in {path}, {other.field(name).type} in {other_path}"
        for name in schema.names
        if name in other.names and schema.field(name).type != other.field(name).type
    ]
    return "; ".join([*kinds, *only][:SHOWN_PROBLEMS])
