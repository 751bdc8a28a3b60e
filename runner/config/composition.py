"""From choices and overrides to composed configs, by Hydra: one, or all of a sweep before one of them runs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra.version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config.explain import explain
from runner.config.hydra_sources import refuse_plugins, register
from runner.config.options import CONF
from runner.config.overrides import Examined, appended
from runner.config.targets import importable, refused_by_hydra
from runner.errors import ConfigError


@dataclass(frozen=True, eq=False)  # comparing two would compare their configs, node by node
class Composed:
    """One job's config.

    Attributes:
        cfg: Composed, not resolved, with Hydra's own node.
        overrides: What makes it differ from the defaults.
        run_dir: Hydra's output directory for it.
        arguments: What a sweep's launcher composes it from.
    """

    cfg: DictConfig
    overrides: Sequence[str]
    run_dir: Path
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Composer:
    """Hydra, ready to compose.

    Attributes:
        hydra: With our groups and those of the config directories.
        name: The primary config.
    """

    hydra: Hydra
    name: str

    def options(self, group: str, overrides: Sequence[str]) -> list[str]:
        """The options of a group, wherever they lie."""
        loader: Any = self.hydra.config_loader
        searchpath = [override for override in overrides if override.startswith("hydra.searchpath=")]
        found = loader.get_group_options(group, config_name=self.name, overrides=searchpath)
        return [option for option in found if not option.startswith("_")]

    @cached_property
    def own(self) -> list[str]:
        """The groups that only other config folders have, also nested ones (`env/cloud`)."""
        ours = {path.name for path in CONF.iterdir()} | {"hydra"}
        return [each for group in self._groups("") if group not in ours for each in self._nested(group)]

    def _nested(self, group: str) -> list[str]:
        return [group, *(each for below in self._groups(group) for each in self._nested(f"{group}/{below}"))]

    def _groups(self, parent: str) -> list[str]:
        loader: Any = self.hydra.config_loader
        return list(loader.list_groups(parent))

    def _chosen(self, overrides: list[str]) -> Collection[str]:
        """The groups of which a choice is made, by overrides and by the configs themselves."""
        loader: Any = self.hydra.config_loader
        found = loader.compute_defaults_list(self.name, overrides, RunMode.MULTIRUN)
        return list(found.overrides.known_choices)

    def common(self, examined: Examined, *, sweep: bool = False) -> DictConfig:
        """The config of the only job, or what the jobs of a sweep have in common; its `hydra` node included.

        Args:
            examined: The overrides.
            sweep: Whether a sweep was asked for; a config may ask for it, too.

        Raises:
            ConfigError: It cannot be composed, or would have Hydra call what is not allowed.
        """
        if "job" in examined.broken:  # without the preset nothing more can be said
            raise ConfigError(examined.problems)
        try:
            overrides = appended(examined.overrides, self.own, self._chosen)
            base = self._compose(overrides, RunMode.MULTIRUN if sweep else RunMode.RUN)
        except Exception as error:
            raise ConfigError([*examined.problems, *explain(error)]) from error
        if refused := refused_by_hydra(OmegaConf.to_container(base.hydra, resolve=False)):
            raise ConfigError([*examined.problems, *refused])
        return base

    def _compose(self, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        """A choice that must be made (`site: '???'`) may be left to the jobs of a sweep, but not to the only job."""
        try:
            return self.hydra.compose_config(self.name, list(overrides), mode, validate_sweep_overrides=False)
        except ConfigCompositionException:
            if (
                mode == RunMode.MULTIRUN
                or (base := self._compose(overrides, RunMode.MULTIRUN)).hydra.mode != RunMode.MULTIRUN
            ):
                raise
            return base

    def job(self, base: DictConfig) -> Composed:
        """The only job."""
        return _composed(base, str(base.hydra.run.dir))

    def jobs(self, base: DictConfig) -> Iterator[Composed]:
        """All jobs of a sweep, as Hydra's own sweeper and launcher make them; none for another sweeper, which decides as it goes."""
        if base.hydra.sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}":
            return
        given = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
        parser = OverridesParser.create(self.hydra.config_loader)
        batches = BasicSweeper.split_arguments(parser.parse_overrides([*given, *task_overrides(base.hydra)]), None)
        folder = str(base.hydra.sweep.dir)  # looked at before the first job copies what `${now:...}` has become
        for number, each in enumerate(batches[0]):
            cfg = self.hydra.config_loader.load_sweep_config(base, each)
            yield _composed(cfg, f"{folder}/{number}", number, each)


