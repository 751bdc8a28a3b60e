"""Opens catalogs and tables of Iceberg by pyiceberg, and says in words that help what is wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Incomplete, RunnerError
from runner.storage.locations import absolute, install
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.words.plain import first_line, named

SQLITE = "sqlite:///"


def problems(key: str, table: str) -> list[str]:
    """Return what is wrong before anything is opened.

    Args:
        key: `source` or `sink`.
        table: The table's name, with its namespace.
    """
    absent = [] if find_spec("pyiceberg") else [f"{key}.catalog: needs pyiceberg: {install('iceberg')}"]
    parts = table.split(".")
    wrong = len(parts) < 2 or not all(parts)
    return absent + [f"{key}.table={table}: expected a namespace and a name, such as sales.orders"] * wrong


@contextlib.contextmanager
def opened_catalog(key: str, properties: Mapping[str, Any], *, must_exist: bool) -> Iterator[Any]:
    """Open a catalog, and translate what goes wrong with it while it is open.

    Args:
        key: `source` or `sink`.
        properties: pyiceberg's, and `name` (`default` unless given), by which pyiceberg finds further ones in its own configuration.
        must_exist: Whether a database file that is not there is refused. Otherwise it is created.

    Raises:
        ConfigError: It cannot be used.
        Incomplete: It cannot be used now.
    """
    given = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in properties.items()}
    name = given.pop("name", "default")
    if given.get("uri", "").startswith("sqlite"):
        given = _of_this_machine(key, given, must_exist=must_exist)
    with _troubles(key):
        from pyiceberg.catalog import load_catalog

        with contextlib.closing(retrying(lambda: load_catalog(name, **given), within=LOOKING_SECONDS)) as catalog:
            yield catalog


def _of_this_machine(key: str, given: dict[str, str], *, must_exist: bool) -> dict[str, str]:
    """Return properties that mean the same in every working directory. SQLite would create a file that is not there."""
    path = given["uri"].partition(SQLITE)[2]
    if must_exist and path and not Path(path).is_file():
        raise ConfigError(f"{key}.catalog: there is no database {path}; mend uri={given['uri']}")
    warehouse = given.get("warehouse")
    return given if warehouse is None else {**given, "warehouse": absolute(warehouse)}


@contextlib.contextmanager
def _troubles(key: str) -> Iterator[None]:
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:
        if is_transient(error) or _is_server_gone(error):
            raise Incomplete(f"{key}.catalog: does not answer: {first_line(error)}") from error
        if type(error).__module__.partition(".")[0] in {"pyiceberg", "sqlalchemy", "requests"} or isinstance(
            error, ValueError | OSError | ImportError
        ):
            raise ConfigError(f"{key}.catalog: cannot be used: {first_line(error)}") from error
        raise


def _is_server_gone(error: BaseException) -> bool:
    """Return whether a catalog's database cannot be reached now. SQLite has no server: what is wrong there is wrong for good."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("sqlalchemy.")}
    return bool(kinds & {"OperationalError", "InterfaceError"}) and "sqlite3" not in str(error)


def load_table(catalog: Any, key: str, name: str) -> Any:
    """Return a table of an open catalog.

    Raises:
        ConfigError: There is no such table, or its metadata are gone.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return retrying(lambda: catalog.load_table(name), within=LOOKING_SECONDS)
    except (NoSuchTableError, NoSuchNamespaceError):
        raise ConfigError(f"{key}.table={name}: {_nearest(catalog, tuple(name.split('.')))}") from None
    except FileNotFoundError as error:
        raise ConfigError(
            f"{key}.table={name}: the catalog has it, but its metadata are gone ({first_line(error)}); "
            "is the warehouse another one now?"
        ) from error


def _nearest(catalog: Any, name: tuple[str, ...]) -> str:
    """Return what there is instead of a table that is not there."""
    namespace = ".".join(name[:-1])
    with contextlib.suppress(Exception):
        namespaces = [".".join(each) for each in catalog.list_namespaces(name[:-2])]
        if namespace not in namespaces:
            return f"there is no namespace {namespace!r}{_has(namespace, namespaces)}"
        return f"there is no such table{_has(name[-1], [each[-1] for each in catalog.list_tables(namespace)])}"
    return "there is no such table"


def _has(name: str, there: Iterable[str]) -> str:
    names = sorted(there)
    near = get_close_matches(name, names, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{meant}; there is {named(names)}" if names else f"{meant}; there is none at all"
