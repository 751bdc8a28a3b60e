"""How the SQL of databases differs: quoted names, placeholders for bound values, the names of types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """One way to write SQL.

    Attributes:
        name: `postgresql`, `sqlite`, `duckdb`, or `standard` for a database that is not known here.
        numbered: Whether placeholders are `$1`, `$2`; else each is `?`.
        quote: The character around names.
    """

    name: str
    numbered: bool = False
    quote: str = '"'

    def quoted(self, *names: str | None) -> str:
        """Return names as SQL takes them, whatever characters they have, joined by dots: a schema and a table. `None` is left out."""
        return ".".join(self.quote + name.replace(self.quote, 2 * self.quote) + self.quote for name in names if name)

    def placeholders(self, count: int, first: int = 1) -> list[str]:
        """Return the placeholders of so many bound values, of which the first one is number `first` of the statement."""
        return [f"${first + i}" if self.numbered else "?" for i in range(count)]


STANDARD = Dialect("standard")
DIALECTS = {
    "postgresql": Dialect("postgresql", numbered=True),
    "sqlite": Dialect("sqlite"),
    "duckdb": Dialect("duckdb"),
    "mysql": Dialect("mysql", quote="`"),
    "bigquery": Dialect("bigquery", quote="`"),
}


def dialect_named(driver: str) -> Dialect:
    """Return the dialect of an ADBC driver, by a name that its own name contains."""
    return next((found for name, found in DIALECTS.items() if name in driver.lower()), STANDARD)
