"""What Hydra says when it cannot compose, in the words of this program."""

from __future__ import annotations

import re
from collections.abc import Callable

from runner.config.check import nearest
from runner.config.overrides import GROUPS

WITHOUT_PACKAGE = "its first line must be `# @package _global_`; without it its keys land under job.* and do nothing"


def explain(error: BaseException) -> list[str]:
    """The problems of a config, out of an error that Hydra raised."""
    message = str(error.__cause__ if error.__cause__ and not str(error) else error)
    file = re.match(r"In '([^']+)'", message)
    where = file[1] if file and file[1] not in ("config", "hydra/config") else ""
    for pattern, explained in KNOWN.items():
        if found := re.search(pattern, message):
            return explained(where, found, message)
    lines = [line for line in message.partition("Config search path:")[0].splitlines() if line.strip()]
    return lines[:6] or [type(error).__name__]


def _no_option(where: str, found: re.Match[str], message: str) -> list[str]:
    group, option = found.groups()
    options = sorted(name for name in re.findall(r"^\t(\S+)$", message, re.MULTILINE) if not name.startswith("_"))
    begin = f"{where}: " if where else ""
    if options:
        return [f"{begin}{group}={option}: no such option{nearest(option, options)}"]
    if where and group.startswith(f"{where.rpartition('/')[0]}/"):
        inner = group.rpartition("/")[2]
        return [f"{begin}defaults: {inner}: {option} means a file in {group}/; write /{inner}: {option}"]
    return [f"{begin}{group}={option}: there is no group {group}{nearest('', GROUPS)}"]


def _no_primary(_: str, found: re.Match[str], __: str) -> list[str]:
    return [f"--config-name={found[1]}: there is no such config; --config-dir names the folder that it is in"]


def _no_override(where: str, found: re.Match[str], _: str) -> list[str]:
    """A defaults list overrides a group that the whole config does not have, or an override names a key that does not exist."""
    key, folder = found[1], where.rpartition("/")[0]
    if not where:
        return [f"{key}: no such key (see --hydra-help)" if key.startswith("hydra") else f"{key}: no such key"]
    if folder == "job" and f"@{folder}." in key:
        return [f"{where.replace('/', '=', 1)}: {WITHOUT_PACKAGE}"]
    group = key.partition("@")[0].removeprefix(f"{folder}/")
    if group != key and group in GROUPS:
        return [f"{where}: defaults: override {group}: means a group of {folder}; write override /{group}"]
    return [f"{where}: defaults: override /{group}: there is no such group{nearest('', GROUPS)}"]


def _no_braces(_: str, __: re.Match[str], message: str) -> list[str]:
    return [" ".join(message.split()), "YAML takes ??? within braces only in quotes: {date: '???'}"]


KNOWN: dict[str, Callable[[str, re.Match[str], str], list[str]]] = {
    r"Could not (?:find|load) '([\w/]+)/([^'/]+)'": _no_option,
    r"Cannot find primary config '([^']+)'": _no_primary,
    r"Could not override '([^']+)'": _no_override,
    r"found '\?'": _no_braces,
}
