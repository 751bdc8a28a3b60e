"""Generates the demo's data: a year of taxi rides, the same on every machine.

Schema and row counts follow the 2009 files of the public bucket that the classic example reads, so that the
demo needs no network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.storage.folder import Folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Floats = np.ndarray[Any, Any]

Shares = Mapping[Any, float]
"""Value to its share of all rows (0 to 1); None is null."""

YEAR = 2009
ROW_GROUP = 160_000  # rows
TAXED_FROM = 11  # the month (November) in which New York's MTA tax began
# Rows of each month, January first.
ROWS = (141062, 133932, 144014, 143087, 148108, 141981, 136394, 136999, 139985, 156198, 142893, 145976)
VENDORS: Shares = {"VTS": 0.47, "CMT": 0.45, "DDS": 0.08}
PASSENGERS: Shares = {0: 0.001, 1: 0.68, 2: 0.165, 3: 0.045, 4: 0.02, 5: 0.085, 6: 0.004}
RATE_CODES: Shares = {None: 0.992, "1": 0.007, "2": 0.001}
STORED: Shares = {None: 0.55, "0": 0.44, "1": 0.01}
PAYMENTS: Shares = {"CASH": 0.4, "Cash": 0.27, "Credit": 0.2, "CREDIT": 0.12, "No Charge": 0.01}
EXTRAS: Shares = {0.0: 0.55, 0.5: 0.35, 1.0: 0.1}
TOLLS: Shares = {0.0: 0.97, 4.15: 0.028, 8.3: 0.002}
# Share of the rides that begin in each two hours of the day, in percent.
TIMES = (7.3, 4.0, 2.1, 5.4, 9.1, 9.2, 9.8, 9.7, 8.9, 12.5, 11.8, 10.2)


def folder() -> Path:
    """Return where the data is kept: below `RUNNER_CACHE` if it is set, else below the platform's folder for caches."""
    given = os.environ.get("RUNNER_CACHE")
    return (Path(given).expanduser() if given else _caches() / "ray-batch-runner") / "taxi-v1"


def ensure(folder: Path, say: Callable[[str], None], rows: Sequence[int] = ROWS) -> None:
    """Generate the files that are missing.

    Args:
        folder: Where they belong; created if need be.
        say: Gets a line for each file as it is begun.
        rows: Rows of each month, January first.

    Raises:
        OSError: The folder cannot be written; the message says how to choose another.
    """
    missing = [month for month in range(1, len(rows) + 1) if not (folder / _name(month)).exists()]
    _write(folder, missing, rows, say)


def generate(folder: Path, *, say: Callable[[str], None], rows: Sequence[int] = ROWS) -> list[Path]:
    """Generate all files, replacing those that are there.

    Each appears under its name only when it is whole, and always with the same bytes (given the same versions
    of NumPy and PyArrow), so several processes may do this at once.

    Args:
        folder: Where to; created if need be.
        say: Gets a line for each file as it is begun.
        rows: Rows of each month, January first.

    Returns:
        The files' paths, January first.

    Raises:
        OSError: The folder cannot be written; the message says how to choose another.
    """
    months = range(1, len(rows) + 1)
    _write(folder, months, rows, say)
    return [folder / _name(month) for month in months]


def _caches() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _name(month: int) -> str:
    return f"{YEAR}-{month:02}.parquet"


def _write(folder: Path, months: Sequence[int], rows: Sequence[int], say: Callable[[str], None]) -> None:
    for position, month in enumerate(months, start=1):
        say(f"taxi: generating demo data {position}/{len(months)}")
        try:
            _write_month(folder, month, rows[month - 1])
        except OSError as error:
            raise OSError(f"{error} (RUNNER_CACHE names another folder for the demo's data)") from error


