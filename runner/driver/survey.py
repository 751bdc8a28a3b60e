"""What there is to do: the listed input held against the recorded plans. No model is loaded for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.driver import planning
from runner.driver.job import Job
from runner.errors import ConfigError, SinkRefused
from runner.fingerprint import compare
from runner.ledger.ledger import Ledger
from runner.ledger.recipe import Recorded
from runner.sources.schemas import refuse_missing
from runner.storage.locations import inside, is_skipped
from runner.storage.parallel import map_in_threads
from runner.types import Fragment, Input, Predict, Shard, Source
from runner.words.plain import counted, named, size
from runner.words.secrets import shown

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 3  # notes of one kind


@dataclass(frozen=True)
class Survey:
    """What there is to do.

    Attributes:
        schema: Of the columns that are read; `None` where no input has any.
        new: Shards of inputs that no plan covers; they become a further plan.
        pending: All shards that are not committed, recorded ones first.
        skipped: Inputs that `errors.skip_files` leaves out, planned or not.
        notes: For people.
    """

    schema: pa.Schema | None
    new: list[Shard]
    pending: list[Shard]
    skipped: list[str]
    notes: list[str]

    @property
    def columns(self) -> pa.Schema:
        """The schema; one without columns where no input has any."""
        import pyarrow as pa

        return self.schema if self.schema is not None else pa.schema([])


def find_work(job: Job, ledger: Ledger) -> Survey:
    """List the input, hold it against the plans, and plan what is new.

    Raises:
        ConfigError: No input, unreadable files, missing columns, or a covered file that has changed.
    """
    _refuse_twins(ledger)
    covered = ledger.covered()
    listed, ours = inputs(job, covered.values())
    gone = _gone(listed, covered)
    skipped = _skipped(job.errors.skip_files, [*(file.name for file in listed), *gone])
    left_out = set(skipped)
    files = [file for file in listed if file.name not in left_out]
    refuse_changed(files, covered)
    new = [file for file in files if file.name not in covered]
    notes = [*_none_note(job, listed), *_own_note(ours), *_skip_note(skipped), *_gone_note(gone), *_empty(new)]
    if ledger.plans and new and job.sink.save_mode != "append":
        _refuse_other_input(ledger, files, covered)
        notes.append(_uncovered(new, job.errors.on_new_input))
        new = []
    if not new:
        _refuse_to_replace_by_nothing(ledger)
        schema = ledger.recorded.source_schema if ledger.recorded else None
        return Survey(schema, [], ledger.pending(), skipped, notes)
    fragments, found = job.source.inspect(new, needed_columns(job))
    schema = agreed_schema(ledger.recorded, found)
    if schema is not None:
        refuse_missing(_named_columns(job), schema.names)
        _refuse_clash(job.predict, schema.names)
    shards = plan_new(job, ledger, fragments)
    return Survey(schema, shards, [*ledger.pending(), *shards], skipped, notes)


def _refuse_twins(ledger: Ledger) -> None:
    """Refuse a plan in which shards have the same id, as earlier versions could make one: one part would count for several shards."""
    if len({shard.id for shard in ledger.shards}) < ledger.next_sequence():
        raise SinkRefused(
            f"{ledger.store.place}: its recorded plan has several shards of one id, so rows may be missing without "
            f"a trace; predict anew into another {ledger.store.key}"
        )


def _refuse_to_replace_by_nothing(ledger: Ledger) -> None:
    """Refuse to overwrite predictions by nothing: an empty input may be a wrong path under `source.allow_empty`."""
    there = ledger.replaces.committed if ledger.replaces else ()
    if there:
        raise ConfigError(
            f"source.path: there is no input, and sink.save_mode=overwrite would replace the {counted(len(there), 'part')} in "
            f"{ledger.store.place} by nothing; mend the path, or delete the output yourself if an empty one is right"
        )


def inputs(job: Job, planned: Collection[Input]) -> tuple[list[Input], list[str]]:
    """The inputs, and the listed paths that lie in the job's own sink: these are left out, since a job does not predict its own parts.

    Args:
        job: Its source lists them.
        planned: Those that recorded plans cover.

    Raises:
        ConfigError: All files that were listed lie there.
    """
    listed = job.source.inputs_since(planned) if planned else job.source.inputs()
    ours = inside((file.name for file in listed), job.sink.records.root)
    if ours and len(ours) == len(listed):
        raise ConfigError(
            f"source.path: all of its {counted(len(ours), 'file')} lie below {job.sink.records.place}, such as {ours[0]}; "
            f"a job cannot predict its own output: give another {job.sink.records.key}"
        )
    left_out = set(ours)
    return [file for file in listed if file.name not in left_out] if ours else listed, ours


def _none_note(job: Job, listed: Sequence[Input]) -> list[str]:
    """A note where nothing is listed: it names the place, which may be the wrong one."""
    path = None if listed else getattr(job.source, "path", None)
    passed = " and passes source.filters" if job.source.filtered else ""
    return [f"no file matches {shown('source.path', path)}{passed}"] if path else []


def _own_note(ours: Sequence[str]) -> list[str]:
    return (
        [f"{counted(len(ours), 'file')} of source.path below sink.path left out, as output: {named(ours)}"]
        if ours
        else []
    )


def plan_new(job: Job, ledger: Ledger, fragments: Sequence[Fragment]) -> list[Shard]:
    """The shards of a further plan."""
    wanted = planning.target(fragments, job.shard_bytes, job.shard_rows)
    fingerprint = compare.fingerprint(job.fields) + (job.sink.edition() or "")
    return planning.make_shards(
        _divided(job.source, fragments, wanted), wanted.bytes, ledger.next_sequence(), fingerprint, wanted.rows
    )


def _divided(source: Source, fragments: Sequence[Fragment], wanted: planning.Target) -> list[Fragment]:
    """The fragments, of which those that are larger than a shard is to be are divided by their source, several at a time."""
    large = [fragment for fragment in fragments if planning.too_large(fragment, wanted)]
    pieces = iter(map_in_threads(lambda fragment: source.divide(fragment, *wanted), large))
    return [
        piece
        for fragment in fragments
        for piece in (next(pieces) if planning.too_large(fragment, wanted) else (fragment,))
    ]


def notes_on_size(job: Job, survey: Survey, workers: int) -> list[str]:
    """Notes on new shards that keep one worker busy for long while the others wait, with what people can do."""
    fragments = [fragment for shard in survey.new for fragment in shard.fragments]
    wanted = planning.target(fragments, job.shard_bytes, job.shard_rows).bytes
    big = [] if wanted is None else planning.keeps_workers_idle(survey.new, wanted, workers)
    return [
        f"{shard.fragments[0].input.name} is one shard ({size(shard.bytes)}), which one of {workers:,} workers predicts alone: "
        f"{job.source.how_to_split(shard.fragments[0])}"
        for shard in big[:FEW]
    ]


def needed_columns(job: Job) -> dict[str, str] | None:
    """The columns that are read, each with the config key that asks for it; `None` for all columns."""
    every = job.predict.columns is None or job.sink.keep_columns == "all"
    return None if every else _named_columns(job)


def _named_columns(job: Job) -> dict[str, str]:
    """The columns that the config names, each with its key."""
    asked = dict.fromkeys(job.predict.columns or (), job.columns_key)
    renamed = dict.fromkeys(job.predict.rename, "predict.rename")
    kept = dict.fromkeys(job.sink.keep_columns if job.sink.keep_columns != "all" else (), "sink.keep_columns")
    return {**kept, **renamed, **asked}


def _refuse_clash(predict: Predict, there: Sequence[str]) -> None:
    """Refuse a rename that gives the model two columns of one name."""
    for name, new in predict.rename.items():
        if new in (predict.columns or there) and new not in predict.rename:
            raise ConfigError(
                f"predict.rename: {name!r} would become {new!r}, which is another column that the model gets; "
                "leave that out of predict.columns, or rename it as well"
            )


def _uncovered(new: Sequence[Input], on_new_input: str) -> str:
    """The note on input that came after the plan.

    Raises:
        ConfigError: `errors.on_new_input=fail`.
    """
    what = f"{counted(len(new), 'input file')} in no recorded plan, NOT predicted: {named(file.name for file in new)}"
    if on_new_input == "fail":
        raise ConfigError(f"errors.on_new_input=fail: {what}; predict them with sink.save_mode=append")
    return f"{what}; sink.save_mode=append adds them"


def _refuse_other_input(ledger: Ledger, files: Sequence[Input], covered: Mapping[str, Input]) -> None:
    """Refuse to resume the predictions of entirely other inputs: a preset that lacks the day in its sink path would succeed every night."""
    if covered and not any(file.name in covered for file in files):
        raise SinkRefused(
            f"{ledger.store.place}: holds the predictions of other files ({named(covered)}), and of none of the "
            f"{counted(len(files), 'file')} of this input; give another {ledger.store.key}, or sink.save_mode=append to add them"
        )


def refuse_changed(files: Sequence[Input], covered: Mapping[str, Input]) -> None:
    """Refuse inputs that have changed since they were planned.

    Raises:
        ConfigError: Naming the files.
    """
    changed = [
        file.name
        for file in files
        if (was := covered.get(file.name)) and (was.size, was.version) != (file.size, file.version)
    ]
    if changed:
        raise ConfigError(
            f"source.path: {named(changed)} changed since it was planned; its predictions would mix two versions: "
            "put it back, or start over with sink.save_mode=overwrite or another sink.path"
        )


def _skipped(skip: Sequence[str], there: Sequence[str]) -> list[str]:
    """The names, listed or planned, that `errors.skip_files` leaves out."""
    if not skip:
        return []
    if idle := [each for each in skip if not any(is_skipped(path, [each]) for path in there)]:
        raise ConfigError(
            f"errors.skip_files={list(skip)}: no input file is called {named(idle)}; give a path, a name or a pattern"
        )
    return [path for path in there if is_skipped(path, skip)]


def _skip_note(skipped: Sequence[str]) -> list[str]:
    return [f"errors.skip_files: {counted(len(skipped), 'input file')} left out: {named(skipped)}"] if skipped else []


def _empty(new: Sequence[Input]) -> list[str]:
    empty = [file.name for file in new if not file.size]
    return [f"{counted(len(empty), 'input file')} of 0 bytes, taken as without rows: {named(empty)}"] if empty else []


def _gone(listed: Sequence[Input], covered: Mapping[str, Input]) -> list[str]:
    """The planned names that are not listed any more."""
    there = {file.name for file in listed}
    return [path for path in covered if path not in there]


def _gone_note(gone: Sequence[str]) -> list[str]:
    return [f"{counted(len(gone), 'planned input file')} no longer listed: {named(gone)}"] if gone else []


def agreed_schema(recorded: Recorded | None, found: pa.Schema | None) -> pa.Schema | None:
    """The source's schema: the recorded one if there is one. New inputs must fit it without loss.

    Raises:
        ConfigError: It does not: which columns.
    """
    was = recorded.source_schema if recorded else None
    if was is None or found is None:
        return found if was is None else was
    kinds = {column.name: column.type for column in found}
    differing = [column for column in was if column.name not in kinds or not _fits(kinds[column.name], column.type)]
    wrong = [
        f"{column.name!r} is {column.type} in the recorded plan, {kinds.get(column.name, 'missing')} in the new files"
        for column in differing
    ]
    if wrong:
        there = ", ".join(f"{column.name}: {column.type}" for column in differing if column.name in kinds)
        cast = f" (source.column_types={{{there}}} casts them, with sink.accept=[source.column_types])" if there else ""
        raise ConfigError(f"source.path: the new files do not have the recorded schema: {'; '.join(wrong)}{cast}")
    return was


def _fits(kind: pa.DataType, recorded: pa.DataType) -> bool:
    """Whether the recorded type holds every value of another type, as a column of fractions holds a day of whole numbers."""
    import pyarrow as pa

    both = [pa.schema([("", recorded)]), pa.schema([("", kind)])]
    try:
        return bool(pa.unify_schemas(both, promote_options="permissive").field(0).type == recorded)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