def _composed(cfg: DictConfig, run_dir: str, number: int | None = None, arguments: Sequence[str] = ()) -> Composed:
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = run_dir
        if number is not None:
            cfg.hydra.job.id = cfg.hydra.job.num = number
    return Composed(cfg, task_overrides(cfg.hydra), Path(run_dir), tuple(arguments))


def task_overrides(hydra_config: Any) -> list[str]:
    """The job's overrides as they were typed: merely looking at one would resolve `${oc.env:SECRET}`."""
    task: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(override) for override in task]


def chosen(group: str) -> str:
    """The option of a group that the config in use has, or several as they were typed; empty if that cannot be known."""
    if not HydraConfig.initialized():
        return ""
    typed = [each.partition("=")[2] for each in task_overrides(HydraConfig.get()) if each.startswith(f"{group}=")]
    return typed[-1] if typed else str(HydraConfig.get().runtime.choices.get(group) or "")


def nobody_chose(group: str, key: str) -> bool:
    """Whether a group has the option of our own `config.yaml`, and neither a preset nor what was typed says anything of it or of a key.

    Args:
        group: The group.
        key: A key that the option sets elsewhere.
    """
    if not HydraConfig.initialized():
        return False
    config = HydraConfig.get()
    typed = {override.lstrip("+~").partition("=")[0] for override in task_overrides(config)}
    theirs = config.job.config_name != "config" or chosen("job") not in ("", "none")
    return not theirs and not any(each == key or each.partition(".")[0] == group for each in typed)


def option_file(group: str) -> Path | None:
    """The file of the chosen option of a group, wherever it lies; `None` if that cannot be known."""
    if not HydraConfig.initialized():
        return None
    folders = [Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    files = [folder / group / f"{chosen(group)}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def use(job: Composed) -> DictConfig:
    """The job's own config, without Hydra's; from now on `${hydra:job.num}` and the like mean this job."""
    HydraConfig.instance().set_config(job.cfg)
    cfg = job.cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


@contextlib.contextmanager
def composer(folders: Sequence[Path], name: str = "config") -> Iterator[Composer]:
    """Hydra over our groups and those of other folders; whoever uses Hydra in this process finds it as it was.

    Raises:
        ConfigError: A folder is not there, or an option in it can never be chosen.
    """
    problems = [f"--config-dir={folder}: there is no such folder" for folder in folders if not folder.is_dir()]
    if problems := problems or hidden_options(folders):
        raise ConfigError(problems)
    hydra.version.setbase("1.3")
    outer, instance = GlobalHydra.instance().hydra, GlobalHydra.instance()
    instance.clear()
    outer_config, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    try:
        refuse_plugins()
        register()
        for folder in folders:
            importable(folder.resolve().parent)
        yield Composer(Hydra.create_main_hydra2("runner", _search_path(folders)), name)
    finally:
        instance.hydra, HydraConfig.instance().cfg = outer, outer_config


def _search_path(folders: Sequence[Path]) -> Any:
    search_path = create_config_search_path(str(CONF.resolve()))
    for folder in folders:
        search_path.prepend("command-line", f"file://{folder.resolve()}", SearchPathQuery(provider="schema"))
    return search_path


def hidden_options(folders: Sequence[Path]) -> list[str]:
    """Files of other folders that Hydra never reads, since ours has the same name and comes first."""
    return [
        f"{folder / name}: is never read, since the built-in {name.with_suffix('')} has that name; rename it"
        for folder in folders
        for name in sorted(file.relative_to(CONF) for file in CONF.rglob("*.yaml"))
        if (folder / name).is_file() and (CONF / name).read_bytes() != (folder / name).read_bytes()
    ]
