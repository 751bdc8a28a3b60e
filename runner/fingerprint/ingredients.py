"""What a loader or a predictor is made of: the code that it runs, and the values that this code uses, each with a digest.

The digests are those of a moment: they are taken before anything is predicted, and they are the same in every process.

- Code in the user's own modules counts as whole modules: that of the function and all that they import (`runner.modules`).
  Comments, docstrings and formatting do not count.
- Of a function that lies in no such module (of a notebook, a script, a closure) its own bytecode counts, what it closes over, its
  defaults, and each global variable that it names: functions and classes by their code in turn, all else by value.
- In a module of the user's own, global variables that only hold plain data (texts, numbers, paths, collections of them) are
  told by the code already. An object of another kind (an estimator, an array, a table) counts by value as well: it may
  have been read from a file.
- A global variable that the code itself writes to (a counter, a cache) does not count.
- What cannot be looked into (a lock, an open file, a generator) counts by its kind only. So does an object of an installed
  package that holds something of that sort: it is a client, not a model. A random number generator counts by its kind as
  well: it moves on by itself.
- Code of installed packages does not count: their versions are recorded.

What this cannot see, `predict.version` and `predict.artifacts` are for: files that code reads by itself, the environment, and
modules whose names are only known when they are imported.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, NamedTuple

from runner.fingerprint.modules import OURS, installed, own_file, reached

PREDICTOR = "the predictor"
ATOMS = (bool, str, int, float, complex, type(None), type(...), type(NotImplemented), range)
CHANGING = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove", "reverse",
    "setdefault", "sort", "update", "move_to_end",
})  # fmt: skip
GENERATORS = ("numpy.random.", "random.", "torch._C.Generator", "torch.Generator")
NO_CODE = frozenset({
    "__module__", "__qualname__", "__name__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__",
    "__static_attributes__", "__abstractmethods__", "_abc_impl", "__slotnames__", "__match_args__",
    "__annotate__", "__annotate_func__", "__annotations_cache__",
})  # fmt: skip
CALLED = (
    0x4 | 0x8 | 0x20 | 0x80 | 0x200
)  # of a code's flags: *args, **kwargs, and what kind of generator or coroutine it makes
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def of_loader(call: Callable[..., Any], target: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What a callable that a config names is made of, by name.

    Args:
        call: The callable.
        target: Its dotted path.
        arguments: What it is called with; modules of the user's own that these name count too (`model.module=nets.Net`).
    """
    search = _Search()
    search.modules |= {target, *_mentioned(arguments)}
    search.meet(call)
    if not isinstance(call, FunctionType | type) or getattr(call, "__closure__", None):
        search.found[target] = search.digest(call)
    return {**installed(target.rpartition(".")[0]), **search.everything()}


def of_predictor(predictor: Callable[..., Any]) -> dict[str, str]:
    """What a predictor that was given in Python is made of, by name."""
    search = _Search()
    search.found[PREDICTOR] = search.digest(predictor)
    return search.everything()


