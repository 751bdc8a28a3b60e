"""What a sink's records say: the recipe, the plans, what is committed, receipts, the manifest.

The listing is the truth: a part that is listed under its planned name is committed. Plans are created if absent before the
first part and then followed; receipts say what is inside the parts, and a part without one is read once at the end.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner import planning, quarantine
from runner.errors import Incomplete, SinkRefused
from runner.recipe import Recorded
from runner.storage import Store
from runner.types import File, Receipt, Shard, Sink, Stages

if TYPE_CHECKING:
    import pyarrow as pa

RECIPE = "_runner/recipe.json"
MANIFEST = "_runner/manifest.json"
SUCCESS = "_SUCCESS"
FLUSH_SECONDS = 10.0
OUR_RECORDS = re.compile(
    r"_runner/(recipe\.json|manifest\.json|plan-\d{6}\.parquet|quarantine/part-\d{8}-[0-9a-f]{16}\.parquet"
    r"|runs/[^/]+/(receipts-\d+\.jsonl|report\.json|report\.html))"
)
OUR_TEMPORARY = re.compile(
    r"(.*/)?\.(part-\d{8}-[0-9a-f]{16}\.\w+|_SUCCESS|(recipe|manifest|mark|report)\.json|plan-\d{6}\.parquet|receipts-\d+\.jsonl)"
    r"\.[0-9a-f]{8}\.tmp"
)
NAMED = 3  # files that a message names before it counts the rest


class Ledger:
    """The records of one sink, as one run sees and continues them.

    Attributes:
        recorded: The recipe, `None` in a fresh sink.
        plans: All recorded plans, in order.
        run_id: Names this run under `_runner/runs/`.
        committed: Names of the parts that were listed when it was opened, and those committed since.
    """

    def __init__(self, sink: Sink, run_id: str) -> None:
        """Read the recipe, the plans and one listing."""
        self.store: Store = sink.store
        self._sink, self.run_id = sink, run_id
        self._listed = self.store.names()
        self.recorded = self._read_recipe()
        self.plans = self._read_plans()
        self.committed = {self.part(shard) for shard in self.shards} & set(self._listed)
        self._receipts: list[Receipt] = []
        self._flushed = time.monotonic()
        self._files = 0

    def _read_recipe(self) -> Recorded | None:
        text = self.store.read(RECIPE)
        try:
            return None if text is None else Recorded.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(RECIPE, error) from error

    def _damaged(self, name: str, error: Exception) -> SinkRefused:
        return SinkRefused(
            f"sink.path={self.store.root}: {name} cannot be read ({type(error).__name__}: {error}); "
            "restore it, or give another sink.path"
        )

    def _read_plans(self) -> list[list[Shard]]:
        return [self._read_plan(name) for name in self.below("_runner/plan-")]

    def _read_plan(self, name: str) -> list[Shard]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return planning.from_rows(pq.read_table(io.BytesIO(self.store.read(name) or b"")).to_pylist())
        except (pa.ArrowException, KeyError) as error:
            raise self._damaged(name, error) from error

    # ------------------------------------------------ what there is

    @property
    def shards(self) -> list[Shard]:
        """All shards of all plans, in input order."""
        return [shard for plan in self.plans for shard in plan]

    def part(self, shard: Shard) -> str:
        """Path of the shard's part below the sink."""
        return self._sink.file_name(shard)

    def pending(self) -> list[Shard]:
        """Shards that are planned and not committed."""
        return [shard for shard in self.shards if self.part(shard) not in self.committed]

    @property
    def complete(self) -> bool:
        """Whether `_SUCCESS` was there when the ledger was opened, and nothing is pending."""
        return SUCCESS in self._listed and self.recorded is not None and not self.pending()

    @property
    def empty(self) -> bool:
        """Whether the sink holds nothing at all but hidden files."""
        return self.recorded is None and not self.plans and not self._visible()

    def _visible(self) -> list[str]:
        return [name for name in self._listed if not any(segment.startswith(("_", ".")) for segment in name.split("/"))]

    def listed(self, name: str) -> bool:
        """Whether the last listing had this file."""
        return name in self._listed

    def below(self, prefix: str) -> list[str]:
        """The listed files whose path begins so."""
        return sorted(name for name in self._listed if name.startswith(prefix))

    def strangers(self) -> list[str]:
        """Visible files that no record of ours names."""
        ours = {self.part(shard) for shard in self.shards}
        return sorted(name for name in self._visible() if name not in ours)

    def differences(self, fields: Mapping[str, Any], accept: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
        """Fields of the fingerprint in which a job differs from the recorded one and that are not accepted: name to (there, now)."""
        different = {} if self.recorded is None else planning.differences(self.recorded.fields, fields)
        return {name: pair for name, pair in different.items() if name not in accept}

    def covered(self) -> dict[str, File]:
        """The input files of all plans, by path."""
        return {fragment.file.path: fragment.file for shard in self.shards for fragment in shard.fragments}

    # ------------------------------------------------ recording

    def record_recipe(self, recipe: Recorded) -> Recorded:
        """Create the recipe; what another run created first wins.

        Raises:
            SinkRefused: Another run of another job was first.
        """
        if self.store.create(RECIPE, recipe.to_json()):
            self.recorded = recipe
        else:
            theirs = self._read_recipe()
            if theirs is None or theirs.fingerprint != recipe.fingerprint:
                raise SinkRefused(f"sink.path={self.store.root}: another job started writing here at the same moment")
            self.recorded = theirs
        return self.recorded

    def rewrite_recipe(self, recipe: Recorded) -> Recorded:
        """Replace the recipe: a difference was accepted, or the first row ever fixed the output schema."""
        self.store.replace(RECIPE, recipe.to_json())
        self.recorded = recipe
        return recipe

    def record_plan(self, shards: Sequence[Shard]) -> None:
        """Create the next plan; what another run created first is followed instead."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(list(planning.to_rows(shards)), schema=_plan_schema()),
            buffer,
            compression="zstd",
        )
        name = f"_runner/plan-{len(self.plans):06d}.parquet"
        if self.store.create(name, buffer.getvalue()):
            self.plans.append(list(shards))
        else:
            self._listed[name] = 0
            self.plans = self._read_plans()

    def drop_stale_temporaries(self) -> None:
        """Delete what killed runs left half written on a local disk."""
        for name in self._listed:
            if OUR_TEMPORARY.fullmatch(name):
                self.store.delete(name)

    def next_sequence(self) -> int:
        """The number of the first shard of a further plan."""
        return sum(len(plan) for plan in self.plans)

    def unmark(self) -> None:
        """Take `_SUCCESS` away before something is added."""
        self.store.delete(SUCCESS)
        self._listed.pop(SUCCESS, None)

    def receive(self, receipt: Receipt, shard: Shard) -> None:
        """Count a part as committed; its receipt is on disk at most 10 s later."""
        self.committed.add(self.part(shard))
        self._receipts.append(receipt)
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the receipts received since the last time."""
        if self._receipts:
            lines = "".join(json.dumps(asdict(receipt)) + "\n" for receipt in self._receipts)
            self.store.replace(self.in_run(f"receipts-{self._files}.jsonl"), lines.encode())
            self._files += 1
            self._receipts = []
        self._flushed = time.monotonic()

    def in_run(self, name: str) -> str:
        """Path of a file of this run below the sink."""
        return f"_runner/runs/{self.run_id}/{name}"

    # ------------------------------------------------ the end

    def finish(self, skipped: Iterable[str] = ()) -> None:
        """Prove by a fresh listing that every planned part is there, write the manifest, then `_SUCCESS`.

        Args:
            skipped: Input files that were left out by name.

        Raises:
            Incomplete: The listing and the plans differ: which files.
        """
        self.flush()
        self._listed = self.store.names()
        missing = sorted({self.part(shard) for shard in self.shards} - set(self._listed))
        if missing or (strangers := self.strangers()):
            what = f"{named(missing)} missing" if missing else f"{named(strangers)} not ours"
            raise Incomplete(f"sink.path={self.store.root}: at the end the listing and the plans differ: {what}")
        receipts = self._all_receipts()
        self._drop_stale_quarantine(receipts)
        skipped = {*skipped, *self.skipped()}
        self.store.replace(MANIFEST, json.dumps(self._manifest(receipts, skipped), indent=1).encode())
        self.store.replace(SUCCESS, b"")

    def skipped(self) -> list[str]:
        """The input files that the manifest says were left out: a part that was committed without a file stays without it."""
        text = self.store.read(MANIFEST) if MANIFEST in self._listed else None
        try:
            return [] if text is None else json.loads(text)["skipped"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(MANIFEST, error) from error

    def _drop_stale_quarantine(self, receipts: Mapping[str, Receipt]) -> None:
        """A try that died after its quarantine may have been followed by one without bad rows: its file says nothing true."""
        for shard in self.shards:
            receipt = receipts.get(shard.id)
            if receipt is not None and not receipt.rows_quarantined and quarantine.file_name(shard) in self._listed:
                self.store.delete(quarantine.file_name(shard))

    def _manifest(self, receipts: Mapping[str, Receipt], skipped: Iterable[str]) -> dict[str, Any]:
        assert self.recorded is not None
        parts = [self._manifest_part(shard, receipts.get(shard.id)) for shard in self.shards]
        totals = {key: sum(part[key] for part in parts) for key in ("rows_in", "rows_out", "rows_quarantined", "bytes")}
        return {"fingerprint": self.recorded.fingerprint, **totals, "skipped": sorted(skipped), "parts": parts}

    def _manifest_part(self, shard: Shard, receipt: Receipt | None) -> dict[str, Any]:
        found = receipt or self._read_back(shard)
        inputs = [
            {
                "path": fragment.file.path,
                "version": fragment.file.version,
                "size": fragment.file.size,
                "row_groups": fragment.row_groups,
            }
            for fragment in shard.fragments
        ]
        return {
            "part": self.part(shard),
            "shard": shard.id,
            "rows_in": found.rows_in,
            "rows_out": found.rows_out,
            "rows_quarantined": found.rows_quarantined,
            "bytes": found.bytes_out,
            "checksum": found.checksum,
            "input": inputs,
        }

    def _all_receipts(self) -> dict[str, Receipt]:
        names = sorted(name for name in self._listed if name.startswith("_runner/runs/") and "/receipts-" in name)
        lines = (line for name in names for line in (self.store.read(name) or b"").splitlines())
        return {receipt.shard: receipt for receipt in map(_receipt, lines) if receipt is not None}

    def _read_back(self, shard: Shard) -> Receipt:
        """A part whose receipt died with its driver, read once."""
        import hashlib

        content = self.store.read(self.part(shard)) or b""
        rows, bad = self._sink.count_rows(content), self.quarantined(shard)
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return Receipt(shard.id, rows + bad, rows, bad, len(content), checksum, Stages(), "")

    def quarantined(self, shard: Shard) -> int:
        """Rows in the shard's quarantine file."""
        import pyarrow.parquet as pq

        name = quarantine.file_name(shard)
        return int(pq.read_metadata(io.BytesIO(self.store.read(name) or b"")).num_rows) if name in self._listed else 0

    def seen_before(self) -> tuple[int, int]:
        """Rows read and rows quarantined by earlier runs, as far as their receipts tell."""
        receipts = self._all_receipts().values()
        return sum(receipt.rows_in for receipt in receipts), sum(receipt.rows_quarantined for receipt in receipts)

    def wipe(self) -> Ledger:
        """Delete what our own records name, and nothing else; `_SUCCESS` first, so that no reader trusts the rest."""
        self.store.delete(SUCCESS)
        records = sorted(name for name in self._listed if OUR_RECORDS.fullmatch(name))
        plans = [name for name in records if name.startswith("_runner/plan-")]
        others = [name for name in records if name not in {*plans, RECIPE}]
        for name in [
            *sorted(self.committed),
            *others,
            *reversed(plans),
            RECIPE,
        ]:  # what names the rest goes last
            self.store.delete(name)
        return Ledger(self._sink, self.run_id)


def _receipt(line: bytes) -> Receipt | None:
    """A receipt, `None` for a damaged line: its part is then read once, as if there had been none."""
    try:
        content = json.loads(line)
        return Receipt(**{**content, "stages": Stages(*content["stages"]), "complaints": tuple(content["complaints"])})
    except (ValueError, KeyError, TypeError):
        return None


def _plan_schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    kinds = [number, text, text, text, number, text, number, number, number, number, number]
    return pa.schema(list(zip(planning.COLUMNS, kinds, strict=True)))


def named(names: Iterable[str]) -> str:
    """The first few of many names."""
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
