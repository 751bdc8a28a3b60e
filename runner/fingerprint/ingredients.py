"""Digests of what a loader or a predictor is made of: the code that it runs, and the values that this code uses.

They are taken before anything is predicted, and they are the same in every process.

- Code in the user's own modules counts as whole modules: the function's module, and all that it imports (`runner.fingerprint.modules`).
  Comments, docstrings and formatting do not count.
- A function that lies in no such module (in a notebook, a script, a closure) counts by its bytecode, by the variables that it closes over,
  by its defaults, and by each global variable that it names: functions and classes by their code in turn, all else by value.
- In a module of the user's own, the code already says what global variables with plain data hold (texts, numbers, paths, collections
  of them). An object of another kind (an estimator, an array, a table) counts by value as well, since it may come from a file.
- A global variable that the code itself writes to (a counter, a cache) does not count.
- What cannot be looked into (a lock, an open file, a generator) counts by its type only. So does an object of an installed
  package that holds such a thing: it is a client, not a model. A random number generator counts by its type too, since its
  state changes by itself.
- Code of installed packages does not count: their versions are recorded.

It cannot see files that code reads by itself, the environment, and modules whose names are only known when they are imported.
`predict.version` and `predict.artifacts` are for these.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

from runner.fingerprint.arrays import OpaqueError, content_of_array
from runner.fingerprint.bytecode import attributes_of, closed_over, globals_used, names_of, parameters_of
from runner.fingerprint.modules import installed, own_file, reached
from runner.fingerprint.origins import (
    has_version,
    is_installed,
    is_known,
    kind_of,
    may_be_loaded,
    module_of,
    qualified_name,
)

PREDICTOR = "the predictor"
ATOMS = (bool, str, int, float, complex, type(None), type(...), type(NotImplemented), range)
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
    """Digests of what a callable that a config names is made of, by name.

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
    """Digests of what a predictor that was given in Python is made of, by name."""
    search = _Search()
    search.found[PREDICTOR] = search.digest(predictor)
    return search.everything()


def _mentioned(value: Any) -> Iterator[str]:
    """The dotted paths among arguments, at any depth."""
    if isinstance(value, str) and DOTTED.fullmatch(value):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _mentioned(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _mentioned(each)


class _Search:
    """A search through code and values.

    Attributes:
        found: Digests so far, by name.
        modules: Names of modules so far, the user's own or not.
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
        """Every digest by name, after everything that is still waiting has been searched."""
        while self._waiting:
            thing = self._waiting.pop()
            self.modules |= names_of(thing).imported
            for name, value in globals_used(thing):
                self._use(name, value, thing)
        return {**reached(self.modules), **self.found}

    def meet(self, thing: Any) -> None:
        """Put a function or a class on the list of what is to be searched, once."""
        if isinstance(thing, FunctionType | type) and id(thing) not in self._met:
            self._met[id(thing)] = thing
            if has_version(module_of(thing)):
                return
            self._waiting.append(thing)
            if own_file(module_of(thing)):
                self.modules.add(module_of(thing))

    def _use(self, name: str, value: Any, by: FunctionType | type) -> None:
        """Count what code uses, under its name."""
        where, told = module_of(by), own_file(module_of(by)) is not None
        if isinstance(value, ModuleType):
            self._use_module(value, by)
        elif isinstance(value, FunctionType | type):
            self.meet(value)
            if has_version(str(value.__module__)):
                return
            if getattr(value, "__closure__", None) or not is_known(module_of(value)):
                self.found[f"{where}.{name}"] = self.digest(value)
        elif not told or may_be_loaded(value):
            self.found[f"{where}.{name}"] = self.digest(value)

    def _use_module(self, module: ModuleType, by: FunctionType | type) -> None:
        if own_file(module.__name__) is None:
            return
        self.modules.add(module.__name__)
        for name in attributes_of(by) & vars(module).keys():
            value = vars(module)[name]
            if isinstance(value, FunctionType | type):
                self.meet(value)
            elif not isinstance(value, ModuleType) and may_be_loaded(value):
                self.found[f"{module.__name__}.{name}"] = self.digest(value)

    # ------------------------------------------------ values

    def digest(self, value: Any) -> str:
        """A digest of a value that is the same in every process: it holds no addresses, no order of a set, no identities."""
        try:
            return f"sha256:{self._spelled(value)}"
        except (OpaqueError, RecursionError):
            return f"sha256:{hashlib.sha256(kind_of(value).encode()).hexdigest()}"
        finally:
            self._path.clear()
            self._foreign = 0

    def _spelled(self, value: Any) -> str:
        """A digest of the parts of a value. A part that holds the value again stands for it by how many levels up it lies."""
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
        """The parts that tell a value from every other."""
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
            yield repr((value.co_flags & CALLED, value.co_argcount, value.co_kwonlyargcount, parameters_of(value)))
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
        elif isinstance(value, weakref.ref) or kind_of(value).startswith(GENERATORS):
            yield kind_of(value)
        elif isinstance(getattr(value, "__dict__", None), dict) and "__wrapped__" in vars(value):
            yield self._spelled(vars(value)["__wrapped__"])
        elif (numbers := content_of_array(value)) is not None:
            yield from (each if isinstance(each, bytes) else self._spelled(each) for each in numbers)
        else:
            yield from self._parts_of_object(value)

    def _parts_of_code(self, value: FunctionType | type | ModuleType) -> Iterator[str]:
        """Of code that is known by its module: its name, and what it closes over. Of other code: the code."""
        if isinstance(value, ModuleType):
            if own_file(value.__name__):
                self.modules.add(value.__name__)
            yield value.__name__
        elif isinstance(value, FunctionType):
            foreign = has_version(module_of(value))
            yield f"{module_of(value)}.{value.__qualname__}" if foreign else self._spelled(value.__code__)
            yield from map(self._spelled, closed_over(value))
            if not foreign:
                yield from map(self._spelled, (value.__defaults__, value.__kwdefaults__))
        elif is_known(module_of(value)):
            yield qualified_name(value)
        else:
            yield from map(self._spelled, value.__bases__)
            members = {name: each for name, each in vars(value).items() if name not in NO_CODE}
            yield from (part for name in sorted(members) for part in (name, self._spelled(members[name])))

    def _parts_of_object(self, value: Any) -> Iterator[str]:
        """What pickle would write of an object, or its type if pickle cannot write it.

        An object of an installed package is looked into as a whole or not at all: one that holds a lock or a socket somewhere is a
        client, and what else it holds (counters, tokens) changes by itself.
        """
        foreign = is_installed(module_of(type(value)))
        outermost = foreign and not self._foreign
        depth, self._foreign = len(self._path), self._foreign + foreign
        try:
            yield from [self._spelled(part) for part in self._reduced(value)]
        except OpaqueError:
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
            OpaqueError: It cannot be.
        """
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            made = reduce(value) if reduce else value.__reduce_ex__(4)
            if isinstance(made, str):
                return [kind_of(value), made]
            return [list(part) if isinstance(part, Iterator) else part for part in made]
        except Exception as error:
            if not self._foreign and isinstance(vars(value) if hasattr(value, "__dict__") else None, dict):
                return [type(value), dict(vars(value))]
            raise OpaqueError from error

    def _rest(self, value: Any) -> Iterator[str]:
        """What can be said of an object that cannot be looked into: its type, and its weights if it has a `state_dict`."""
        yield kind_of(value)
        if callable(weights := getattr(type(value), "state_dict", None)):
            yield self._spelled(weights(value))
