"""What a database's URI says: which driver it needs, where a file lies, and what may be shown of it."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from runner.words.credentials import HIDDEN, names_one

DRIVERS = {"postgresql": "postgresql", "postgres": "postgresql", "sqlite": "sqlite", "duckdb": "duckdb"}
OF_A_PLACE = frozenset({"host", "hostaddr", "port", "dbname", "service"})  # parameters that say where a database is
EXPECTED = "postgresql://host/database, sqlite:///file or duckdb:///file, or the ADBC driver of another database"


def driver_of(uri: str) -> str | None:
    """Return the driver that a URI needs, `None` if its scheme does not tell."""
    scheme, mark, _ = uri.partition("://")
    return DRIVERS.get(scheme.lower()) if mark else None


def problem(uri: str, driver: str | None) -> str | None:
    """Return what is wrong with a URI, without connecting; `None` if nothing is."""
    known = driver_of(uri)
    if driver is None and known is None:
        return f"expected {EXPECTED}"
    if known in {"sqlite", "duckdb"}:
        return _problem_of_file(uri, str(known))
    return None


def _problem_of_file(uri: str, known: str) -> str | None:
    path = uri.partition("://")[2]
    if not path.startswith("/"):
        return f"expected three slashes before a relative path and four before an absolute one: {known}:///{path or 'file.db'}"
    if path in {"/", "/:memory:"}:
        return "a database in memory is not shared between processes; expected a file"
    return None if "?" not in path else "expected a path alone; parameters belong to options"


def resolved(uri: str) -> str:
    """Return the URI with the absolute path of the file, as every process can use it; other URIs as they are."""
    if driver_of(uri) not in {"sqlite", "duckdb"}:
        return uri
    scheme, _, path = uri.partition("://")
    return f"{scheme.lower()}:///{os.path.abspath(os.path.expanduser(unquote(path[1:])))}"  # noqa: PTH100, PTH111 (text)


def file_of(uri: str) -> str:
    """Return the path of the file that a resolved URI names."""
    return uri.partition(":///")[2]


def file_uri(path: str, mode: str) -> str:
    """Return SQLite's own URI of a file; `mode` is `ro` or `rwc`."""
    return f"file:{quote(path)}?mode={mode}"


def shown(uri: str) -> str:
    """Return the URI with `***` in place of its password and of the values of secret parameters."""
    if driver_of(uri) in {"sqlite", "duckdb"}:
        return uri
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    secret = [(key, HIDDEN if _is_secret(key) else value) for key, value in _parameters(uri)]
    query = urlencode(secret, safe="*/:,") if parts.query else ""
    return urlunsplit(parts._replace(netloc=f"{name}{colon}{HIDDEN if colon else ''}{at}{host}", query=query))


def place(uri: str) -> str:
    """Return where the database is: the URI without its user, its password and all parameters that say how to connect."""
    if driver_of(uri) in {"sqlite", "duckdb"}:
        return uri
    parts = urlsplit(uri)
    kept = sorted((key, value) for key, value in _parameters(uri) if key in OF_A_PLACE)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(kept, safe="/:,"), fragment="")
    return re.sub(r"^postgres:", "postgresql:", urlunsplit(place))


def passwords(uri: str) -> list[str]:
    """Return the secrets in a URI, also as they are once they are unquoted."""
    found = [value for key, value in _parameters(uri) if _is_secret(key)]
    user = urlsplit(uri).netloc.rpartition("@")[0]
    secret = user.partition(":")[2]
    return [each for each in (secret, unquote(secret), *found) if each]


def _is_secret(key: str) -> bool:
    return key.endswith("password") or names_one(key)


def _parameters(uri: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(uri).query, keep_blank_values=True)
