"""The columns of a model compared with those of the data: a difference is reported once, as what it is, and not as the fault of a row."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from difflib import get_close_matches

WIDTH = 78
SHOWN = 8
SURE = re.compile(
    r"^X has \d+ features|feature names (should|seen|unseen)|feature_names mismatch|number of features in data", re.I
)
MAYBE = re.compile(
    r"not in index|are in the \[columns\]|'(DataFrame|Table)' object has no attribute|feature.?name", re.I
)
TYPEABLE = re.compile(r"[\w./ -]+")


class WrongColumns(ValueError):
    """The model wants columns that the batch does not have."""


def compared(wanted: Sequence[str], given: Sequence[str]) -> str:
    """A text that says which columns are missing, which are there instead, and how to give them the names that the model wants."""
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    pairs = {near: name for name in reversed(missing) if (near := _nearest(name, extra))}
    lines = [
        "the model's columns are not those of the data",
        *_listed("missing", missing),
        *_listed("extra", extra),
        *_delimiter(given),
        *_remedy(pairs),
    ]
    return "\n".join(lines)


def _nearest(name: str, there: Sequence[str]) -> str | None:
    """The column that the model may mean: LightGBM and others put underscores in place of special characters."""
    same = [each for each in there if _plain(each) == _plain(name)]
    return next(iter(same or get_close_matches(name, there, 1, 0.75)), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name).strip("_").casefold()


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    line = f"  {what:<8} {', '.join(map(repr, names[:SHOWN]))}"
    return [f"{line if len(line) <= WIDTH else line[: WIDTH - 4] + ' ...'}{more}"]


def _delimiter(given: Sequence[str]) -> list[str]:
    """A hint, if there is only one column and its name holds a character that separates columns in other files."""
    found = [mark for mark in (";", "\t", "|") if len(given) == 1 and mark in given[0]]
    return [f"  a CSV file with another delimiter? give source.delimiter={mark!r}" for mark in found[:1]]


def _remedy(pairs: dict[str, str]) -> list[str]:
    if not pairs:
        return ["  give the columns that it was made for, or rename them: predict.rename"]
    if all(map(TYPEABLE.fullmatch, [*pairs, *pairs.values()])):
        listed = ", ".join(f"{name}: {wanted}" for name, wanted in pairs.items())
        return [f"  remedy   {shlex.quote(f'predict.rename={{{listed}}}')}"]
    return ["  remedy   in a preset, below predict:", "    rename:", *(f"      {k!r}: {v!r}" for k, v in pairs.items())]


def mismatch(error: Exception, given: Sequence[str], wanted: Sequence[str] | None, again: Callable[[], object]) -> str:
    """What to say if an error is about columns; `""` if it is not.

    A `KeyError` may as well come from a value of a row. It is about columns if no rows at all raise it, too.

    Args:
        error: What the predictor raised.
        given: The columns that it was given.
        wanted: Those that it says it wants, if it does.
        again: Predicts no rows.
    """
    if isinstance(error, WrongColumns):
        return str(error)
    named = _named(error)
    sure = SURE.search(str(error)) is not None
    if named in given or not (sure or named is not None or MAYBE.search(str(error))):
        return ""
    if wanted is not None and set(wanted) - set(given):
        return compared(wanted, given)
    if not sure and not _raises_the_same(error, again):
        return ""
    if named is not None and "[" not in named:
        return compared([named], given)
    return f"the model's columns are not those of the data: {str(error).partition(chr(10))[0]}"


def _named(error: Exception) -> str | None:
    """The column that a `KeyError` names, if it is one."""
    if not isinstance(error, KeyError) or not error.args or not isinstance(error.args[0], str):
        return None
    of_arrow = re.fullmatch(r'Field "(.*)" does not exist in schema', error.args[0])
    return of_arrow[1] if of_arrow else error.args[0]


def _raises_the_same(error: Exception, again: Callable[[], object]) -> bool:
    try:
        again()
    except Exception as other:
        return type(other) is type(error) and str(other) == str(error)
    return False
