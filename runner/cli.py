"""The command line. Hydra composes one job or a sweep of jobs; each is checked, then run. Every command ends with an exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config import allowed
from runner.config.build import Checked, Known, check_config
from runner.config.composition import composer, task_overrides
from runner.config.explain import explain
from runner.config.hydra_sources import register
from runner.config.options import CONF
from runner.config.prepare import prepare
from runner.config.running import run_one, run_sweep
from runner.errors import ConfigError, Interrupted, RunnerError, worst
from runner.report.report import Report
from runner.report.summary import summary
from runner.words.exceptions import escaped
from runner.words.paint import painted
from runner.words.plain import counted
from runner.words.secrets import hide, redacted, shown_override

SHOWN = 10  # jobs that a sweep's total lists by number, for each way to end


def execute(argv: list[str]) -> int:
    """Do what a command says.

    Args:
        argv: Without the program's name.

    Returns:
        The exit code; a sweep's is the worst of its jobs'.
    """
    try:
        arguments = _parser().parse_intermixed_args(argv)
        if arguments.experimental_rerun is not None and allowed.refuses(allowed.PICKLE):
            raise ConfigError(f"--experimental-rerun: reads a pickle, which {allowed.refusal()}")
        if arguments.config_path:
            raise ConfigError(
                f"--config-path={arguments.config_path}: would hide the built-in groups; use --config-dir"
            )
        jobs = _Jobs(argv, [argument for argument in argv if argument not in arguments.overrides])
        (_ask if _is_question(arguments) else _start)(arguments, jobs)
        return worst(jobs.codes)
    except KeyboardInterrupt:
        return _interrupted()
    except RunnerError as error:
        _tell(str(error).splitlines())
        return error.exit_code
    except Exception as error:  # an exception that Hydra raises is about the config
        _tell(explain(error))
        return 2
    finally:
        _leave_ray()


def _parser() -> argparse.ArgumentParser:
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return parser


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; python -m runner --help lists what there is")


def _is_question(arguments: argparse.Namespace) -> bool:
    """Whether the command asks Hydra to show a config or to explain itself. Hydra answers, and no job is checked."""
    asked = arguments.cfg, arguments.info, arguments.hydra_help, arguments.shell_completion, arguments.resolve
    return any(asked) or arguments.experimental_rerun is not None


# ---------------------------------------------------------------- running


def _start(arguments: argparse.Namespace, jobs: _Jobs) -> None:
    """Check the job, or all of a sweep, then let Hydra run them."""
    folders = [Path(arguments.config_dir)] if arguments.config_dir else []
    given = [*arguments.overrides, *_writable_outputs(arguments.overrides)]
    with composer(folders, arguments.config_name or "config") as hydra:
        prepared = prepare(given, hydra, multirun=arguments.multirun)
        if prepared.sweep:
            run_sweep(hydra, prepared.base, prepared.jobs, jobs.run)
            _show(["", jobs.total()])
        else:
            run_one(hydra, prepared.base, jobs.run)


def _ask(_: argparse.Namespace, jobs: _Jobs) -> None:
    """Let Hydra's own command line answer."""
    with _hydras_surroundings(jobs.argv):
        hydra.main(config_path=str(CONF.resolve()), config_name="config", version_base="1.3")(jobs.run)()


