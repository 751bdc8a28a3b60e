"""Jobs that have been composed are run by Hydra: the only one, or those of a sweep, without composing any of them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from runner.config.composition import Composed, Composer, task_overrides


def run_one(composer: Composer, base: DictConfig, task: TaskFunction) -> None:
    """Run the only job as Hydra would (directory, records, callbacks), without composing its config once more."""
    HydraConfig.instance().cfg = None
    with read_write(base.hydra):  # looking at it, when it was checked, has made it read-only
        base.hydra.mode = RunMode.RUN
    configure_log(base.hydra.hydra_logging, base.hydra.verbose)
    callbacks = Callbacks(base)
    callbacks.on_run_start(config=base, config_name=composer.name)
    context = HydraContext(config_loader=composer.hydra.config_loader, callbacks=callbacks)
    returned = run_job(
        task_function=task, config=base, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context
    )
    callbacks.on_run_end(config=base, config_name=composer.name, job_return=returned)
    _ = returned.return_value  # raises what the job has raised


def run_sweep(composer: Composer, base: DictConfig, jobs: Sequence[Composed], task: TaskFunction) -> None:
    """Let Hydra's sweeper run its jobs, without composing again those that have been composed."""
    HydraConfig.instance().cfg = None
    with read_write(base.hydra):
        base.hydra.mode = RunMode.MULTIRUN
    callbacks = Callbacks(base)
    callbacks.on_multirun_start(config=base, config_name=composer.name)
    loader: Any = _Once(composer.hydra.config_loader, {job.arguments: job.cfg for job in jobs})
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    sweeper: Any = Plugins.instance().instantiate_sweeper(config=base, hydra_context=context, task_function=task)
    if jobs:  # all of them have been composed, which is what this would find out
        sweeper.validate_batch_is_legal = len
    sweeper.sweep(arguments=task_overrides(base.hydra))
    callbacks.on_multirun_end(config=base, config_name=composer.name)


@dataclass(frozen=True)
class _Once:
    """Hydra's config loader, for jobs that have been composed: each config is handed out once, then let go.

    Attributes:
        loader: Composes the others.
        composed: By what makes each job of the sweep differ.
    """

    loader: ConfigLoader
    composed: dict[tuple[str, ...], DictConfig]

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """The config of a job, which a launcher may still write to."""
        cfg = self.composed.pop(tuple(sweep_overrides), None)
        if cfg is None:
            cfg = self.loader.load_sweep_config(master_config, list(sweep_overrides))
        OmegaConf.set_readonly(cfg.hydra, None)  # looking at it, when it was checked, has made it read-only
        cfg.hydra.mode = RunMode.MULTIRUN
        return cfg

    def __getattr__(self, name: str) -> Any:
        """Whatever else a sweeper asks for."""
        return getattr(self.loader, name)
