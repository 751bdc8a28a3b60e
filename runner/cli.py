"""The command line: Hydra composes one job or a sweep of jobs, each is checked, then run; everything ends in an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.check import nearest
from runner.config import GROUPS, Checked, check, check_data, register, unknown_keys
from runner.errors import ConfigError, Interrupted, RunnerError, worst
from runner.help import CONF
from runner.secrets import redacted


class Command:
    """One invocation of `python -m runner`."""

    def __init__(self, argv: list[str]) -> None:
        """Separate Hydra's own flags from overrides, and mend what can be mended without a doubt."""
        self._argv = argv
        self._args = get_args_parser().parse_intermixed_args(argv)
        overrides, self._problems = unknown_keys(self._args.overrides)
        self._overrides = [readable(_job_choice(override)) for override in overrides]
        self._flags = [argument for argument in argv if argument not in self._args.overrides]
        self._codes: list[int] = []
        self._sinks: dict[str, int] = {}

    def execute(self) -> int:
        """Do what the command says.

        Returns:
            The exit code; a sweep's is the worst of its jobs'.
        """
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra exits by itself, with 1 and its own idea of a message
        register()
        try:
            if self._args.multirun and not self._checked_sweep():
                return worst(self._codes)
            self._codes.clear()
            self._start(self._run)
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # what escapes Hydra is about the config
            _tell([*self._problems, *explain(error)])
            return 2
        finally:
            _leave_ray()
        return worst(self._codes)

    def _start(self, job: Callable[[DictConfig], None], *more: str) -> None:
        sys.argv[1:] = [*self._flags, *self._overrides, *_writable_outputs(self._overrides), *more]
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()

    # ------------------------------------------------ one job

    def _run(self, cfg: DictConfig) -> None:
        """Never raises: the other jobs of a sweep go on."""
        config = HydraConfig.get()
        os.chdir(config.runtime.cwd)  # hydra.job.chdir would move everything that is relative
        run_dir = Path(config.runtime.output_dir)
        sweep = config.mode == RunMode.MULTIRUN
        if any(code > 128 for code in self._codes):  # a signal ends the whole sweep
            return
        try:
            checked = check(cfg, run_dir, sweep=sweep, argv=self._command_of_one(sweep), problems=self._problems)
            _keep_config(run_dir, cfg)
            if sweep:
                print(f"\n[{config.job.num}] {' '.join(config.overrides.task)}", file=sys.stderr)
            self._codes.append(_do(checked))
        except RunnerError as error:
            self._codes.append(error.exit_code)
            _end(error)
        except KeyboardInterrupt:
            self._codes.append(130)
        except Exception as error:
            import traceback

            traceback.print_exc()
            self._codes.append(1)
            _tell([f"{type(error).__name__}: {error}"])

    def _command_of_one(self, sweep: bool) -> list[str]:
        if not sweep:
            return self._argv
        flags = [flag for flag in self._flags if flag not in ("-m", "--multirun")]
        return [*flags, *HydraConfig.get().overrides.task]

    # ------------------------------------------------ a sweep

    def _checked_sweep(self) -> bool:
        """Check every job before one runs."""
        with tempfile.TemporaryDirectory() as scratch:
            self._start(self._dry, f"hydra.sweep.dir={scratch}")
        return not any(self._codes)

    def _dry(self, cfg: DictConfig) -> None:
        number = HydraConfig.get().job.num
        os.chdir(HydraConfig.get().runtime.cwd)
        try:
            checked = check(cfg, Path(HydraConfig.get().runtime.output_dir), sweep=True, problems=self._problems)
            self._one_sink_each(checked, number)
            check_data(checked.job)
            self._codes.append(0)
        except RunnerError as error:
            self._codes.append(error.exit_code)
            _tell(
                [
                    f"job {number} of the sweep ({' '.join(HydraConfig.get().overrides.task)}):",
                    *str(error).splitlines(),
                ]
            )

    def _one_sink_each(self, checked: Checked, number: int) -> None:
        root = checked.job.sink.store.root
        if checked.action == "run" and (other := self._sinks.setdefault(root, number)) != number:
            raise ConfigError(
                f"sink.path={root}: jobs {other} and {number} of the sweep both write there; "
                f"make it differ, e.g. sink.path=out/${{hydra:job.num}}"
            )


def _do(checked: Checked) -> int:
    from runner.job import run

    for note in checked.notes:
        print(f"note: {note}", file=sys.stderr)
    if checked.action == "plan":
        from runner.preview import preview

        print("\n".join(preview(checked.job)))
        return 0
    from runner.report import summary

    print("\n".join(summary(run(checked.job))))
    return 0


def _end(error: RunnerError) -> None:
    """Tell what went wrong; the closing lines come last, with the command that continues."""
    from runner.report import summary

    report: Any = getattr(error, "report", None)
    if report is None or isinstance(error, ConfigError) or error.exit_code == 2:
        _tell(str(error).splitlines())
        return
    if not isinstance(error, Interrupted):
        _tell(str(error).splitlines())
    print("\n".join(summary(report)))


def _tell(lines: list[str]) -> None:
    for i, line in enumerate(lines):
        print(f"{'error: ' if i == 0 else '       '}{line}", file=sys.stderr)


def _keep_config(run_dir: Path, cfg: DictConfig) -> None:
    plain = OmegaConf.create(redacted(OmegaConf.to_container(cfg, resolve=False)))
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(plain))
    (run_dir.parent / "multirun.yaml").unlink(missing_ok=True)  # Hydra's: it holds overrides as they were typed


def _leave_ray() -> None:
    session = sys.modules.get("runner.modes.session")
    if session is not None:
        session.disconnect()


# ---------------------------------------------------------------- overrides


def _job_choice(override: str) -> str:
    """`+job=x` and `job=x` are one: Hydra wants the first only where no default is."""
    return override.removeprefix("+") if override.startswith("+job=") else override


def readable(override: str) -> str:
    """Quote a value that Hydra's grammar cannot read, where that cannot change its meaning: not with a comma, maybe a sweep."""
    parser = OverridesParser.create()
    try:
        parser.parse_override(override)
    except HydraException:
        key, mark, value = override.partition("=")
        if mark and "," not in value and not {"'", '"'} & set(value):
            return f"{key}='{value}'"
    return override


def _writable_outputs(overrides: list[str]) -> list[str]:
    """On a read-only working directory Hydra's own output directory goes to a temporary folder."""
    if os.access(".", os.W_OK) or any(override.startswith("hydra.") for override in overrides):
        return []
    folder = tempfile.mkdtemp(prefix="runner-")
    return [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


def explain(error: BaseException) -> list[str]:
    """Hydra's errors of composition and parsing in the words of this program."""
    import re

    message = str(error.__cause__ if error.__cause__ and not str(error) else error)
    first = message.splitlines()[0] if message else type(error).__name__
    if group := re.search(r"Could not find '(\w+)/([^']+)'", message):
        options = sorted(re.findall(r"^\t(\S+)$", message, re.MULTILINE))
        return [f"{group[1]}={group[2]}: no such option{nearest(group[2], options)}"]
    if override := re.search(r"Could not override '([^']+)'", message):
        return [f"{override[1]}: no such key{nearest(override[1], list(GROUPS))}"]
    if "Error parsing override" in message or "mismatched input" in message or "token recognition" in message:
        return [first, "quote the value for Hydra inside the shell's quotes: 'key=\"value\"'"]
    return [line for line in message.splitlines() if line.strip()][:6] or [first]