@contextlib.contextmanager
def _hydras_surroundings(argv: list[str]) -> Iterator[None]:
    """Hydra reads the command line from `sys.argv`, and without HYDRA_FULL_ERROR exits by itself, with 1."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [before[0], *argv], "1"
    register()
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]


@dataclass
class _Jobs:
    """The jobs of one command, run one after the other.

    Attributes:
        argv: The command as typed.
        flags: Those of its arguments that are no overrides.
        codes: One exit code per job so far.
        reports: Of those that ran.
        left: How many were not begun, after a signal.
        started: When, by the monotonic clock.
    """

    argv: list[str]
    flags: list[str]
    codes: list[int] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    left: int = 0
    started: float = field(default_factory=time.monotonic)

    def total(self) -> str:
        """The last line of a sweep: what became of its jobs, and which of them did not end well."""
        numbers: dict[str, list[str]] = {}
        for number, code in enumerate(self.codes):
            numbers.setdefault(self._became(code), []).append(f"[{number}]")
        ended = [f"{len(those):,} {word}{_which(word, those)}" for word, those in numbers.items()]
        left = [f"{self.left:,} not begun"] if self.left else []
        rows = sum(report.rows_in for report in self.reports)
        predicted = f"; {counted(rows, 'row')} in" if self.reports else ";"
        jobs = counted(len(self.codes) + self.left, "job")
        return f"{jobs}: {', '.join([*ended, *left])}{predicted} {time.monotonic() - self.started:.1f} s"

    def _became(self, code: int) -> str:
        words = {0: "complete" if self.reports else "done", 1: "failed", 2: "refused", 75: "incomplete"}
        return words.get(code, "interrupted")

    def run(self, cfg: DictConfig) -> None:
        """Run one job; never raises, so that the other jobs of a sweep go on. A signal ends the whole sweep."""
        config = HydraConfig.get()
        os.chdir(config.runtime.cwd)  # hydra.job.chdir would move everything that is relative
        if any(code > 128 for code in self.codes):
            self.left += 1
        else:
            self.codes.append(self._code(cfg, config))

    def _code(self, cfg: DictConfig, config: Any) -> int:
        try:
            return self._one(cfg, config)
        except RunnerError as error:
            _end(error)
            self.reports += [report] if (report := getattr(error, "report", None)) else []
            return error.exit_code
        except KeyboardInterrupt:
            return _interrupted()
        except Exception as error:
            print(hide(traceback.format_exc()), end="", file=sys.stderr)
            _tell([f"{type(error).__name__}: {error}"])
            return 1

    def _one(self, cfg: DictConfig, config: Any) -> int:
        run_dir = Path(config.runtime.output_dir)
        sweep = config.mode == RunMode.MULTIRUN
        checked = check_config(cfg, run_dir, Known(sweep=sweep, argv=self._command(config, sweep=sweep)))
        _keep_config(run_dir, cfg)
        if sweep:
            print(f"\n[{config.job.num}] {' '.join(map(shown_override, task_overrides(config)))}", file=sys.stderr)
        return _do(checked, self.reports)

    def _command(self, config: Any, *, sweep: bool) -> list[str]:
        if not sweep:
            return self.argv
        return [*(flag for flag in self.flags if flag not in ("-m", "--multirun")), *task_overrides(config)]


def _which(word: str, numbers: list[str]) -> str:
    """The numbers of jobs that did not end well; each stands at the head of the job's lines."""
    more = " ..." if len(numbers) > SHOWN else ""
    return "" if word in {"complete", "done"} else f" {' '.join(numbers[:SHOWN])}{more}"


def _do(checked: Checked, reports: list[Report]) -> int:
    for note in checked.notes:
        print(hide(f"note: {note}"), file=sys.stderr)
    do: dict[str, Callable[[Checked], tuple[list[str], int]]] = {
        "run": partial(_run, reports),
        "plan": _plan,
        "verify": _verify,
    }
    lines, code = do[checked.action](checked)
    _show(lines)
    return code


def _run(reports: list[Report], checked: Checked) -> tuple[list[str], int]:
    from runner.job import run

    reports.append(run(checked.job))
    return summary(reports[-1]), 0


def _plan(checked: Checked) -> tuple[list[str], int]:
    from runner.preview import preview

    return preview(checked.job, checked.plan), 0


def _verify(checked: Checked) -> tuple[list[str], int]:
    from runner.verify import lines_of, verify

    verdict = verify(checked.job, deep=checked.verify.deep)
    return lines_of(verdict, checked.job.sink.records.root), 1 if verdict.problems else 0


def _end(error: RunnerError) -> None:
    """Tell what went wrong; the closing lines come last, with the command that continues."""
    report: Any = getattr(error, "report", None)
    without_report = report is None or error.exit_code == 2
    if without_report or not isinstance(error, Interrupted):
        _tell(str(error).splitlines())
    if not without_report:
        _show(summary(report))


def _show(lines: list[str]) -> None:
    print(escaped(hide("\n".join(lines))), flush=True)


def _interrupted() -> int:
    print("interrupted before anything was predicted", file=sys.stderr)
    return 130


def _tell(lines: list[str]) -> None:
    for i, line in enumerate(lines):
        print(painted(f"{'error: ' if i == 0 else '       '}{escaped(hide(line))}"), file=sys.stderr)


def _keep_config(run_dir: Path, cfg: DictConfig) -> None:
    plain = OmegaConf.create(redacted(OmegaConf.to_container(cfg, resolve=False)))
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(plain))
    (run_dir.parent / "multirun.yaml").unlink(missing_ok=True)  # Hydra's: it holds overrides as they were typed


def _leave_ray() -> None:
    session = sys.modules.get("runner.modes.session")
    if session is not None:
        session.disconnect()


def _writable_outputs(overrides: Sequence[str]) -> list[str]:
    """On a read-only working directory Hydra's own output directory goes to a temporary folder."""
    given = any(override.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for override in overrides)
    place = "outputs" if Path("outputs").is_dir() else "."
    if given or os.access(place, os.W_OK | os.X_OK):
        return []
    folder = tempfile.mkdtemp(prefix="runner-")
    return [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
