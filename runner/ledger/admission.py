"""Whether this job's parts may stand beside what the sink holds: refuse what it must not touch, and make ready what it may."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.errors import SinkRefused
from runner.fingerprint import compare
from runner.fingerprint.compare import NOT_GIVEN
from runner.fingerprint.sealed import told_difference
from runner.ledger.ledger import Ledger
from runner.types import SaveMode
from runner.words.plain import named

DIGEST = "sha256:"


def refuse(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> None:
    """Refuse a sink that this job must not touch; changes nothing.

    Raises:
        SinkRefused: It holds another job's output, files that are not ours, or anything at all with `error`.
    """
    if strangers := ledger.strangers():
        _refuse_other_form(ledger, fields, strangers)
        files = ledger.store.key == "sink.path"
        held = "files" if files else "rows"
        remedy = "give another path, or move them" if files else f"give another {ledger.store.key}, or delete them"
        raise SinkRefused(
            f"{ledger.store.place}: holds {held} that this job did not write: {named(strangers)}; {remedy}"
        )
    if save_mode == "error" and not ledger.empty:
        raise SinkRefused(f"{ledger.store.place}: not empty, and sink.save_mode=error")
    refused = ledger.differences(fields, accept)
    if refused and ledger.committed and save_mode != "overwrite":
        raise SinkRefused(_refusal(ledger, refused))


def _refuse_other_form(ledger: Ledger, fields: Mapping[str, Any], strangers: Sequence[str]) -> None:
    """Refuse parts of the recorded plan that another `sink.format` or `sink.layout` wrote, by what differs.

    Raises:
        SinkRefused: All strangers are such parts.
    """
    different = {name: pair for name, pair in ledger.differences(fields).items() if name.startswith("sink")}
    planned = {shard.name for shard in ledger.shards}
    if different and all(posixpath.basename(name).partition(".")[0] in planned for name in strangers):
        lines = [f"  {name}  there: {_spelled(was)}   now: {_spelled(now)}" for name, (was, now) in different.items()]
        raise SinkRefused(
            "\n".join(
                [f"{ledger.store.place}: holds parts that this job wrote in another form ({named(strangers)}); these differ:",
                 *lines, f"give the recorded values again, or another {ledger.store.key}"]
            )
        )  # fmt: skip


def make_ready(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> Ledger:
    """Make a sink that was not refused ready; a difference that is accepted is recorded.

    Returns:
        The ledger to go on with.

    Raises:
        JobFailed: A part that is there is not what was committed.
    """
    ledger.drop_stale_temporaries()
    if is_replaced(ledger, fields, save_mode, accept):
        return ledger.as_if_empty()
    ledger.refuse_contradicted()
    if ledger.differences(fields) and ledger.recorded is not None and not ledger.complete:
        ledger.rewrite_recipe(ledger.recorded.accepting(fields))
    return ledger


def is_replaced(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> bool:
    """Whether this job replaces what is recorded in a sink that was not refused.

    That is: another job's output, a complete one, or one that is half deleted already. Another job's records that nothing was ever
    committed under (a model that never worked) are replaced whatever `sink.save_mode` says.
    """
    other = bool(ledger.differences(fields, accept))
    return other or ledger.half_deleted or (save_mode == "overwrite" and ledger.complete)


def _refusal(ledger: Ledger, different: Mapping[str, tuple[Any, Any]]) -> str:
    lines = [line for name, pair in different.items() for line in differing(name, *pair)]
    return "\n".join(
        [f"{ledger.store.place}: holds the output of another job; these differ:", *lines,
         f"give another {ledger.store.key},",
         "or sink.save_mode=overwrite to replace it,",
         f"or {accepting(different)} to go on as if they were the same", *_versioned(different)]
    )  # fmt: skip


def accepting(names: Iterable[str]) -> str:
    """What lets differences pass, as it is typed: a name with a path or a reference in it is quoted for the shell."""
    typed = f"sink.accept=[{','.join(names)}]"
    return typed if re.fullmatch(r"[\w.,=\[\]]+", typed) else shlex.quote(typed)


def _versioned(different: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What to do where code differs again and again, and predictions do not."""
    if "model.code" not in different or "predict.version" in different:
        return []
    return ["(predict.version=<name>, given from the first run on, stands for the code)"]


def differing(name: str, was: Any, now: Any) -> list[str]:
    """A line for each difference, for people; of mappings, for each key that differs; a digest tells them nothing."""
    if isinstance(was, str) and was.startswith(DIGEST) and isinstance(now, Mapping):
        return [
            f"  {name}  there: of an earlier version, which compared the text of",
            "    one file; now each module counts, by its code",
        ]
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        pairs = compare.differences(was, now).items()
        return [line for key, pair in pairs for line in differing(f"{name} {key}", *pair)]
    if DIGEST in (str(was)[: len(DIGEST)], str(now)[: len(DIGEST)]):
        return [f"  {name}  {'is new' if was == NOT_GIVEN else 'is gone' if now == NOT_GIVEN else 'has changed'}"]
    return [f"  {name}  {told_difference(was, now, _spelled)}"]


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping) and any(str(each).startswith(DIGEST) for each in value.values()):
        return ", ".join(value)
    return value if value == NOT_GIVEN else repr(value)
