"""Before a job runs: everything that was typed is examined, and every job of a sweep is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.build import Checked, Known, check_config, check_data
from runner.config.check import nearest
from runner.config.composition import Composed, Composer, use
from runner.config.overrides import Examined, examine
from runner.config.targets import refused_by_hydra
from runner.errors import ConfigError
from runner.storage.parallel import map_in_threads
from runner.words.secrets import shown_override

VARIABLE = re.compile(r"\+{0,2}(?P<key>vars\.(?P<name>\w+)[\w.]*)=")


@dataclass(frozen=True)
class Prepared:
    """A command whose every job has been checked.

    Attributes:
        base: The composed config of the only job, or what the jobs of a sweep have in common.
        sweep: Whether it is a sweep.
        jobs: Those of a sweep, composed, as far as they are known beforehand.
    """

    base: DictConfig
    sweep: bool
    jobs: Sequence[Composed] = ()


def prepare(given: Sequence[str], hydra: Composer, *, multirun: bool) -> Prepared:
    """Examine the overrides and check every job; nothing is written.

    Args:
        given: Overrides as typed.
        hydra: Composes.
        multirun: Whether a sweep was asked for; a config may ask for it, too.

    Raises:
        ConfigError: With all that is wrong.
    """

    @cache
    def options(group: str) -> list[str]:
        return hydra.options(group, given)

    examined = examine(given, options, sweep=True, own=hydra.own)
    base = hydra.common(examined, sweep=multirun)
    sweep = multirun or base.hydra.mode == RunMode.MULTIRUN
    if sweep:
        jobs = list(hydra.jobs(base))
        examined.problems += _unknown_variables(jobs, examined, hydra)
        _check_sweep(jobs, examined)
        return Prepared(base, sweep, jobs)
    examined = examine(given, options, sweep=False, own=hydra.own)
    job = hydra.job(base)
    examined.problems += _unknown_variables([job], examined, hydra)
    check_config(use(job), job.run_dir, Known(examined.problems, examined.broken))
    return Prepared(base, sweep)


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
        configs = [base, *(job.cfg for job in hydra.jobs(base))]
    except ConfigError:
        return None
    return list(dict.fromkeys(str(name) for config in configs for name in config.get("vars") or ()))


def _check_sweep(jobs: Sequence[Composed], examined: Examined) -> None:
    """Check every job before one runs. A problem that several jobs have is reported once. The data is read only if all configs are right.

    Raises:
        ConfigError: With the problems of all jobs.
    """
    checked: list[Checked] = []
    wrong = [_problems(partial(_check_one, job, examined, checked)) for job in jobs]
    if problems := [*examined.problems, *_by_job(wrong, jobs), *_shared_sinks(checked)]:
        raise ConfigError(problems)
    if problems := _by_job(list(map_in_threads(_data_problems, checked)), jobs):
        raise ConfigError(problems)


def _check_one(job: Composed, examined: Examined, checked: list[Checked]) -> None:
    _refuse_hydras(job)
    checked.append(check_config(use(job), job.run_dir, Known(broken=examined.broken, sweep=True)))


def _refuse_hydras(job: Composed) -> None:
    """A sweep may set what Hydra calls, for one of its jobs only."""
    if refused := refused_by_hydra(OmegaConf.to_container(job.cfg.hydra, resolve=False)):
        raise ConfigError(refused)


def _data_problems(checked: Checked) -> list[str]:
    """The problems of a job's data. If the storage does not answer now, the job itself reports that when its turn comes."""
    try:
        return _problems(lambda: check_data(checked.job))
    except Exception:
        return []


def _problems(do: Callable[[], None]) -> list[str]:
    try:
        do()
    except ConfigError as error:
        return error.problems
    return []


def _by_job(problems: Sequence[Sequence[str]], jobs: Sequence[Composed]) -> list[str]:
    """Each problem once, with the jobs that have it."""
    found: dict[str, list[int]] = {}
    for number, problem in ((number, each) for number, several in enumerate(problems) for each in several):
        found.setdefault(problem, []).append(number)
    return [f"{problem}{_which(numbers, jobs)}" for problem, numbers in found.items()]


def _shared_sinks(checked: Sequence[Checked]) -> list[str]:
    writers: dict[str, list[int]] = {}
    for number, one in enumerate(checked):
        if one.action == "run":
            writers.setdefault(one.job.sink.records.place, []).append(number)
    return [
        f"{place}: jobs {', '.join(map(str, numbers))} of the sweep all write there; "
        f"make it differ, e.g. {place.partition('=')[0]}='out/${{hydra:job.num}}'"
        for place, numbers in writers.items()
        if len(numbers) > 1
    ]


def _which(numbers: Sequence[int], jobs: Sequence[Composed]) -> str:
    """Which jobs of the sweep have a problem, if not all."""
    if len(numbers) == len(jobs):
        return ""
    first = " ".join(map(shown_override, jobs[numbers[0]].overrides))
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f" (job {numbers[0]} of the sweep, {first}{more})"
