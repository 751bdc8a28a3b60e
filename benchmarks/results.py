"""What a program left behind: its own account of the time, and its predictions, which are held against the others'."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Values = np.ndarray[Any, Any]

TOLERANCE = 1e-3  # a batch of another size changes the last bits of a network's sums, which add up over its layers


def account(out: str, said: str) -> dict[str, float]:
    """The program's own account: `seconds` of predicting, and in ours the share in which the workers were `busy` with it.

    Ours keeps a report below `out`; the others print theirs last.
    """
    report = _report(out)
    if report is None:
        told: dict[str, float] = json.loads(said.splitlines()[-1])
        return told
    seconds = report["predicting_seconds"]
    return {"seconds": seconds, "busy": report["stages"]["predict"] / (seconds * report["workers"])}


def predictions(out: str) -> Values:
    """All that was predicted, sorted: a number per row, for a vector a weighted sum of its values."""
    import numpy as np
    from pyarrow import dataset
    from pyarrow.fs import FileSystem

    store, folder = FileSystem.from_uri(out)
    # Files and folders that begin with _ or . are not predictions, in ours and in the others.
    table = dataset.dataset(folder, format="parquet", filesystem=store).to_table()
    return np.sort(np.concatenate([_numbers(chunk) for chunk in table.column(0).chunks]))


def difference(found: Values, expected: Values) -> str | None:
    """What is wrong with sorted predictions; `None` if nothing is."""
    import numpy as np

    if len(found) != len(expected):
        return f"{len(found):,} predictions of {len(expected):,}"
    off = np.abs(found - expected)
    wrong = int((off > TOLERANCE * np.maximum(1, np.abs(expected))).sum())
    return f"{wrong:,} of {len(found):,} predictions differ, by up to {off.max():.3g}" if wrong else None


def _report(out: str) -> Any:
    """Of our one run into `out`, or `None`: somebody else wrote there."""
    from pyarrow.fs import FileSelector, FileSystem

    store, folder = FileSystem.from_uri(f"{out}/_runner/runs")
    for run in store.get_file_info(FileSelector(folder, allow_not_found=True)):
        return json.loads(store.open_input_file(f"{run.path}/report.json").read())
    return None


def _numbers(column: pa.Array) -> Values:
    import numpy as np
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):  # around a tensor's values
        return _numbers(column.storage)
    if not pa.types.is_nested(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
    rows = column.flatten().to_numpy().reshape(len(column), -1)
    return np.asarray(rows @ np.cos(np.arange(rows.shape[1])), dtype=float)
