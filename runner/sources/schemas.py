"""Merges the schemas of many files into one, and says which columns are missing and how files differ."""

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


class SharedSchema:
    """The one schema of many files, merged file by file.

    Attributes:
        problems: Why the files have no common schema, each a message for people.
    """

    def __init__(self, needed: Mapping[str, str] | None, *, inferred: bool, keys: bool) -> None:
        """Begin without a file.

        Args:
            needed: Column to the config key that asks for it; `None` for all columns.
            inferred: Whether the types were inferred from values. Whole numbers of one file may then be fractions in another.
            keys: Whether a file may lack columns, which are null there, as in JSON.
        """
        self.problems: list[str] = []
        self._needed, self._keys = needed, keys
        self._promote = "permissive" if inferred else "default"
        self._schema: pa.Schema | None = None
        self._first = ""
        self._all_names: dict[str, None] = {}
        self._reported: set[str] = set()

    def add(self, path: str, schema: pa.Schema, unusable: Mapping[str, str]) -> None:
        """Merge a file's schema.

        Args:
            path: The file, for messages.
            schema: Its schema.
            unusable: Columns of it that cannot be used, each with the reason.
        """
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
        self._all_names.update(dict.fromkeys(schema.names))
        if self._needed is not None:
            missing = [name for name in self._needed if name not in schema.names]
            if missing and not self._keys:
                self._add_missing(missing, self._needed, path, schema.names)
                return
            schema = pa.schema([schema.field(name) for name in self._needed if name not in missing])
        self._merge(path, schema)

    def _merge(self, path: str, schema: pa.Schema) -> None:
        plain = _without_metadata(schema)
        if self._schema is None:
            self._schema, self._first = plain, path
        elif not self._schema.equals(plain):
            merged = _merged(self._schema, plain, self._promote, self._keys)
            if merged is None:
                how = _difference(self._first, self._schema, path, plain)
                remedy = _casting_remedy(self._schema, plain)
                self.problems.append(
                    f"source.path: the schemas differ: {how} ({remedy}predict.columns can leave columns out)"
                )
            else:
                self._schema = merged

    def _add_missing(self, missing: list[str], needed: Mapping[str, str], path: str, there: list[str]) -> None:
        self.problems += [
            _missing_problem(needed[name], name, path, there) for name in missing if name not in self._reported
        ]
        self._reported.update(missing)

    def expect(self, named: Mapping[str, str]) -> None:
        """Add a problem for each column that no file has, if the columns of any file are known.

        Args:
            named: Column to the config key that names it.
        """
        if self._all_names:
            self.problems[:0] = _missing_problems(named, self._first or "the input", list(self._all_names))

    def result(self) -> pa.Schema | None:
        """Return the merged schema, `None` if no file has one.

        Raises:
            ConfigError: There are problems; the first few are in the message.
        """
        if self._schema is not None and self._needed is not None and not self.problems:
            return self._ordered(self._schema, self._needed)
        if self.problems:
            raise ConfigError(first_problems(self.problems))
        return self._schema

    def _ordered(self, found: pa.Schema, needed: Mapping[str, str]) -> pa.Schema:
        """Return the needed columns in order; it is an error if one is missing in every file."""
        import pyarrow as pa

        if missing := [name for name in needed if name not in found.names]:
            self._add_missing(missing, needed, self._first, list(self._all_names))
            raise ConfigError(first_problems(self.problems))
        return pa.schema([found.field(name) for name in needed])


def first_problems(problems: Sequence[str]) -> list[str]:
    """Return the first few problems, and one line that says how many more there are."""
    more = len(problems) - SHOWN_PROBLEMS
    return [*problems[:SHOWN_PROBLEMS], *([f"source.path: {more} more problems like these"] if more > 0 else [])]


def _without_metadata(schema: pa.Schema) -> pa.Schema:
    """Return only names and types: files may differ in metadata, and in whether a column is declared as nullable."""
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
    """Return a type that holds the values of both, `None` if there is none; strings match in whatever encoding."""
    import pyarrow as pa

    if one == other:
        return one
    texts = [_text_type(one), _text_type(other)]
    if all(texts):
        return pa.large_string() if pa.large_string() in texts else pa.string()
    try:
        pair = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options=promote).field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None


def _casting_remedy(one: pa.Schema, other: pa.Schema) -> str:
    """Return for a message which `source.column_types` reads the columns of both as one type."""
    pairs = {name: (one.field(name).type, other.field(name).type) for name in one.names if name in other.names}
    wanted = {
        name: _merged_type(*kinds, "permissive") or "string" for name, kinds in pairs.items() if kinds[0] != kinds[1]
    }
    spelled = ", ".join(f"{name}: {kind}" for name, kind in wanted.items())
    return (
        f"source.column_types={{{spelled}}} casts them, and refuses or puts aside what does not fit; " if wanted else ""
    )


def _text_type(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _text_type(kind.value_type)
    if pa.types.is_large_string(kind):
        return kind
    return pa.string() if pa.types.is_string(kind) or pa.types.is_string_view(kind) else None


def refuse_missing(asked: Mapping[str, str], there: Sequence[str]) -> None:
    """Raise an error if a column that a config key asks for is not in the input.

    Args:
        asked: Column to the key that asks for it.
        there: Columns of the input.

    Raises:
        ConfigError: Columns are missing; the message names each with the most similar one that exists.
    """
    if found := _missing_problems(asked, "the input", there):
        raise ConfigError(first_problems(found))


def _missing_problems(asked: Mapping[str, str], path: str, there: Sequence[str]) -> list[str]:
    return [_missing_problem(key, name, path, there) for name, key in asked.items() if name not in there]


def _missing_problem(key: str, name: str, path: str, there: Sequence[str]) -> str:
    more = f" and {len(there) - SHOWN_COLUMNS} more" if len(there) > SHOWN_COLUMNS else ""
    has = f"it has {', '.join(there[:SHOWN_COLUMNS])}{more}{_delimiter_hint(there)}"
    return f"{key}: there is no column {name!r} in {path}{nearest_column(name, there)}; {has}"


def nearest_column(name: str, there: Sequence[str]) -> str:
    """Return ` (did you mean ...?)` with a name that looks the same, else with one that is spelled alike; `""` if there is none."""
    if same := [each for each in there if _case_folded(each) == _case_folded(name)]:
        looks = _normalized(same[0]) == _normalized(name)
        return f" (did you mean {same[0]!a}, which only looks the same?)" if looks else f" (did you mean {same[0]!r}?)"
    near = get_close_matches(name, there, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _case_folded(name: str) -> str:
    return _normalized(name).casefold()


def _normalized(name: str) -> str:
    """Return one spelling for all names that look the same: `ü` may be one character or two, and there are many kinds of blanks."""
    return unicodedata.normalize("NFKC", name).strip()


def _delimiter_hint(there: Sequence[str]) -> str:
    """Return a question for a message if there is a single column, whose name contains another usual delimiter."""
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
