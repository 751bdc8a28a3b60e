"""The part of the fingerprint for a source that is not built in and defines no `settings`: its code, and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.config.check import defaults
from runner.fingerprint.ingredients import of_loader
from runner.words.credentials import is_secret
from runner.words.secrets import redacted

NOT_ROWS = frozenset(
    {"path", "storage_options", "allow_empty"}
)  # arguments of a source: the recorded plan knows the files


def made_of(call: Callable[..., Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """The code of a source that is not built in, and those of its arguments that are not at their default.

    Not where its input lies, how it is reached, and credentials.

    Args:
        call: Makes it.
        node: Its part of the config: its `_target_`, and arguments.
    """
    target, arguments = str(node["_target_"]), {name: value for name, value in node.items() if name != "_target_"}
    usual = defaults(call)
    counting = {
        name: redacted(value, f"source.{name}")
        for name, value in arguments.items()
        if name not in NOT_ROWS and not is_secret(f"source.{name}")
    }
    return {
        "code": of_loader(call, target, arguments),
        **{name: value for name, value in counting.items() if name not in usual or value != usual[name]},
    }
