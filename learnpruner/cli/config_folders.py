"""Where a program looks for configs: conf/, and what --config-dir= and hydra.searchpath= add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from learnpruner.plan.pruner_configs import PrunerConfigs


def searched_pruners(allow: Sequence[str]) -> PrunerConfigs:
    """Find the pruners' configs of every folder that Hydra searches, in its order; allow: packages that are trusted."""
    found = [folder / "pruner" for folder in config_folders()]
    return PrunerConfigs(tuple(folder for folder in found if folder.is_dir()), tuple(allow))


def config_folders() -> Iterator[Path]:
    """List the folders of configs that the running program was started with."""
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file":
            yield Path(source.path)
        elif source.schema == "pkg":
            yield from _package_folders(source.path)


def _package_folders(name: str) -> list[Path]:
    try:
        found = find_spec(name)
    except ModuleNotFoundError:  # Hydra has warned of it
        return []
    return [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
