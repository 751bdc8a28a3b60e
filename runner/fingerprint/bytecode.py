"""What the bytecode of a function or a class names: global variables that it reads or writes, modules, attributes."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple

CHANGING = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove", "reverse",
    "setdefault", "sort", "update", "move_to_end",
})  # fmt: skip


def closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable that was never set
            yield None


def _functions(thing: FunctionType | type) -> Iterator[FunctionType]:
    """The function itself, or those of a class."""
    if isinstance(thing, FunctionType):
        yield thing
        return
    for member in vars(thing).values():
        wrapped = [getattr(member, name, None) for name in ("fget", "fset", "__func__", "func", "__wrapped__")]
        yield from (each for each in (member, *wrapped) if isinstance(each, FunctionType))


def _codes(thing: FunctionType | type) -> Iterator[CodeType]:
    """The code of a function or class, with that of functions and comprehensions within it."""
    waiting = [function.__code__ for function in _functions(thing)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def globals_used(thing: FunctionType | type) -> Iterator[tuple[str, Any]]:
    """The global variables that code names and does not write to, and the bases of a class, each with its value."""
    if isinstance(thing, type):
        yield from ((base.__qualname__, base) for base in thing.__bases__)
    names = names_of(thing)
    for function in _functions(thing):
        values = function.__globals__
        yield from ((name, values[name]) for name in sorted(names.read - names.written) if name in values)


class Names(NamedTuple):
    """What a piece of code names: global variables that it reads, those that it writes to, and modules that it imports."""

    read: frozenset[str]
    written: frozenset[str]
    imported: frozenset[str]


def names_of(thing: FunctionType | type) -> Names:
    found = [_names_in(code) for code in _codes(thing)]
    return (
        Names(*(frozenset().union(*kind) for kind in zip(*found, strict=True))) if found else Names(*[frozenset()] * 3)
    )


@lru_cache(maxsize=8192)
def _names_in(code: CodeType) -> Names:
    """Of `from a import b` both `a` and `a.b` are named, since `b` may be a module.

    `cache[key] = value` loads `cache` and stores into it further down. Both instructions know where in the source they come
    from, and an assignment's target begins where its variable does.
    """
    read: set[str] = set()
    written: set[str] = set()
    imported: set[str] = set()
    begins: dict[Any, str] = {}
    before = base = ""
    for step in dis.get_instructions(code):
        loaded = str(step.argval) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") else ""
        if loaded:
            read.add(loaded)
            begins[_place(step)] = loaded
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written.add(str(step.argval))
        elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "DELETE_ATTR"):
            written.add(begins.get(_place(step), ""))
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in CHANGING:
            written.add(before)
        elif step.opname == "IMPORT_NAME":
            base = str(step.argval)
            imported.add(base)
        elif step.opname == "IMPORT_FROM":
            imported.add(f"{base}.{step.argval}")
        before = loaded
    return Names(frozenset(read), frozenset(written), frozenset(imported))


def _place(step: dis.Instruction) -> Any:
    where = step.positions
    return (where.lineno, where.col_offset) if where is not None and where.col_offset is not None else object()


def parameters_of(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def attributes_of(thing: FunctionType | type) -> set[str]:
    """The attributes that code names, of whatever."""
    return {name for code in _codes(thing) for name in code.co_names}