def _mentioned(value: Any) -> Iterator[str]:
    """Dotted paths among arguments, however deep."""
    if isinstance(value, str) and DOTTED.fullmatch(value):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _mentioned(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _mentioned(each)


class _ClosedError(Exception):
    """An object holds something that cannot be looked into."""


class _Search:
    """What was found so far, and what is still to be looked at.

    Attributes:
        found: Digests by name.
        modules: Names of modules that count, the user's own or not.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.modules: set[str] = set()
        self._waiting: list[FunctionType | type] = []
        self._met: dict[int, Any] = {}
        self._known: dict[int, tuple[Any, str]] = {}  # the value itself is held, for its address not to be used again
        self._path: list[int] = []
        self._foreign = 0  # objects of installed packages that are being looked into

    def everything(self) -> dict[str, str]:
        """All that was found, after looking at all that is still to be looked at."""
        while self._waiting:
            thing = self._waiting.pop()
            self.modules |= _names(thing).imported
            for name, value in _uses(thing):
                self._use(name, value, thing)
        return {**reached(self.modules), **self.found}

    def meet(self, thing: Any) -> None:
        """Look at a function or class later, once."""
        if isinstance(thing, FunctionType | type) and id(thing) not in self._met:
            self._met[id(thing)] = thing
            if _is_ours_or_installed(_module_of(thing)):
                return
            self._waiting.append(thing)
            if own_file(_module_of(thing)):
                self.modules.add(_module_of(thing))

    def _use(self, name: str, value: Any, by: FunctionType | type) -> None:
        """Count what code uses, under its name."""
        where, told = _module_of(by), own_file(_module_of(by)) is not None
        if isinstance(value, ModuleType):
            self._use_module(value, by)
        elif isinstance(value, FunctionType | type):
            self.meet(value)
            if _is_ours_or_installed(str(value.__module__)):
                return
            if getattr(value, "__closure__", None) or not _is_told(_module_of(value)):
                self.found[f"{where}.{name}"] = self.digest(value)
        elif not told or _is_loaded(value):
            self.found[f"{where}.{name}"] = self.digest(value)

    def _use_module(self, module: ModuleType, by: FunctionType | type) -> None:
        if own_file(module.__name__) is None:
            return
        self.modules.add(module.__name__)
        for name in _attributes(by) & vars(module).keys():
            value = vars(module)[name]
            if isinstance(value, FunctionType | type):
                self.meet(value)
            elif not isinstance(value, ModuleType) and _is_loaded(value):
                self.found[f"{module.__name__}.{name}"] = self.digest(value)

    # ------------------------------------------------ values

    def digest(self, value: Any) -> str:
        """Of a value, the same in every process: no addresses, no order of a set, no identities."""
        try:
            return f"sha256:{self._spelled(value)}"
        except (_ClosedError, RecursionError):
            return f"sha256:{hashlib.sha256(_kind(value).encode()).hexdigest()}"
        finally:
            self._path.clear()
            self._foreign = 0

    def _spelled(self, value: Any) -> str:
        """A digest of what the value's parts are; within itself it is told by how far up it lies."""
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._path:
            return f"cycle {len(self._path) - self._path.index(id(value))}"
        self._path.append(id(value))
        total = hashlib.sha256(type(value).__qualname__.encode())
        for part in self._parts(value):
            total.update(part if isinstance(part, bytes) else f"{len(part)} {part}".encode())
        self._path.pop()
        if not isinstance(value, ATOMS):
            self._known[id(value)] = value, total.hexdigest()
        return total.hexdigest()

    def _parts(self, value: Any) -> Iterator[str | bytes]:
        """What tells one value from another."""
        if type(value) in ATOMS:
            yield repr(value)
        elif type(value) in (bytes, bytearray, memoryview):
            yield hashlib.sha256(value).digest()
        elif type(value) in (list, tuple):
            yield from map(self._spelled, value)
        elif type(value) in (dict, MappingProxyType):
            yield from (self._spelled(one) for item in value.items() for one in item)
        elif type(value) in (set, frozenset):
            yield from sorted(map(self._spelled, value))
        elif isinstance(value, CodeType):
            yield repr((value.co_flags & CALLED, value.co_argcount, value.co_kwonlyargcount, _parameters(value)))
            yield from (
                part for step in dis.get_instructions(value) for part in (step.opname, self._spelled(step.argval))
            )
        elif isinstance(value, FunctionType | type | ModuleType):
            self.meet(value)
            yield from self._parts_of_code(value)
        elif isinstance(value, MethodType):
            yield from map(self._spelled, (value.__func__, value.__self__))
        elif isinstance(value, BuiltinFunctionType):
            yield f"{value.__module__}.{value.__qualname__}"
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            held = [getattr(value, name, None) for name in ("fget", "fset", "__func__", "func")]
            yield from map(self._spelled, held)
        elif isinstance(value, weakref.ref) or _kind(value).startswith(GENERATORS):
            yield _kind(value)
        elif isinstance(getattr(value, "__dict__", None), dict) and "__wrapped__" in vars(value):
            yield self._spelled(vars(value)["__wrapped__"])
        elif (numbers := _numbers(value)) is not None:
            yield from (each if isinstance(each, bytes) else self._spelled(each) for each in numbers)
        else:
            yield from self._parts_of_object(value)

    def _parts_of_code(self, value: FunctionType | type | ModuleType) -> Iterator[str]:
        """Of a function or class that lies in a module of its own: its name, and what it closes over."""
        if isinstance(value, ModuleType):
            if own_file(value.__name__):
                self.modules.add(value.__name__)
            yield value.__name__
        elif isinstance(value, FunctionType):
            foreign = _is_ours_or_installed(_module_of(value))
            yield f"{_module_of(value)}.{value.__qualname__}" if foreign else self._spelled(value.__code__)
            yield from map(self._spelled, _cells(value))
            if not foreign:
                yield from map(self._spelled, (value.__defaults__, value.__kwdefaults__))
        elif _is_told(_module_of(value)):
            yield _named(value)
        else:
            yield from map(self._spelled, value.__bases__)
            members = {name: each for name, each in vars(value).items() if name not in NO_CODE}
            yield from (part for name in sorted(members) for part in (name, self._spelled(members[name])))

    def _parts_of_object(self, value: Any) -> Iterator[str]:
        """What pickle would write of an object, or its kind where that cannot be had.

        An object of an installed package is looked into as a whole or not at all: one that holds a lock or a socket somewhere is a
        client, and what else it holds (counters, tokens) changes by itself.
        """
        foreign = _is_installed(_module_of(type(value)))
        outermost = foreign and not self._foreign
        depth, self._foreign = len(self._path), self._foreign + foreign
        try:
            yield from [self._spelled(part) for part in self._reduced(value)]
        except _ClosedError:
            if self._foreign and not outermost:
                raise
            del self._path[depth:]
            self._foreign = 0
            yield from self._rest(value)
        finally:
            self._foreign = max(0, self._foreign - foreign)

    def _reduced(self, value: Any) -> list[Any]:
        """How an object is made again, by pickle's own protocol.

        Raises:
            _ClosedError: It cannot be.
        """
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            made = reduce(value) if reduce else value.__reduce_ex__(4)
            if isinstance(made, str):
                return [_kind(value), made]
            return [list(part) if isinstance(part, Iterator) else part for part in made]
        except Exception as error:
            if not self._foreign and isinstance(vars(value) if hasattr(value, "__dict__") else None, dict):
                return [type(value), dict(vars(value))]
            raise _ClosedError from error

    def _rest(self, value: Any) -> Iterator[str]:
        """What can be told of an object that cannot be looked into: its kind, and its weights if it gives them out."""
        yield _kind(value)
        if callable(weights := getattr(type(value), "state_dict", None)):
            yield self._spelled(weights(value))


# ---------------------------------------------------------------- functions and classes


def _module_of(thing: Any) -> str:
    """Where code was defined; a decorator's wrapper takes the name of what it wraps, but not its globals."""
    if isinstance(thing, FunctionType):
        return str(thing.__globals__.get("__name__", ""))
    return str(getattr(thing, "__module__", "") or "")


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _kind(value: Any) -> str:
    return _named(type(value))


def _is_ours_or_installed(module: str) -> bool:
    """Whether code is told by a version: of Python, of an installed package, or of this program."""
    return _is_standard(module) or _is_installed(module)


def _is_told(module: str) -> bool:
    """Whether the code of a module is told by a version, or by the digest of the whole module."""
    return _is_ours_or_installed(module) or own_file(module) is not None


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def _is_installed(module: str) -> bool:
    """Whether a module has a file and this is not the user's own."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if module == "__main__" or _is_standard(module):
        return False
    if file is None:  # of a notebook; or compiled into the interpreter or an extension, as `torch._C._nn` is
        top = module.partition(".")[0]
        return module != top and _is_installed(top)
    return own_file(module) is None and (str(file).startswith(str(OURS)) or "-packages" in str(file))


def _is_loaded(value: Any) -> bool:
    """Whether a value may be more than the code of its module tells: plain data and Python's own objects are not."""
    return not _is_standard(type(value).__module__)


def _cells(function: FunctionType) -> Iterator[Any]:
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


def _uses(thing: FunctionType | type) -> Iterator[tuple[str, Any]]:
    """The global variables that code names and does not write to, and the bases of a class, each with its value."""
    if isinstance(thing, type):
        yield from ((base.__qualname__, base) for base in thing.__bases__)
    names = _names(thing)
    for function in _functions(thing):
        values = function.__globals__
        yield from ((name, values[name]) for name in sorted(names.read - names.written) if name in values)


class _Names(NamedTuple):
    """What a piece of code names: global variables that it reads, those that it writes to, and modules that it imports."""

    read: frozenset[str]
    written: frozenset[str]
    imported: frozenset[str]


def _names(thing: FunctionType | type) -> _Names:
    found = [_names_in(code) for code in _codes(thing)]
    return (
        _Names(*(frozenset().union(*kind) for kind in zip(*found, strict=True)))
        if found
        else _Names(*[frozenset()] * 3)
    )


@lru_cache(maxsize=8192)
def _names_in(code: CodeType) -> _Names:
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
    return _Names(frozenset(read), frozenset(written), frozenset(imported))


def _place(step: dis.Instruction) -> Any:
    where = step.positions
    return (where.lineno, where.col_offset) if where is not None and where.col_offset is not None else object()


def _parameters(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _attributes(thing: FunctionType | type) -> set[str]:
    """The attributes that code names, of whatever."""
    return {name for code in _codes(thing) for name in code.co_names}


# ---------------------------------------------------------------- arrays


def _numbers(value: Any) -> list[Any] | None:
    """What an array or a tensor holds; `None` for anything else. A package that is not imported made none of them."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _of_tensor(torch, value)
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    array = numpy.asarray(value)
    head = [str(array.dtype), list(array.shape)]
    if array.dtype.names:  # field by field: what lies between the fields is not initialized
        return [*head, *(array[name] for name in array.dtype.names)]
    if array.dtype.kind in "OT":
        return [*head, array.tolist()]
    flat = numpy.ascontiguousarray(array).reshape(-1)
    content = flat.view(numpy.uint8).data if flat.size and flat.dtype.itemsize else b""
    return [*head, hashlib.sha256(content).digest()]


def _of_tensor(torch: ModuleType, value: Any) -> list[Any]:
    try:
        held = value.detach().cpu().contiguous().reshape(-1)
        content = held.view(torch.uint8).numpy().data if held.numel() else b""
    except Exception as error:
        raise _ClosedError from error
    return [str(value.dtype), list(value.shape), hashlib.sha256(content).digest()]
