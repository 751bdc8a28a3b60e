"""Opens catalogs and tables of Iceberg by pyiceberg, and says in words that help what is wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, Incomplete, RunnerError
from runner.storage.locations import absolute, install
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.words.plain import first_line, named

if TYPE_CHECKING:
    import pyarrow as pa

SQLITE = "sqlite:///"
CLIENTS = frozenset({"pyiceberg", "sqlalchemy", "requests"})
FIELD_ID = b"PARQUET:field_id"


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
    with (
        _troubles(key),
        contextlib.closing(retrying(lambda: _loaded(key, name, given), within=LOOKING_SECONDS)) as catalog,
    ):
        yield catalog


def _loaded(key: str, name: str, properties: Mapping[str, str]) -> Any:
    from pyiceberg.catalog import load_catalog

    try:
        return load_catalog(name, **properties)
    except (ValueError, ImportError) as error:  # properties that make no sense, or a package that is not installed
        raise _refused(key, error) from error


def _of_this_machine(key: str, given: dict[str, str], *, must_exist: bool) -> dict[str, str]:
    """Return properties that mean the same in every working directory. SQLite would create a file that is not there."""
    path = given["uri"].partition(SQLITE)[2]
    if must_exist and path and not Path(path).is_file():
        raise ConfigError(f"{key}.catalog: there is no database {path}; mend uri={given['uri']}")
    warehouse = given.get("warehouse")
    return given if warehouse is None else {**given, "warehouse": absolute(warehouse)}


@contextlib.contextmanager
def _troubles(key: str) -> Iterator[None]:
    """Translate errors of the catalog's own client. Those of the storage are left to whoever reads or writes there."""
    try:
        yield
    except Exception as error:
        client = type(error).__module__.partition(".")[0] in CLIENTS
        if isinstance(error, RunnerError) or not client:
            raise
        if is_transient(error) or _is_server_gone(error):
            raise Incomplete(f"{key}.catalog: does not answer: {first_line(error)}") from error
        raise _refused(key, error) from error


def _refused(key: str, error: Exception) -> ConfigError:
    return ConfigError(f"{key}.catalog: cannot be used: {first_line(error)}")


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


# ---------------------------------------------------------------- schemas


def arrow_schema(schema: Any, *, ids: bool = False) -> pa.Schema:
    """Return an Iceberg schema as other formats would give it: all columns may be null, and texts and lists have small offsets.

    Args:
        schema: The schema.
        ids: Whether each field also has its field id, as Parquet files have it.
    """
    import pyarrow as pa
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    return pa.schema([_plain(column) for column in schema_to_pyarrow(schema, include_field_ids=ids)])


def _plain(column: pa.Field) -> pa.Field:
    import pyarrow as pa

    known = (column.metadata or {}).get(FIELD_ID)
    return pa.field(column.name, _plain_type(column.type), metadata=None if known is None else {FIELD_ID: known})


def _plain_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    small = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain(each) for each in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_field).with_nullable(False), _plain(kind.item_field))
    return small.get(kind, kind)


# ---------------------------------------------------------------- tables to write to


def has_table(catalog: Any, name: str) -> bool:
    """Return whether an open catalog has a table."""
    from pyiceberg.exceptions import NoSuchNamespaceError

    try:
        return bool(retrying(lambda: catalog.table_exists(name), within=LOOKING_SECONDS))
    except NoSuchNamespaceError:
        return False


def own_location(catalog: Any, name: str) -> str:
    """Return where a table will lie that is to be created without a place of its own.

    Raises:
        ConfigError: The catalog's warehouse is no folder: such a catalog chooses the place when it creates the table.
    """
    warehouse = str(catalog.properties.get("warehouse", ""))
    if "://" not in warehouse and not warehouse.startswith(("/", "file:")):
        raise ConfigError(
            f"sink.path: the table {name} is not there yet, and its catalog will choose where it lies; give a folder or URI for "
            "the records and the parts, or create the table first"
        )
    *namespace, last = name.split(".")
    return f"{warehouse.rstrip('/')}/{'.'.join(namespace)}/{last}"


def create_table(catalog: Any, name: str, schema: pa.Schema, partition_by: Sequence[str], location: str | None) -> Any:
    """Return a table that is created, with its namespace, unless another run was faster."""
    from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError

    catalog.create_namespace_if_not_exists(name.rpartition(".")[0])
    with (
        contextlib.suppress(CommitFailedException, TableAlreadyExistsError),
        catalog.create_table_transaction(name, schema, location) as transaction,
        transaction.update_spec() as update,
    ):
        for column in partition_by:
            update.add_identity(column)
    return catalog.load_table(name)


def add_columns(table: Any, schema: pa.Schema) -> None:
    """Add those columns to a table that it does not have. Its rows are null there."""
    import pyarrow as pa

    if new := [column for column in schema if column.name not in table.schema().column_names]:
        with table.update_schema() as update:
            update.union_by_name(pa.schema(new))
