"""Before a job runs: everything that was typed is examined, and every job of a sweep is checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.check import nearest
from runner.composition import Composed, Composer, use
from runner.config import Checked, Known, check, check_data
from runner.errors import ConfigError
from runner.overrides import Examined, examine
from runner.secrets import shown_override

VARIABLE = re.compile(r"\+{0,2}(?P<key>vars\.(?P<name>\w+)[\w.]*)=")


@dataclass(frozen=True)
class Prepared:
    """A command whose every job has been checked.

    Attributes:
        overrides: As Hydra accepts them.
        base: The composed config of the only job, or what the jobs of a sweep have in common.
        sweep: Whether it is a sweep.
    """

    overrides: Sequence[str]
    base: DictConfig
    sweep: bool


def prepare(given: Sequence[str], hydra: Composer, *, multirun: bool) -> Prepared:
    """Examine the overrides and check every job; nothing is written.

    Args:
        given: Overrides as typed.
        hydra: Composes.
        multirun: Whether a sweep was asked for; a config may ask for it, too.

    Raises:
        ConfigError: With all that is wrong.
    """

    @functools.cache
    def options(group: str) -> list[str]:
        return hydra.options(group, given)

    examined = examine(given, options, sweep=True)
    base = hydra.common(examined, sweep=multirun)
    sweep = multirun or base.hydra.mode == RunMode.MULTIRUN
    if sweep:
        jobs = list(hydra.jobs(base, examined.overrides))
        examined.problems += _unknown_variables(jobs, examined, hydra)
        _check_sweep(jobs, examined)
    else:
        examined = examine(given, options, sweep=False)
        job = hydra.job(base)
        examined.problems += _unknown_variables([job], examined, hydra)
        check(use(job), job.run_dir, Known(examined.problems, examined.broken))
    return Prepared(examined.overrides, base, sweep)


def _unknown_variables(jobs: Sequence[Composed], examined: Examined, hydra: Composer) -> list[str]:
    """Variables that were typed, but that no config declares and no value refers to."""
    typed = [match for override in examined.overrides if (match := VARIABLE.match(override))]
    texts = [str(OmegaConf.to_container(job.cfg, resolve=False)) for job in jobs]
    unused = [match for match in typed if not any(_refers(text, match["name"]) for text in texts)]
    if not jobs or not unused:
        return []
    declared = _declared([override for override in examined.overrides if not VARIABLE.match(override)], hydra)
    return [
        f"{match['key']}: no such variable{nearest(match['name'], declared, 'vars.')}"
        for match in unused
        if declared is not None and match["name"] not in declared
    ]


def _refers(text: str, name: str) -> bool:
    return bool(re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b|\$\{{\s*vars\s*\}}", text))


def _declared(overrides: Sequence[str], hydra: Composer) -> list[str] | None:
    """The variables of the config files; `None` if they cannot be known."""
    try:
        base = hydra.common(Examined(list(overrides)), sweep=True)
        configs = [base, *(job.cfg for job in hydra.jobs(base, overrides))]
    except ConfigError:
        return None
    return list(dict.fromkeys(str(name) for config in configs for name in config.get("vars") or ()))


def _check_sweep(jobs: Sequence[Composed], examined: Examined) -> None:
    """Check every job before one runs; what is wrong with several is told once. Data is looked at if all configs are right.

    Raises:
        ConfigError: With the problems of all jobs.
    """
    checked, problems = _each(jobs, lambda job: check(use(job), job.run_dir, Known(broken=examined.broken, sweep=True)))
    if problems := [*examined.problems, *problems, *_shared_sinks(checked)]:
        raise ConfigError(problems)
    if problems := _each(jobs, lambda job: _look(checked[jobs.index(job)]))[1]:
        raise ConfigError(problems)


def _each(jobs: Sequence[Composed], do: Callable[[Composed], Any]) -> tuple[list[Any], list[str]]:
    """Do something for each job; problems say which jobs have them."""
    results, found = [], dict[str, list[int]]()
    for number, job in enumerate(jobs):
        try:
            results.append(do(job))
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(number)
    return results, [f"{problem}{_which(numbers, jobs)}" for problem, numbers in found.items()]


def _look(checked: Checked) -> None:
    try:
        check_data(checked.job)
    except ConfigError:
        raise
    except Exception:  # storage that does not answer now: the job will say so when its turn comes
        return


def _shared_sinks(checked: Sequence[Checked]) -> list[str]:
    writers: dict[str, list[int]] = {}
    for number, one in enumerate(checked):
        if one.action == "run":
            writers.setdefault(one.job.sink.store.root, []).append(number)
    return [
        f"sink.path={root}: jobs {', '.join(map(str, numbers))} of the sweep all write there; "
        "make it differ, e.g. sink.path='out/${hydra:job.num}'"
        for root, numbers in writers.items()
        if len(numbers) > 1
    ]


def _which(numbers: Sequence[int], jobs: Sequence[Composed]) -> str:
    """Which jobs of the sweep have a problem, if not all."""
    if len(numbers) == len(jobs):
        return ""
    first = " ".join(map(shown_override, jobs[numbers[0]].overrides))
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f" (job {numbers[0]} of the sweep, {first}{more})"