def _write_month(folder: Path, month: int, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(_rides(month, rows))
    sink: Any  # pyarrow asks only for `write`, its stubs for a whole file
    with Folder(str(folder)).publish(_name(month)) as sink:
        pq.write_table(table, sink, compression="snappy", row_group_size=ROW_GROUP)


# ---------------------------------------------------------------- one month


def _rides(month: int, rows: int) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng((YEAR, month))
    distance = _cents(rng.standard_gamma(1.5, rows, dtype=np.float32) * np.float32(1.8))
    pickup = _pickups(rng, month, rows)
    return {
        "vendor_id": _strings(rng, VENDORS, rows),
        "pickup_at": pickup,
        "dropoff_at": pickup + _durations(rng, distance),
        "passenger_count": _values(rng, PASSENGERS, rows, "int8"),
        "trip_distance": distance,
        **_places(rng, "pickup", rows),
        "rate_code_id": _strings(rng, RATE_CODES, rows),
        "store_and_fwd_flag": _strings(rng, STORED, rows),
        **_places(rng, "dropoff", rows),
        **_payments(rng, month, distance),
    }


def _payments(rng: np.random.Generator, month: int, distance: Floats) -> dict[str, Any]:
    import numpy as np

    rows = len(distance)
    payment = _strings(rng, PAYMENTS, rows)
    fare = np.float32(2.5) + np.float32(0.4) * np.ceil(distance * 6)  # by started sixths of a mile
    tip = _cents(fare * _random(rng, rows) * np.float32(0.4))
    amounts = {
        "fare_amount": fare,
        "extra": _values(rng, EXTRAS, rows, "float32"),
        "mta_tax": np.full(rows, 0.5 if month >= TAXED_FROM else 0, np.float32),
        "tip_amount": np.where(_by_card(payment), tip, np.float32(0)),
        "tolls_amount": _values(rng, TOLLS, rows, "float32"),
    }
    return {"payment_type": payment, **amounts, "total_amount": sum(amounts.values())}


def _by_card(payment: pa.Array[Any]) -> np.ndarray[Any, Any]:
    import numpy as np
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring(payment, "credit", ignore_case=True))


def _pickups(rng: np.random.Generator, month: int, rows: int) -> np.ndarray[Any, Any]:
    import calendar

    import numpy as np

    days = rng.integers(calendar.monthrange(YEAR, month)[1], size=rows)
    times = rng.choice(len(TIMES), rows, p=np.array(TIMES) / 100)
    seconds = (days * len(TIMES) + times) * 7200 + rng.integers(7200, size=rows)
    first = np.datetime64(f"{YEAR}-{month:02}-01", "us")
    return np.asarray(first + seconds.astype("timedelta64[s]"))


def _durations(rng: np.random.Generator, distance: Floats) -> np.ndarray[Any, Any]:
    minutes = 2 + distance * (2 + 3 * _random(rng, len(distance)))
    seconds: np.ndarray[Any, Any] = (minutes * 60).astype("timedelta64[s]")
    return seconds


def _places(rng: np.random.Generator, which: str, rows: int) -> dict[str, Floats]:
    """Return longitudes and latitudes around Midtown, or 0, 0 for the rides whose place is unknown."""
    known = _random(rng, rows) > 0.015
    return {
        f"{which}_longitude": _near(rng, -73.98, known),
        f"{which}_latitude": _near(rng, 40.75, known),
    }


def _near(rng: np.random.Generator, center: float, known: np.ndarray[Any, Any]) -> Floats:
    import numpy as np

    spread = np.float32(0.03) * rng.standard_normal(len(known), dtype=np.float32)
    return np.where(known, np.float32(center) + spread, np.float32(0))


# ---------------------------------------------------------------- values


def _picks(rng: np.random.Generator, shares: Shares, rows: int) -> np.ndarray[Any, Any]:
    """Return random positions in `shares`, each as often as its share says."""
    import numpy as np

    return np.asarray(rng.choice(len(shares), rows, p=list(shares.values())))


def _strings(rng: np.random.Generator, shares: Shares, rows: int) -> pa.Array[Any]:
    import pyarrow as pa

    return pa.array(list(shares), pa.string()).take(pa.array(_picks(rng, shares, rows)))


def _values(rng: np.random.Generator, shares: Shares, rows: int, dtype: str) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.asarray(np.array(list(shares), dtype)[_picks(rng, shares, rows)])


def _random(rng: np.random.Generator, rows: int) -> Floats:
    import numpy as np

    return rng.random(rows, dtype=np.float32)


def _cents(amount: Floats) -> Floats:
    import numpy as np

    return np.asarray(np.round(amount * 100) / 100)
