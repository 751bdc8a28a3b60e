"""What Hydra reads configs from beside files: our open nodes, presets from Python, and packages, as far as a closed list allows them."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource as PackageSource,
)
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from runner.config import allowed
from runner.config.overrides import GIVEN
from runner.errors import ConfigError

OPEN = ("vars", "source", "model", "mode", "resources", "errors", "sink", "predict", "ray", "plan", "verify")


def register() -> None:
    """Let the open nodes take keys of their own without a `+`; our own check knows which are right."""
    node = {name: DictConfig({}, flags={"struct": False}) for name in OPEN}
    ConfigStore.instance().store(name="_open", node=node)
    SourcesRegistry.instance().types["pkg"] = ImportlibResourcesConfigSource


class ImportlibResourcesConfigSource(PackageSource):
    """Hydra's `pkg://package`, which imports the package: a closed list must name it. Hydra knows a source by the class's name."""

    def __init__(self, provider: str, path: str) -> None:
        """Refuse what the list does not name.

        Raises:
            ConfigError: It does not.
        """
        package = path.removeprefix("pkg://").replace("/", ".")
        if allowed.closed() and not allowed.within(package, (*allowed.named(), "hydra.conf")):
            raise ConfigError(f"hydra.searchpath: {path} {allowed.refusal()}")
        super().__init__(provider, path)


def refuse_plugins() -> None:
    """Hydra imports every plugin that it finds; those of the working directory are nobody's who made the list.

    Raises:
        ConfigError: There are some.
    """
    spec = PathFinder.find_spec("hydra_plugins") if allowed.closed() else None
    here = [
        folder for folder in (spec and spec.submodule_search_locations) or () if Path(folder).is_relative_to(Path.cwd())
    ]
    if here and not allowed.within("hydra_plugins", allowed.named()):
        raise ConfigError(f"{here[0]}: Hydra would import it, which {allowed.refusal()}")


def register_preset(content: Any) -> str:
    """Make a file's content an option of the group `job`.

    Returns:
        The option's name.
    """
    ConfigStore.instance().store(name=GIVEN, node=content, group="job", package="_global_")
    return GIVEN
