"""Checks of where input and output lie: paths that are empty, hold a password, or would mix output with input."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from runner.config.check import at, is_missing
from runner.storage.locations import absolute, is_local, protocol_problem, unfit_for_parts
from runner.words.credentials import HIDDEN
from runner.words.secrets import holds_password, shown

DAY = re.compile(r"(?:^|/)\w+=(\d{4}-\d\d-\d\d)(?=/|$)")
OF_RAY = re.compile(r"/session_[^/]+/runtime_resources/working_dir_files/")
PATHS = (("source", "path"), ("sink", "path"), ("model", "path"), ("predict", "artifacts"))


def problems(values: Mapping[str, Any]) -> list[str]:
    """All that is wrong with the paths of a config.

    Args:
        values: The config as plain data.
    """
    sink = at(values, "sink", "path")
    return [
        *_empty_paths(values),
        *_storages(values),
        *_passwords(values),
        *(_lost_parts(sink) or _sink_in_source(sink, _listed(at(values, "source", "path")))),
        *_no_days(values),
        *_below_ray(sink),
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _empty_paths(values: Mapping[str, Any]) -> list[str]:
    """An empty path would be the working directory."""
    return [
        f"{group}.{name}='': expected a path or URI; is a variable unset?"
        for group, name in PATHS
        if any(isinstance(each, str) and not each.strip() for each in _listed(at(values, group, name)))
    ]


def _storages(values: Mapping[str, Any]) -> list[str]:
    """A storage's protocol may be unknown, or its package not installed."""
    paths = [(group, uri) for group in ("source", "sink") for uri in _listed(at(values, group, "path"))]
    return [
        f"{group}.path={wrong}"
        for group, uri in paths
        if isinstance(uri, str) and not is_local(uri) and not holds_password(uri) and (wrong := protocol_problem(uri))
    ]


def _passwords(values: Mapping[str, Any]) -> list[str]:
    """Paths are recorded with every shard, wherever their password came from."""
    keys = [f"{group}.{name}" for group, name in PATHS if any(map(holds_password, _listed(at(values, group, name))))]
    return [
        f"{key}={HIDDEN}: a path with a password in it would be recorded; give it in {key.partition('.')[0]}.storage_options"
        for key in keys
    ]


def _lost_parts(sink: Any) -> list[str]:
    """A place may be one where parts are lost, or are not found again."""
    wrong = unfit_for_parts(sink) if isinstance(sink, str) and not is_missing(sink) else None
    return [f"{shown('sink.path', sink)}: {wrong}"] if wrong else []


def _sink_in_source(sink: Any, source: list[Any]) -> list[str]:
    """Parts that lie below an input folder would be input the next time; below a hidden folder they are not listed."""
    if not isinstance(sink, str):
        return []
    place = _place(sink)
    for entry in source:
        if isinstance(entry, str) and place.startswith(f"{_place(entry)}/"):
            below = place.removeprefix(f"{_place(entry)}/")
            if not any(segment.startswith(("_", ".")) for segment in below.split("/")):
                return [
                    f"sink.path={sink}: lies in source.path={entry}, so the parts would be input the next time; write elsewhere"
                ]
    return []


def _place(path: str) -> str:
    """One spelling of a path, with links followed."""
    return (os.path.realpath(absolute(path)) if is_local(path) else absolute(path)).rstrip("/")


def _no_days(values: Mapping[str, Any]) -> list[str]:
    """A folder may be named by a day that no calendar has: nothing will ever lie there, so an empty input must not be a success."""
    return [
        f"{group}.path={uri}: {day} is no day of the calendar"
        for group in ("source", "sink")
        for uri in _listed(at(values, group, "path"))
        for day in (DAY.findall(uri) if isinstance(uri, str) else ())
        if not _is_day(day)
    ]


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _below_ray(sink: Any) -> list[str]:
    """The working directory of a submitted Ray job is a copy that Ray deletes."""
    if not isinstance(sink, str) or not is_local(sink) or sink.startswith(("/", "file:", "~")):
        return []
    return [
        f"sink.path={sink}: is relative, and the working directory ({Path.cwd()}) is a copy that Ray deletes; "
        "give a URI, or the full path of a folder that all nodes share"
        for _ in OF_RAY.findall(absolute(sink))
    ]
