"""What others wrote, made fit for a terminal and for a record: errors in a few lines, where in the user's code, no more than is read."""

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

LINE = 2_000  # characters of what somebody else's error says
RECORD = 10_000  # of the same where it is kept with a row
WHOLE = 50_000  # of a traceback
FRAME = 200  # of one line about a frame
DEEP = 8  # frames of one error that are shown
LED_TO_IT = 3  # errors before the last that are shown
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OURS = tuple(f"{Path(__file__).parents[2] / name}{os.sep}" for name in ("runner", "models"))  # the built-in models, too
PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+).*")
HANDED_OVER = futures.__file__
STANDARD = sysconfig.get_paths()["stdlib"]
FRAMEWORKS = {"Python", "fsspec", "hydra", "pyarrow", "ray"}  # which call the user's code, or are called by ours
TOLD = "_told_where"  # on an error that came from another process: what was told of it there


def escaped(text: str) -> str:
    """The text with its control characters spelled out: raw, they could move the cursor, clear the screen or turn text round."""
    return UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def fit(text: str, most: int = LINE) -> str:
    """The text without credentials, of so many characters at most, and how many more there were.

    It is cut before credentials are looked for, which takes long in megabytes, and with a margin, in which a credential may end.
    """
    begun = hide(text[: most + 4_096])
    more = max(len(text) - most, 0)
    return escaped(begun[:most]) + (f" ... ({more:,} more characters)" if more else "")


def told(error: BaseException) -> str:
    """An error by its type and its words."""
    return fit(f"{type(error).__name__}: {words(error)}")


def words(error: BaseException) -> str:
    """What an error says, and the notes added to it."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its text cannot be had: {type(broken).__name__})"
    notes = getattr(error, "__notes__", ())
    return "\n".join([text, *(str(note) for note in notes)] if isinstance(notes, list) else [text])


def whole(error: BaseException) -> str:
    """The whole traceback, with what led to it; of a very long one the beginning and the end."""
    text = getattr(error, TOLD, ("", ""))[1] or "".join(traceback.format_exception(error))
    if len(text) > WHOLE:
        text = f"{text[: WHOLE // 2]}\n... ({len(text) - WHOLE:,} characters) ...\n{text[-(WHOLE // 2) :]}"
    return escaped(hide(text))


def where(error: BaseException) -> str:
    """A line for each place in the user's code that an error came through, and for what led to it; `""` if there is none."""
    if told := getattr(error, TOLD, None):
        return str(told[0])
    return "\n".join(fit(line, FRAME) for line in _lines(error))


def place(error: BaseException) -> str:
    """The innermost place in the user's code, `""` if there is none."""
    own = [line for line in where(error).splitlines() if line.startswith("at ")]
    return own[-1].partition(": ")[0] if own else ""


def keep(error: BaseException, told: tuple[str, str]) -> None:
    """Note on an error from another process what `where` and `whole` told there: a traceback does not travel."""
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, TOLD, tuple(map(hide, told)))


def _lines(error: BaseException) -> list[str]:
    """What to tell of an error and of those that led to it, unless no code of the user's is among their frames."""
    home = _home(_frames(error))
    lines = _own(error, home)
    for each in error.exceptions[:LED_TO_IT] if isinstance(error, BaseExceptionGroup) else ():
        lines += [f"holds {type(each).__name__}: {words(each)}", *_own(each, home)]
    for how, before in islice(_led_to(error), LED_TO_IT):
        lines += [f"{how} {type(before).__name__}: {words(before)}", *_own(before, home)]
    return lines if any(line.startswith("at ") for line in lines) else []


def _led_to(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    while True:
        how = "caused by" if error.__cause__ else "while handling"
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            return
        yield how, before
        error = before


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Without ours, and without those by which a thread hands over what another raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return [each for each in frames if not each.filename.startswith((*OURS, HANDED_OVER))]


def _own(error: BaseException, home: str) -> list[str]:
    """The user's own frames; of what lies below them only the innermost, by the package that it is of."""
    frames = _frames(error)
    own = [frame for frame in frames if _package(frame) in ("", home)]
    if len(own) > DEEP:
        own = [*own[:2], *own[2 - DEEP :]]
    lines = [f"at {_short(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line or ''}" for frame in own]
    if own and frames[-1] is not own[-1]:
        lines.append(
            f"in {_package(frames[-1])}: {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"
        )
    return lines


def _home(frames: list[traceback.FrameSummary]) -> str:
    """The package whose function we called: the user's own code may be an installed one."""
    name = _package(frames[0]) if frames else ""
    return "" if name in FRAMEWORKS else name


def _package(frame: traceback.FrameSummary) -> str:
    """The installed package that a frame is of, `Python` for the standard library, `""` for code of the user's own."""
    if found := PACKAGES.fullmatch(frame.filename):
        return found[1].removesuffix(".py")
    if frame.filename.endswith((".pyx", ".pxi", ".pxd")):  # compiled: a path from where it was built
        return Path(frame.filename).parts[0]
    return "Python" if frame.filename.startswith((STANDARD, "<frozen")) else ""


def _short(path: str) -> str:
    """A path as people name it: from the working directory, if it lies below."""
    with contextlib.suppress(ValueError, OSError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
