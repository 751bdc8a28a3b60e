"""How busy a predictor is that needs no CPU of this machine, as one on a GPU: input and output on S3, 50 ms before each request.

python benchmarks/busy.py --shards 96 --mode processes
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.places import environment, object_storage  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd

BATCH, BATCHES = 10, 10  # rows of a batch, batches of a shard


def load(seconds: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A model that only takes its time."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        time.sleep(seconds)
        return batch[["x"]].mul(2).rename(columns={"x": "twice"})

    return predict


def write_input(folder: Path, shards: int) -> None:
    """A file for each shard."""
    folder.mkdir()
    rows = BATCH * BATCHES
    for i in range(shards):
        pq.write_table(pa.table({"x": range(i * rows, (i + 1) * rows)}), folder / f"{i:05}.parquet")


def predicted(place: str, folder: Path, mode: str, seconds: float) -> dict[str, Any]:
    """Run the job; returns its report."""
    command = [
        sys.executable, "-m", "runner", "source=parquet", f"source.path={place}/in", f"sink.path={place}/out", f"mode={mode}",
        "model=custom", "model._target_=benchmarks.busy.load", f"model.seconds={seconds}", f"batch_size={BATCH}",
        "shard_bytes=null", f"hydra.run.dir={folder / 'hydra'}",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    import fsspec

    fs = fsspec.filesystem("s3")
    [report] = (path for path in fs.find(f"{place}/out/_runner/runs") if path.endswith("report.json"))
    content: dict[str, Any] = json.loads(fs.cat_file(report))
    return content


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=0.5, help="that the model takes for a shard")
    parser.add_argument("--mode", default="processes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, environment({"PYTHONPATH": str(ROOT)}):
        write_input(Path(folder) / "in", given.shards)
        with object_storage(Path(folder)) as place:
            report = predicted(place, Path(folder), given.mode, given.seconds / BATCHES)
    stages, whole = report["stages"], report["workers"] * report["predicting_seconds"]
    print(f"{given.shards} shards of {given.seconds:g} s, mode={given.mode}, {report['workers']} workers: "
          f"{stages['predict'] / whole:.0%} of their time predicting, {stages['read'] / whole:.0%} waiting to read, "
          f"{stages['write'] / whole:.0%} waiting to write")  # fmt: skip


if __name__ == "__main__":
    main()
