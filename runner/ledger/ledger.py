"""The records of a sink as a run reads and continues them: recipe, plans, receipts, manifest, and which parts are committed.

The listing is the truth: a part that is listed under its planned name is committed. Plans are created if absent before the
first part and then followed; receipts say what is inside the parts, and a part without one is read once at the end.
"""

from __future__ import annotations

import copy
import io
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runner.errors import Incomplete, JobFailed, SinkRefused
from runner.fingerprint import compare
from runner.ledger import evidence, quarantine, records
from runner.ledger.mark import Mark
from runner.ledger.recipe import Recorded, seal
from runner.ledger.records import Entry
from runner.storage.parallel import THREADS, map_in_threads
from runner.storage.publishing import ask_before_publishing
from runner.storage.transience import is_of_storage, retrying
from runner.types import Input, Receipt, Seal, Shard, Sink, Store, Written
from runner.words.plain import named

RECIPE = "_runner/recipe.json"
MANIFEST = "_runner/manifest.json"
SUCCESS = "_SUCCESS"
REWRITE = "delete it and run the job again, which writes it anew from the receipts"
PREDICT_ANEW = "delete it and run the job again to predict it anew"
FLUSH_SECONDS = 10.0
FLUSH_RECEIPTS = 2_000
SMALL_PART = 8 * 1024**2  # bytes, up to which several parts may be in memory
OUR_RECORDS = re.compile(
    r"_runner/(recipe\.json|manifest\.json|sink\.json|plan-\d{6}\.parquet|quarantine/part-\d{8}-[0-9a-f]{16}\.parquet|parts/part-\d{8}-[0-9a-f]{16}\.json"
    r"|runs/[^/]+/(receipts-\d+\.jsonl|report\.json|report\.html|run\.log|first-batch-[0-9a-f]{16}\.arrow))"
)
OUR_TEMPORARY = re.compile(
    r"(.*/)?\.(part-\d{8}-[0-9a-f]{16}\.\w+|_SUCCESS|(recipe|manifest|mark|report)\.json|plan-\d{6}\.parquet|receipts-\d+\.jsonl"
    r"|run\.log|first-batch-[0-9a-f]{16}\.arrow)\.[0-9a-f]{8}\.tmp"
    r"|_runner/runs/[^/]+/first-batch-[0-9a-f]{16}\.arrow"
)


