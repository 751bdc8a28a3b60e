"""Turns what a database's driver raises into errors that say whether to try again, which key is meant, and never a password."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from runner.words.plain import first_line
from runner.words.secrets import hide


class DatabaseError(OSError):
    """The database refuses what it was asked, and will refuse it again: there is no such table, the SQL is wrong.

    Attributes:
        sqlstate: The five characters of the SQL standard, `""` where the driver tells none.
    """

    sqlstate = ""


class ValueRefused(ValueError):
    """The database cannot hold a value: it is out of range, or breaks a constraint.

    Attributes:
        sqlstate: As of `DatabaseError`.
        constraint: Whether a constraint is broken, such as a primary key that is taken.
    """

    sqlstate = ""
    constraint = False


# By SQLSTATE, whose beginning names a class of errors. The longest beginning that is listed decides.
BY_STATE: dict[str, type[Exception]] = {
    **dict.fromkeys(["08", "53", "57P", "58", "40", "55P03", "55006", "72", "XX000"], ConnectionError),
    **dict.fromkeys(["57014"], TimeoutError),
    **dict.fromkeys(["28", "42501", "25006"], PermissionError),
    **dict.fromkeys(["22", "23"], ValueRefused),
}
# By the text, where there is no SQLSTATE: what libpq says while it connects, and all that SQLite and DuckDB say. The first that is found
# decides.
BY_TEXT: list[tuple[str, type[Exception]]] = [
    (r"password authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" does not exist", PermissionError),
    (r"set lock on file", ConnectionError),  # before what follows: DuckDB adds that read-only mode would work
    (r"permission denied|access denied|readonly database|read-only mode|not permitted|unauthori[sz]ed", PermissionError),
    (r"database \".*\" does not exist|invalid .*(parameter|option)|definition of service|syntax error", DatabaseError),
    (r"timeout expired|timed out|deadline exceeded", TimeoutError),
    (r"database (table |schema )?is locked|set lock on file|Conflict on|conflict with another|write-write conflict", ConnectionError),
    (r"server closed the connection|no connection to the server|connection .*(refused|reset|failed)|too many clients", ConnectionError),
    (r"could not translate host name|terminating connection|the database system is|SSL SYSCALL|could not (send|receive)", ConnectionError),
    (r"disk I/O error|database or disk is full|out of memory", ConnectionError),
    (r"constraint failed|Constraint Error|Duplicate key|Conversion Error|Out of Range Error|datatype mismatch|Type mismatch", ValueRefused),
    (r"Invalid Input Error: .*cast", ValueRefused),
    (r"no such \w+|Failed to (step|prepare) query", DatabaseError),  # of SQLite, whose driver says IO of all that happens in a query
]  # fmt: skip
CONSTRAINT = re.compile(r"constraint|Duplicate key", re.IGNORECASE)
IO, TIMEOUT, UNAUTHENTICATED, UNAUTHORIZED = 10, 12, 13, 14  # status codes of ADBC
BY_STATUS: dict[int, type[Exception]] = {
    7: ValueRefused,
    8: ValueRefused,
    IO: ConnectionError,
    TIMEOUT: TimeoutError,
    UNAUTHENTICATED: PermissionError,
    UNAUTHORIZED: PermissionError,
}
NOISE = re.compile(r"^[A-Z_]+: (\[[\w ]+\] )?|\. SQLSTATE: \w+$|\n\s*(?i:query( was)?): .*", re.DOTALL)


@contextlib.contextmanager
def translated(where: str, streams: bool = False) -> Iterator[None]:
    """Translate what a driver raises in the block. What other code raises there passes as it is.

    Args:
        where: Begins the message: the key and the URI without secrets.
        streams: Whether a stream of Arrow batches is read in the block, and nothing else is done there: what breaks it off is raised by
            pyarrow, with the driver's text.

    Raises:
        ConnectionError, TimeoutError: A later try may succeed.
        PermissionError: A password or a right is missing.
        ValueRefused: A value cannot be held.
        DatabaseError: Anything else.
    """
    try:
        yield
    except Exception as error:
        if not (_is_of_driver(error) or (streams and _is_of_stream(error))):
            raise
        # Without its cause, whose text may quote a statement with values, and a password that the driver repeats.
        raise _translation(where, error) from None


def _is_of_driver(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "adbc_driver_manager"


def _is_of_stream(error: Exception) -> bool:
    return type(error).__module__.startswith("pyarrow") or type(error) is OSError


def _translation(where: str, error: Any) -> Exception:
    text, state = str(error), getattr(error, "sqlstate", None) or ""
    kind = _kind(text, state, int(getattr(error, "status_code", None) or 0))
    found = kind(f"{where}: {hide(_message(text))}")
    if isinstance(found, DatabaseError | ValueRefused):
        found.sqlstate = state
    if isinstance(found, ValueRefused):
        found.constraint = state.startswith("23") or bool(CONSTRAINT.search(text))
    return found


def _kind(text: str, state: str, status: int) -> type[Exception]:
    if state:
        known = [begin for begin in BY_STATE if state.startswith(begin)]
        return BY_STATE[max(known, key=len)] if known else DatabaseError
    said = next((kind for pattern, kind in BY_TEXT if re.search(pattern, text, re.IGNORECASE)), None)
    return said or BY_STATUS.get(status, DatabaseError)


def _message(text: str) -> str:
    """Return what the database said in one line: without the driver's prefixes, and without the statement, which people know."""
    told = NOISE.sub("", text)
    return " ".join(line.strip() for line in told.splitlines() if line.strip())[:1_000] or first_line(Exception(text))
