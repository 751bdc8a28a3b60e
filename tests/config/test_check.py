"""Values against annotations: what is taken, what is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.check import bind
from runner.config.coerce import UNITS, Wrong, coerce, parse_bytes, spelled
from runner.types import AtLeast, ByteSize, Positive

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, int, 3),
        (1e6, int, 1_000_000),
        (3, float, 3.0),
        (3, str, "3"),
        (Path("x"), str, "x"),
        ("x", Path, Path("x")),
        (3, int | str, 3),
        ("3", int | str, "3"),
        (3, str | int, 3),
        (None, int | None, None),
        ("auto", Positive | Literal["auto"], "auto"),
        ("2KiB", ByteSize, 2048),
        (["a"], str | list[str], ["a"]),
        (("a", "b"), list[str], ["a", "b"]),
        ([1, 2.0], tuple[int, float], (1, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        (["a"], Sequence[str], ["a"]),
        ([1], list, [1]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": 1}, Mapping, {"a": 1}),
        ("anything", Any, "anything"),
        ("anything", Callable[[], int], "anything"),
    ],
)
def test_coerce(value: Any, annotation: Any, expected: Any) -> None:
    found = coerce(value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "told"),
    [
        (True, int, "expected a whole number"),
        (True, float, "expected a number"),
        (True, str, "expected text"),
        (1.5, int, "expected a whole number"),
        ("1", int, "expected a whole number"),
        ("yes", bool, "expected true or false"),
        (0, Positive, "expected a whole number >= 1"),
        (float("nan"), Annotated[float, AtLeast(0)], "expected a number >= 0"),
        ("12 parsecs", ByteSize, "expected a size in bytes (134217728, 128MiB, 2GB)"),
        ("0MiB", ByteSize, "expected a size in bytes (134217728, 128MiB, 2GB)"),
        ("a", list[str], "expected a list, e.g. [a]"),
        ("a", Sequence[str], "expected a list, e.g. [a]"),
        ([1], tuple[int, int], "expected a list of 2"),
        ("a", dict[str, int], "expected a mapping, e.g. {name: value}"),
        (1, Literal["a", "b"], "expected a or b"),
        (True, Literal[1], "expected 1"),
        ("fixd", Literal["fixed"] | int, "expected fixed or a whole number (did you mean fixed?)"),
    ],
)
def test_coerce_refuses(value: Any, annotation: Any, told: str) -> None:
    with pytest.raises(Wrong) as wrong:
        coerce(value, annotation)
    assert str(wrong.value) == told


def test_an_element_is_named() -> None:
    with pytest.raises(Wrong) as wrong:
        coerce({"a": [1, "x"]}, dict[str, list[int]])
    assert (wrong.value.where, wrong.value.value) == (".a[1]", "x")


@given(st.integers(0, 10**18), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_sizes_are_exact(number: int, unit: str, space: str) -> None:
    for spelling in (unit, unit.upper(), unit.title()):
        assert parse_bytes(f"{number}{space}{spelling}") == number * UNITS[unit]


@given(st.text())
def test_any_text_is_a_size_or_wrong(text: str) -> None:
    size = outcome(text, ByteSize)
    assert size == f"expected {spelled(ByteSize)}" or (isinstance(size, int) and size >= 1)


def outcome(value: Any, annotation: Any) -> Any:
    """What is made of a value, or what is said of it."""
    try:
        return coerce(value, annotation)
    except Wrong as wrong:
        return str(wrong)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ANNOTATIONS: list[Any] = [
    int, float, str, bool, Positive, ByteSize, list[str], dict[str, int], Literal["a", 1], str | list[str] | None,
    tuple[int, str], Positive | Literal["auto"], Path, Any,
]  # fmt: skip


@given(plain, st.sampled_from(ANNOTATIONS))
def test_coerce_settles(value: Any, annotation: Any) -> None:
    """It never fails otherwise, and what it made is what it would make of it again."""
    once = outcome(value, annotation)
    if not str(once).startswith("expected "):
        assert repr(coerce(once, annotation)) == repr(once)


# ---------------------------------------------------------------- whole signatures


def loader(path: str, alpha: float = 1.0, sizes: list[int] | None = None) -> Any: ...


def for_checkers(net: Unknown, alpha: float = 1.0) -> Unknown: ...


def open_ended(alpha: float = 1.0, **more: int) -> Any: ...


def positional(path: str, /, alpha: float = 1.0) -> Any: ...


class Loader:
    def __init__(self, alpha: int) -> None: ...


@pytest.mark.parametrize(
    ("call", "values", "bound", "told"),
    [
        (loader, {"path": "x", "alpha": 2}, {"path": "x", "alpha": 2.0}, []),
        (loader, {"path": "???"}, {}, ["model.path: is required; give model.path=<text>"]),
        (loader, {"path": "x", "alhpa": 2}, {"path": "x"}, ["model.alhpa: no such key (did you mean alpha?)"]),
        (loader, {"path": "x", "sizes": [1, "b"]}, {"path": "x"}, ["model.sizes[1]=b: expected a whole number"]),
        (
            loader,
            {"alpha": "x", "q": 1},
            {},
            [
                "model.alpha=x: expected a number",
                "model.q: no such key (there are: path, alpha, sizes)",
                "model.path: is required; give model.path=<text>",
            ],
        ),
        (for_checkers, {"net": "x", "alpha": "y"}, {"net": "x"}, ["model.alpha=y: expected a number"]),
        (open_ended, {"beta": 1}, {"beta": 1}, []),
        (positional, {"path": "x"}, {}, ["model.path: no such key (there are: alpha)"]),
        (Loader, {"alpha": "x"}, {}, ["model.alpha=x: expected a whole number"]),
        (dict, {"anything": 1}, {"anything": 1}, []),
    ],
)
def test_bind(call: Callable[..., Any], values: dict[str, Any], bound: dict[str, Any], told: list[str]) -> None:
    problems: list[str] = []
    assert bind(call, values, "model", problems) == bound
    assert problems == told


def test_a_refused_secret_is_not_shown() -> None:
    def connect(password: int, storage_options: list[str]) -> Any: ...

    problems: list[str] = []
    bind(connect, {"password": "hunter2", "storage_options": {"key": "hunter2"}}, "source", problems)
    assert problems == [
        "source.password=***: expected a whole number",
        "source.storage_options=***: expected a list",
    ]