class Ledger:
    """The records of one sink, as one run sees and continues them.

    Attributes:
        recorded: The recipe, `None` in a fresh sink.
        plans: All recorded plans, in order.
        run_id: Names this run under `_runner/runs/`.
        seal: How the recipe that is in the sink begins; `None` where there is none.
        mark: By which a run holds the sink; whoever only reads never enters it.
        sizes: Of the parts that were there when it was opened, by shard.
        committed: Ids of the shards whose parts were there when it was opened, and of those committed since.
        replaces: The records of an older output, which lies in the sink untouched until a recipe is recorded.
    """

    replaces: Ledger | None = None

    def __init__(self, sink: Sink, run_id: str) -> None:
        """Read the recipe, the plans and one listing."""
        self.store: Store = sink.records
        self._sink, self.run_id = sink, run_id
        self.mark = Mark(self.store, run_id)
        self.seal: Seal | None = None
        self._listed = self.store.names()
        self.recorded = self._read_recipe()
        self.plans = self._read_plans()
        self.sizes = self._parts_there()
        self.committed = set(self.sizes)
        self._receipts: list[Receipt] = []
        self._flushed = time.monotonic()
        self._files = 0

    def _read_recipe(self) -> Recorded | None:
        text = self.store.read(RECIPE)
        self.seal = None if text is None else Seal(RECIPE, seal(text))
        try:
            return None if text is None else Recorded.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(RECIPE, error) from error

    def _damaged(self, name: str, error: Exception, remedy: str = "") -> SinkRefused:
        return SinkRefused(
            f"{self.store.place}: {name} cannot be read ({type(error).__name__}: {error}); "
            f"{remedy or f'restore it, or give another {self.store.key}'}"
        )

    def _read_plans(self) -> list[list[Shard]]:
        return [self._read_plan(name) for name in self.below("_runner/plan-")]

    def _read_plan(self, name: str) -> list[Shard]:
        import pyarrow as pa

        try:
            return records.plan_of(self.store.read(name) or b"")
        except (pa.ArrowException, KeyError) as error:
            raise self._damaged(name, error) from error

    def _parts_there(self) -> Mapping[str, int | None]:
        """The sizes of the planned parts that are there, by shard id. The listing keeps only what is no part."""
        sizes = self._sink.committed(self.shards, self._listed)
        for shard in self.shards:
            if shard.id in sizes:
                self._listed.pop(self.part(shard), None)
        self._listed = dict(self._listed)  # which takes less: a dictionary never shrinks
        return sizes

    # ------------------------------------------------ what there is

    @property
    def shards(self) -> list[Shard]:
        """All shards of all plans, in input order."""
        return [shard for plan in self.plans for shard in plan]

    def part(self, shard: Shard) -> str:
        """What the sink calls the shard's part."""
        return self._sink.part(shard)

    def pending(self) -> list[Shard]:
        """Shards that are planned and not committed."""
        return [shard for shard in self.shards if shard.id not in self.committed]

    @property
    def complete(self) -> bool:
        """Whether `_SUCCESS` and the manifest were there when the ledger was opened, and nothing is pending."""
        return {SUCCESS, MANIFEST} <= self._listed.keys() and self.recorded is not None and not self.pending()

    @property
    def empty(self) -> bool:
        """Whether the sink holds nothing at all but hidden files."""
        return self.recorded is None and not self.plans and not any(map(_is_visible, self._listed))

    @property
    def half_deleted(self) -> bool:
        """Whether a run that was replacing this output was stopped while it deleted it."""
        return self.recorded is not None and self.recorded.replaced

    def listed(self, name: str) -> bool:
        """Whether the last listing had this name, which is not the name of a part."""
        return name in self._listed

    def below(self, prefix: str) -> list[str]:
        """The listed names that begin so, without the parts."""
        return sorted(name for name in self._listed if name.startswith(prefix))

    def strangers(self) -> list[str]:
        """What is there and is not ours: visible files that no record names, and the strangers that the sink names."""
        return sorted([*filter(_is_visible, self._listed), *self._sink.strangers(self.shards)])

    def differences(self, fields: Mapping[str, Any], accept: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
        """The fingerprint fields in which a job differs from the recorded one, without accepted ones: by name, (recorded, given)."""
        different = {} if self.recorded is None else compare.differences(self.recorded.fields, fields)
        return {name: pair for name, pair in different.items() if name not in accept}

    def covered(self) -> dict[str, Input]:
        """The inputs of all plans, by name."""
        return {fragment.input.name: fragment.input for shard in self.shards for fragment in shard.fragments}

    # ------------------------------------------------ replacing an older output

    def as_if_empty(self) -> Ledger:
        """An empty ledger, to plan the output that will replace this one. Nothing is deleted before its recipe is recorded."""
        fresh = copy.copy(self)
        fresh.replaces = self
        fresh.sizes = {}
        fresh.recorded, fresh.seal, fresh.plans, fresh.committed, fresh._listed = None, None, [], set(), {}
        return fresh

    def _delete_replaced(self, older: Ledger) -> None:
        """Delete the older output, if it is still what it was when this run read it.

        Raises:
            Incomplete: It is not: another run has written since.
        """
        self.mark.confirm()
        now = Ledger(self._sink, self.run_id)
        if (now.recorded, now.plans, now.committed) != (older.recorded, older.plans, older.committed):
            raise Incomplete(
                f"{self.store.place}: another run wrote here while this one prepared to replace the output; nothing was deleted"
            )
        now.wipe()

    def wipe(self) -> None:
        """Delete what our own records name, except what this run itself has written.

        `_SUCCESS` goes first, so that no reader trusts the rest. Then the recipe says that the output is being replaced: if this
        run dies now, the next one deletes the rest, rather than taking it for output that is worth finishing. Its seal is another one from
        now on, so that no worker of an earlier run publishes a part that nobody would delete.
        """
        self.store.delete(SUCCESS)
        if self.recorded is not None:
            self.rewrite_recipe(replace(self.recorded, replaced=True, run=self.run_id))
        ours = [
            name
            for name in sorted(self._listed)
            if OUR_RECORDS.fullmatch(name) and not name.startswith(self.in_run(""))
        ]
        plans = [name for name in ours if name.startswith("_runner/plan-")]
        others = [name for name in ours if name not in {*plans, RECIPE}]
        self._sink.remove([shard for shard in self.shards if shard.id in self.committed])
        for _ in map_in_threads(self.store.delete, others):
            pass
        for name in [*reversed(plans), RECIPE]:  # what names the rest goes last
            self.store.delete(name)

    # ------------------------------------------------ recording

    def record_recipe(self, recipe: Recorded) -> Recorded:
        """Create the recipe, after deleting the output that it replaces. If another run created one first, that one counts.

        Raises:
            Incomplete: Another run has changed the output that this one was to replace.
            SinkRefused: Another run of another job was first.
        """
        if self.replaces is not None:
            self._delete_replaced(self.replaces)
            self.replaces = None
        self.mark.ensure_held()
        recipe = replace(recipe, run=self.run_id)
        text = recipe.to_json()
        if self.store.create(RECIPE, text):
            self.recorded, self.seal = recipe, Seal(RECIPE, seal(text))
        else:
            theirs = self._read_recipe()
            if theirs is None or theirs.fingerprint != recipe.fingerprint:
                raise SinkRefused(f"{self.store.place}: another job started writing here at the same moment")
            self.recorded = theirs
        return self.recorded

    def rewrite_recipe(self, recipe: Recorded) -> Recorded:
        """Replace the recipe: a difference was accepted, or the first row that was ever predicted fixed the output schema."""
        self.mark.ensure_held()
        text = recipe.to_json()
        self.store.replace(RECIPE, text)
        self.recorded, self.seal = recipe, Seal(RECIPE, seal(text))
        return recipe

    def record_plan(self, shards: Sequence[Shard]) -> None:
        """Create the next plan. If another run created it first, follow that one."""
        self.mark.ensure_held()
        name = f"_runner/plan-{len(self.plans):06d}.parquet"
        if self.store.create(name, records.plan_file(shards)):
            self.plans.append(list(shards))
        else:
            self._listed[name] = 0
            self.plans = self._read_plans()

    def drop_stale_temporaries(self) -> None:
        """Delete what killed runs left: half-written files on a local disk, and first batches."""
        for name in self._listed:
            if OUR_TEMPORARY.fullmatch(name):
                self.store.delete(name)

    def refuse_contradicted(self) -> None:
        """Refuse to continue an output in which a part is not what was committed.

        Raises:
            JobFailed: Naming the parts.
        """
        if self.sizes and not self.complete:
            self._entries_of(self.sizes)
        self.sizes = {}

    def next_sequence(self) -> int:
        """The number of the first shard of a further plan."""
        return sum(len(plan) for plan in self.plans)

    def unmark(self) -> None:
        """Delete `_SUCCESS`, before something is added to the output."""
        self.mark.ensure_held()
        self.store.delete(SUCCESS)
        self._listed.pop(SUCCESS, None)

    def receive(self, receipt: Receipt, shard: Shard) -> None:
        """Count a part as committed. Its receipt is stored at most 10 s, or 2,000 receipts, later."""
        self.committed.add(shard.id)
        self._receipts.append(receipt)
        if len(self._receipts) >= FLUSH_RECEIPTS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store the receipts that came since the last time, unless another run has taken the sink over: they do not describe its parts."""
        if self._receipts:
            self.mark.ensure_held()
            lines = "".join(map(records.receipt_line, self._receipts))
            self.store.replace(self.in_run(f"receipts-{self._files}.jsonl"), lines.encode())
            self._files += 1
            self._receipts = []
        self._flushed = time.monotonic()

    def in_run(self, name: str) -> str:
        """The name of a file of this run among the records."""
        return f"_runner/runs/{self.run_id}/{name}"

    # ------------------------------------------------ the end

    def finish(self, skipped: Iterable[str] = (), *, filtered: bool = False) -> None:
        """Prove by a fresh listing that every planned part is there, write the manifest, then `_SUCCESS`.

        Args:
            skipped: Input files that were left out by name.
            filtered: Whether `source.filters` left out rows.

        Raises:
            Incomplete: The listing and the plans differ: which files. Or another run has taken the sink over.
            JobFailed: A part is damaged, or is not what was committed.
        """
        self.mark.confirm()
        self.flush()
        self._listed = self.store.names()
        sizes = self._parts_there()
        missing = [self.part(shard) for shard in self.shards if shard.id not in sizes]
        if missing or (strangers := self.strangers()):
            what = f"{named(missing)} missing" if missing else f"{named(strangers)} not ours"
            raise Incomplete(f"{self.store.place}: at the end the listing and the plans differ: {what}")
        everything_skipped = sorted({*skipped, *self.skipped()})
        entries = self._entries_of(sizes)
        self._drop_stale_quarantine(entries)
        self._read_back(entries, sizes, everything_skipped, filtered)
        del sizes
        self.mark.confirm()
        retrying(lambda: self._publish_manifest(everything_skipped, entries))
        self.mark.confirm()
        for number, plan in enumerate(self.plans):
            with ask_before_publishing(self.mark.confirm):
                self._sink.publish(number, ((shard, Entry.unpacked(entries[shard.id]).written) for shard in plan))
        self.mark.ensure_held()
        self.store.replace(SUCCESS, b"")

    def _publish_manifest(self, skipped: Sequence[str], entries: Mapping[str, bytes]) -> None:
        assert self.recorded is not None
        with self.store.publish(MANIFEST) as file:
            for piece in records.manifest(self.recorded.fingerprint, skipped, self.shards, self.part, entries):
                file.write(piece)

    def skipped(self) -> list[str]:
        """The inputs that the manifest lists as left out. A part that was committed without an input stays without it."""
        return list(self._of_manifest("skipped", []))

    def accepted_bad_rows(self) -> int:
        """How many rows were in quarantine when a run last completed this output."""
        return int(self._of_manifest("rows_quarantined", 0))

    def _of_manifest(self, name: str, absent: Any) -> Any:
        try:
            return retrying(self._head)[name] if MANIFEST in self._listed else absent
        except FileNotFoundError:  # gone since
            return absent
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(MANIFEST, error, REWRITE) from error

    def _head(self) -> dict[str, Any]:
        """The beginning of the manifest. The rest of it is as large as the plan, and is not read."""
        with self.store.opened(MANIFEST) as file:
            return records.head_of(file)

    def _drop_stale_quarantine(self, entries: Mapping[str, bytes]) -> None:
        """Delete quarantine files of tries that died, where a later try of the shard found no bad rows."""
        if not self.below(quarantine.FOLDER):
            return
        for shard in self.shards:
            name, entry = quarantine.file_name(shard), entries[shard.id]
            if name in self._listed and entry and not Entry.unpacked(entry).rows_quarantined:
                self.store.delete(name)

    def _entries_received(self) -> Iterator[tuple[str, Entry]]:
        """What the receipts of all runs say of the shards, in the order in which they were written: the last one of a shard counts."""
        names = [name for name in self.below("_runner/runs/") if "/receipts-" in name]
        lines = (line for content in map_in_threads(self.store.read, names) for line in (content or b"").splitlines())
        return (found for found in map(records.entry_of, lines) if found is not None)

    def _entries_of(self, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
        """What the receipts say of the parts: a packed entry by shard id, empty where there is no receipt.

        Raises:
            JobFailed: A part has another size than it had when it was committed.
        """
        entries, contradicted = evidence.settled(self._entries_received(), sizes)
        if contradicted:
            wrong = [
                f"{self.part(shard)} ({sizes[shard.id]:,} bytes, {contradicted[shard.id]:,} were committed)"
                for shard in self.shards
                if shard.id in contradicted
            ]
            raise JobFailed(
                f"{self.store.place}: not what was committed, by the receipts: {named(wrong)}; {PREDICT_ANEW}"
            )
        return entries

    def _read_back(
        self, entries: dict[str, bytes], sizes: Mapping[str, int | None], skipped: Collection[str], filtered: bool
    ) -> None:
        """Add entries for parts whose receipts were lost with their driver: each is read once, several at a time if they are small.

        What others have rewritten since it was published cannot be read: the manifest says what it was, which was written before that.

        Raises:
            JobFailed: A part is damaged, or has rows that its plan does not know of, or lacks some.
        """
        entries.update(self._rewritten([shard for shard in self.shards if not entries[shard.id]]))
        lost = [shard for shard in self.shards if not entries[shard.id]]
        largest = max((sizes[shard.id] or 0 for shard in lost), default=0)
        read = partial(self._read_part, sizes)
        found = map_in_threads(read, lost, THREADS if largest <= SMALL_PART else 1)
        for shard, entry in zip(lost, found, strict=True):
            if wrong := evidence.wrong_count(shard, entry.rows_in, skipped, filtered=filtered):
                raise JobFailed(f"{self.store.path(self.part(shard))}: {wrong}; {PREDICT_ANEW}")
            entries[shard.id] = entry.packed()

    def rewritten(self, shards: Sequence[Shard]) -> Collection[str]:
        """Ids of those of these shards whose published parts others have rewritten, so that nothing can be proven by reading them."""
        return self._sink.rewritten(shards) if shards else ()

    def _rewritten(self, lost: Sequence[Shard]) -> dict[str, bytes]:
        """The manifest's entries of those of these shards whose parts were rewritten."""
        rewritten = self.rewritten(lost)
        text = self.store.read(MANIFEST) if rewritten else None
        told = {} if text is None else {part["shard"]: records.entry_in(part) for part in json.loads(text)["parts"]}
        return {shard: entry.packed() for shard in rewritten if (entry := told.get(shard)) is not None}

    def _read_part(self, sizes: Mapping[str, int | None], shard: Shard) -> Entry:
        found, (bad, aside) = self.examine(shard, sizes[shard.id]), self.quarantined(shard)
        rows = found.rows or 0
        return Entry(rows + bad, rows, bad, found.bytes, found.checksum, aside)

    def examine(self, shard: Shard, size: int | None) -> Written:
        """What a part holds.

        Args:
            shard: Whose part.
            size: As it was listed.

        Raises:
            JobFailed: It is damaged.
            Incomplete: It is gone since it was listed.
        """
        name = self.part(shard)
        try:
            found = self._sink.examine(shard, size)
        except Exception as error:
            if is_of_storage(error):
                raise
            raise JobFailed(
                f"{self.store.path(name)}: is damaged ({type(error).__name__}: {error}); {PREDICT_ANEW}"
            ) from error
        if found is None:
            raise Incomplete(f"{name}: is gone since it was listed; run the job again to predict it anew")
        return found

    def quarantined(self, shard: Shard) -> tuple[int, str]:
        """The number of rows in the shard's quarantine file, and its checksum; 0 and `""` if there is none.

        Raises:
            JobFailed: It is damaged.
        """
        import hashlib

        import pyarrow as pa
        import pyarrow.parquet as pq

        name = quarantine.file_name(shard)
        if name not in self._listed:
            return 0, ""
        content = self.store.read(name) or b""
        try:
            rows = int(pq.read_metadata(io.BytesIO(content)).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise JobFailed(
                f"{name}: is damaged ({type(error).__name__}: {error}); delete it and {self.part(shard)}, and run the job again, "
                "which predicts that part anew"
            ) from error
        return rows, f"sha256:{hashlib.sha256(content).hexdigest()}"

    def seen_before(self) -> tuple[int, int]:
        """How many rows earlier runs read and put aside, as far as their receipts were stored."""
        counts = {shard: (entry.rows_in, entry.rows_quarantined) for shard, entry in self._entries_received()}
        return sum(rows for rows, _ in counts.values()), sum(bad for _, bad in counts.values())


def _is_visible(name: str) -> bool:
    return not any(segment.startswith(("_", ".")) for segment in name.split("/"))
