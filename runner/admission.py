"""May this job write to this sink? Refuse what it must not touch, and make ready what it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import SinkRefused
from runner.ledger import Ledger, named
from runner.planning import NOT_GIVEN
from runner.sealed import told_difference
from runner.types import SaveMode


def refuse(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> None:
    """Refuse a sink that this job must not touch; changes nothing.

    Raises:
        SinkRefused: It holds another job's output, files that are not ours, or anything at all with `error`.
    """
    root = ledger.store.root
    if strangers := ledger.strangers():
        raise SinkRefused(
            f"sink.path={root}: holds files that this job did not write: {named(strangers)}; give another path, or move them"
        )
    if save_mode == "error" and not ledger.empty:
        raise SinkRefused(f"sink.path={root}: not empty, and sink.save_mode=error")
    refused = ledger.differences(fields, accept)
    if refused and ledger.committed and save_mode != "overwrite":
        raise SinkRefused(_refusal(ledger, refused))


def make_ready(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> Ledger:
    """Make a sink that was not refused ready; a difference that is accepted is recorded.

    Returns:
        The ledger to go on with.
    """
    ledger.drop_stale_temporaries()
    if is_replaced(ledger, fields, save_mode, accept):
        return ledger.as_if_empty()
    if (different := ledger.differences(fields)) and ledger.recorded is not None and not ledger.complete:
        note = {name: {"was": was, "now": now} for name, (was, now) in different.items()}
        accepted = [*ledger.recorded.accepted, note]
        ledger.rewrite_recipe(replace(ledger.recorded, fields=fields, accepted=accepted))
    return ledger


def is_replaced(ledger: Ledger, fields: Mapping[str, Any], save_mode: SaveMode, accept: Sequence[str]) -> bool:
    """Whether this job replaces what is recorded in a sink that was not refused.

    That is: another job's output, a complete one, or one that is half deleted already. Another job's records that nothing was ever
    committed under (a model that never worked) are replaced whatever `sink.save_mode` says.
    """
    other = bool(ledger.differences(fields, accept))
    return other or ledger.half_deleted or (save_mode == "overwrite" and ledger.complete)


def _refusal(ledger: Ledger, different: Mapping[str, tuple[Any, Any]]) -> str:
    width = max(len(name) for name in different)
    lines = [f"  {name:<{width}}  {told_difference(was, now, _spelled)}" for name, (was, now) in different.items()]
    return "\n".join(
        [f"sink.path={ledger.store.root}: holds the output of another job; these differ:", *lines,
         "give another sink.path, sink.save_mode=overwrite to replace it, or "
         f"sink.accept=[{','.join(different)}] to go on as if they were the same"]
    )  # fmt: skip


def _spelled(value: Any) -> str:
    return value if value == NOT_GIVEN else repr(value)
