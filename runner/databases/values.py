"""Values on their way into a statement: bound, never pasted into its text.

PostgreSQL streams the result of a statement only without parameters (as COPY), and holds all of it in memory otherwise. So there the values
are bound to `set_config`, as settings that end with the transaction, and the statement reads them by `current_setting`. Its planner
evaluates these like constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runner.databases.database import execute
from runner.databases.dialects import Dialect


class Values:
    """The values of one statement, in the order in which its text was made."""

    def __init__(self, dialect: Dialect) -> None:
        """There is none yet."""
        self._dialect = dialect
        self._values: list[Any] = []

    def add(self, value: Any, kind: str | None = None) -> str:
        """Take one more value, and return the SQL that stands for it.

        Args:
            value: A plain value, or a list of them.
            kind: The SQL type that it has; `None` where the database finds that out. PostgreSQL needs it.
        """
        if value is None:
            return f"CAST(NULL AS {kind})" if kind else "NULL"
        self._values.append(value)
        if self._dialect.name == "postgresql":
            return f"CAST(current_setting('runner.v{len(self._values)}') AS {kind or 'text'})"
        place = self._dialect.placeholders(1, len(self._values))[0]
        return f"CAST({place} AS {kind})" if kind and self._dialect.name != "sqlite" else place

    def ready(self, connection: Any) -> Sequence[Any]:
        """Make the values known to a connection that is about to execute the statement, and return what is to be bound to it."""
        if self._dialect.name != "postgresql" or not self._values:
            return self._values
        settings = [f"set_config('runner.v{i}', ${i}, true) AS v{i}" for i in range(1, len(self._values) + 1)]
        execute(connection, f"SELECT {', '.join(settings)}", [_text(value) for value in self._values])
        return ()


def _text(value: Any) -> str:
    """Return a value as PostgreSQL writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, list | tuple):
        return f"{{{','.join(map(_element, value))}}}"
    return str(value)


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    escaped = _text(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parameter_types(connection: Any, query: Callable[[list[str]], str], count: int) -> list[str]:
    """Return the SQL types that PostgreSQL takes the parameters of a statement to have, by where they stand.

    Args:
        connection: To the database.
        query: Makes the statement of its placeholders.
        count: How many there are.
    """
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare(query([f"${i}" for i in range(1, count + 1)]))
        return [(field.metadata or {}).get(b"POSTGRESQL:type", b"text").decode() for field in schema or ()]
