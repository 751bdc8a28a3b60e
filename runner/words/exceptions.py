"""Turns errors of other people's code into short, safe text: what was raised, where in the user's code, without credentials."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from concurrent.futures import _base as futures
from itertools import islice
from pathlib import Path

from runner.words.secrets import hide

LINE = 2_000  # characters of an error's message that are shown
RECORD = 10_000  # characters of it that are recorded with a row
WHOLE = 50_000  # characters of a traceback that are kept
FRAME = 200  # characters of one line about a frame
DEEP = 8  # frames of one error that are shown
LED_TO_IT = 3  # errors that led to the last one, and are shown with it
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OURS = tuple(f"{Path(__file__).parents[2] / name}{os.sep}" for name in ("runner", "models"))  # the built-in models, too
PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+).*")
HANDED_OVER = futures.__file__
STANDARD = sysconfig.get_paths()["stdlib"]
FRAMEWORKS = {"Python", "fsspec", "hydra", "pyarrow", "ray"}  # they call the user's code, or our code calls them
REMOTE = "_remote_traceback"  # attribute of an error from another process: its frames and its traceback, as text


def escaped(text: str) -> str:
    """Return the text with its control characters escaped: raw, they could move the cursor, clear the screen or reverse text."""
    return UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def clipped(text: str, most: int = LINE) -> str:
    """Return the text without credentials, cut to `most` characters, with a note of how many more there were.

    The text is cut before credentials are searched, because a search through megabytes takes long. The cut leaves a margin of 4,096
    characters, so that a credential that begins before `most` is found whole.
    """
    begun = hide(text[: most + 4_096])
    more = max(len(text) - most, 0)
    return escaped(begun[:most]) + (f" ... ({more:,} more characters)" if more else "")


def describe(error: BaseException) -> str:
    """Return the type and the message of an error in a short text."""
    return clipped(f"{type(error).__name__}: {message_of(error)}")


def message_of(error: BaseException) -> str:
    """Return the message of an error, with the notes that were added to it."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its text cannot be had: {type(broken).__name__})"
    notes = getattr(error, "__notes__", ())
    return "\n".join([text, *(str(note) for note in notes)] if isinstance(notes, list) else [text])


def full_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of those that led to it; of a very long one, its beginning and its end."""
    text = getattr(error, REMOTE, ("", ""))[1] or "".join(traceback.format_exception(error))
    if len(text) > WHOLE:
        text = f"{text[: WHOLE // 2]}\n... ({len(text) - WHOLE:,} characters) ...\n{text[-(WHOLE // 2) :]}"
    return escaped(hide(text))


def user_frames(error: BaseException) -> str:
    """Return a line for each frame of the user's code in an error and in those that led to it; `""` if there is no such frame."""
    if remote := getattr(error, REMOTE, None):
        return str(remote[0])
    return "\n".join(clipped(line, FRAME) for line in _lines_about(error))


def innermost_frame(error: BaseException) -> str:
    """Return the innermost frame of the user's code as `at file:line in function`, `""` if there is none."""
    own = [line for line in user_frames(error).splitlines() if line.startswith("at ")]
    return own[-1].partition(": ")[0] if own else ""


def attach_remote_traceback(error: BaseException, remote: tuple[str, str]) -> None:
    """Store on an error what `user_frames` and `full_traceback` returned in the process that raised it: pickle drops tracebacks."""
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, REMOTE, tuple(map(hide, remote)))


def _lines_about(error: BaseException) -> list[str]:
    """Return the lines about an error and those that led to it; none if the user's code has no frame in any of them."""
    home = _home(_frames(error))
    lines = _own_lines(error, home)
    for each in error.exceptions[:LED_TO_IT] if isinstance(error, BaseExceptionGroup) else ():
        lines += [f"holds {type(each).__name__}: {message_of(each)}", *_own_lines(each, home)]
    for how, before in islice(_led_to(error), LED_TO_IT):
        lines += [f"{how} {type(before).__name__}: {message_of(before)}", *_own_lines(before, home)]
    return lines if any(line.startswith("at ") for line in lines) else []


def led_to(error: BaseException | None, *, hidden: bool = False) -> Iterator[BaseException]:
    """Yield an error and then those that led to it, as a traceback shows them; each once, also where they lead back to the first.

    Args:
        error: The last one.
        hidden: Whether to yield also those that `raise ... from None` keeps out of the traceback.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ and not hidden else error.__context__)


def _led_to(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    while True:
        how = "caused by" if error.__cause__ else "while handling"
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            return
        yield how, before
        error = before


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an error without ours, and without those of `concurrent.futures`, which only pass an error on."""
    frames = traceback.extract_tb(error.__traceback__)
    return [each for each in frames if not each.filename.startswith((*OURS, HANDED_OVER))]


def _own_lines(error: BaseException, home: str) -> list[str]:
    """Return lines about the frames of the user's own code, and about the innermost frame of a package that it called."""
    frames = _frames(error)
    own = [frame for frame in frames if _package(frame) in ("", home)]
    if len(own) > DEEP:
        own = [*own[:2], *own[2 - DEEP :]]
    lines = [f"at {_short_path(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line or ''}" for frame in own]
    if own and frames[-1] is not own[-1]:
        lines.append(
            f"in {_package(frames[-1])}: {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"
        )
    return lines


def _home(frames: list[traceback.FrameSummary]) -> str:
    """Return the package whose function our code called: the user's own code may be an installed package."""
    name = _package(frames[0]) if frames else ""
    return "" if name in FRAMEWORKS else name


def _package(frame: traceback.FrameSummary) -> str:
    """Return the installed package that a frame belongs to, `Python` for the standard library, `""` for other code."""
    if found := PACKAGES.fullmatch(frame.filename):
        return found[1].removesuffix(".py")
    if frame.filename.endswith((".pyx", ".pxi", ".pxd")):  # compiled: a path from where it was built
        return Path(frame.filename).parts[0]
    return "Python" if frame.filename.startswith((STANDARD, "<frozen")) else ""


def _short_path(path: str) -> str:
    """Return a path relative to the working directory if it lies below that."""
    with contextlib.suppress(ValueError, OSError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
