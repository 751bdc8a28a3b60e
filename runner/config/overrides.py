"""Checks what was typed as `key=value`, before Hydra composes. A form that Hydra cannot read is corrected where its meaning is clear."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from runner.config.check import nearest
from runner.words.credentials import HIDDEN
from runner.words.secrets import shown_override

GROUPS = ("source", "model", "mode", "resources", "errors", "sink", "job")
KEYS = (
    *GROUPS,
    "action",
    "num_actors",
    "batch_size",
    "shard_bytes",
    "shard_rows",
    "vars",
    "predict",
    "ray",
    "plan",
    "verify",
)
CUSTOM = ("source", "model", "mode", "sink")  # groups whose `_target_` may be anybody's
PLANNED = (
    "xgboost",
    "lightgbm",
    "onnx",
    "mlflow",
    "transformers",
    "sentence_transformers",
    "openai",
    "huggingface",
    "keras",
)
LATER = "it is not built in yet; a loader of your own is a few lines: model=custom model._target_=package.module.load"
GIVEN = "_given"  # the option of the group `job` that a preset from Python becomes
Options = Callable[[str], Sequence[str]]


@dataclass
class Examined:
    """Overrides that Hydra will accept, and what was wrong with the others.

    Attributes:
        overrides: To compose with.
        problems: For people.
        broken: Keys and groups whose problem is among these: no more is to be said of them.
    """

    overrides: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def refuse(self, problem: str, broken: str = "") -> None:
        """Note a problem, and the key that it leaves without a value."""
        self.problems.append(problem)
        if broken:
            self.broken.add(broken)


def examine(overrides: Sequence[str], options: Options, *, sweep: bool, own: Collection[str] = ()) -> Examined:
    """Check each override alone.

    Args:
        overrides: As typed.
        options: The options of a group.
        sweep: Whether several values of a key make several jobs.
        own: Groups of a config folder's own.
    """
    examined = Examined()
    for given in overrides:
        override = readable(_without_plus(given, own))
        parsed = _parsed(override)
        if parsed is None:
            examined.refuse(unreadable(override), _key(override))
        else:
            _examine_one(override, parsed, options, examined, sweep=sweep, own=own)
    examined.overrides += implied(examined.overrides)
    return examined


def _examine_one(
    override: str, parsed: Override, options: Options, examined: Examined, *, sweep: bool, own: Collection[str]
) -> None:
    key = parsed.key_or_group
    if not key:
        examined.refuse(f"{override}: expected key=value")
    elif problem := unknown(key, own):
        examined.refuse(problem)
    elif parsed.is_sweep_override() and not sweep:
        examined.refuse(_several(override), key)
    elif (key in GROUPS or key in own) and parsed.package is None and not parsed.is_delete():
        _examine_choice(override, parsed, options(key), examined)
    else:
        examined.overrides.append(override)


def _examine_choice(override: str, parsed: Override, options: Sequence[str], examined: Examined) -> None:
    """Check the choice of an option.

    A misspelt option is replaced by its nearest neighbour, so that further problems are those of the option that was meant.
    """
    group, value = parsed.key_or_group, None if parsed.is_sweep_override() else parsed.value()
    chosen = [str(option) for option in (value if isinstance(value, list) else [value])]
    if parsed.is_sweep_override():
        chosen = [text.strip("'\"") for text in parsed.sweep_string_iterator()] if parsed.is_choice_sweep() else []
        chosen = [] if any("[" in each or "(" in each for each in chosen) else chosen
    elif not isinstance(value, str | list):
        examined.refuse(f"{override}: expected an option{nearest('', options)}", group)
        return
    for option in (each for each in chosen if each not in options and each != GIVEN):
        planned = f"; {LATER}" if group == "model" and option in PLANNED else nearest(option, options)
        problem = f"{group}={option}: no such option{planned}"
        meant = re.search(r"did you mean (.*)\?", problem)
        override = _with_choice(override, option, meant[1]) if meant else ""
        examined.refuse(problem, "" if meant else group)
    examined.overrides += [override] if override else []


def _with_choice(override: str, option: str, meant: str) -> str:
    """Another option in place of a wrong one, which may be a part of its neighbours' names."""
    key, _, value = override.partition("=")
    whole = rf"(?<![\w./-]){re.escape(option)}(?![\w./-])"
    return f"{key}={re.sub(whole, meant, value)}"


def implied(overrides: Sequence[str]) -> list[str]:
    """A target of one's own without a choice means the option that has no other keys, unless a preset may have chosen."""
    keys = {_key(override) for override in overrides}
    if "job" in keys:
        return []
    return [f"{group}=custom" for group in CUSTOM if f"{group}._target_" in keys and group not in keys]


def unknown(key: str, own: Collection[str] = ()) -> str | None:
    """The problem of a key that begins with a name that does not exist, neither here nor among a config folder's own groups."""
    name = re.split(r"[./@]", key, maxsplit=1)[0]
    if name in KEYS or name in own or name == "hydra":
        return None
    return f"{key}: no such key{nearest(name, [*KEYS, *own])}; variables of your own go below vars"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _without_plus(override: str, own: Collection[str]) -> str:
    """`+job=x` and `job=x` are one: Hydra wants the first only where no default is."""
    return override.lstrip("+") if _key(override) in GROUPS or _key(override) in own else override


def appended(
    overrides: Sequence[str], own: Collection[str], known: Callable[[list[str]], Collection[str]]
) -> list[str]:
    """The overrides with a plus where Hydra wants one: at a choice of a config folder's own group that no config makes.

    Args:
        overrides: As examined.
        own: Those groups.
        known: The groups of which the others make a choice, those of the configs that they choose included.
    """
    chosen = [override for override in overrides if _key(override) in own]
    if not chosen:
        return list(overrides)
    others = known([each for each in overrides if each not in chosen and not is_sweep(each)])
    return [f"+{each}" if each in chosen and _key(each) not in others else each for each in overrides]


def is_sweep(override: str) -> bool:
    """Whether it gives several values."""
    parsed = _parsed(override)
    return parsed is not None and parsed.is_sweep_override()


def _several(override: str) -> str:
    key, _, value = shown_override(override).partition("=")
    if not re.fullmatch(r"[^\"'()]+", value):
        return f"{key}={value}: is a sweep; add -m"
    listed, text = shlex.quote(f"{key}=[{value}]"), shlex.quote(f'{key}="{value}"')
    return f"{key}={value}: several values; add -m for a sweep, or give a list as {listed}, or one text as {text}"


# ---------------------------------------------------------------- values that Hydra's grammar cannot read


def readable(override: str) -> str:
    """Quote a value that Hydra's grammar cannot read, where that cannot change its meaning.

    Not one with a comma, maybe a sweep; not one with quotes or brackets, which was meant to be more than a text.
    """
    key, mark, value = override.partition("=")
    if not mark or _parses(override) or "," in value or value.startswith(("[", "{")) or {"'", '"'} & set(value):
        return override
    quoted = f'{key}="{value}"'
    return quoted if _value(quoted) == value else override


def unreadable(override: str) -> str:
    """The problem of an override that Hydra cannot read, with the form that works if there is one."""
    key, mark, value = override.partition("=")
    if not mark or not key or not _parses(f"{key}=1"):
        return f"{override}: expected key=value"
    if shown_override(override).endswith(HIDDEN):
        return (
            f"{key}={HIDDEN}: Hydra cannot read this value; a credential goes into the environment, as ${{oc.env:NAME}}"
        )
    quoted = _leaves_quoted(value) if value.startswith(("[", "{")) else f'"{value}"'
    remedy = f"{key}={quoted}"
    if not _parses(remedy):
        return f"{override}: Hydra cannot read this value; quote the parts that are text, as in key='[a,\">\",3]'"
    return f"{override}: Hydra cannot read this value; quote it: {shlex.quote(remedy)}"


def _leaves_quoted(value: str) -> str:
    """Texts within a list or a mapping that do not parse on their own, each in quotes."""

    def quoted(match: re.Match[str]) -> str:
        return match[0] if _parses(f"key=[{match[0]}]") else f'"{match[0].strip()}"'

    return re.sub(r"[^\[\]{},:\"']+", quoted, value)


@functools.cache
def _parsed(override: str) -> Override | None:
    """As Hydra reads it; `None` if it cannot."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _parses(override: str) -> bool:
    return _parsed(override) is not None


def _value(override: str) -> Any:
    parsed = _parsed(override)
    return None if parsed is None else parsed.value()
