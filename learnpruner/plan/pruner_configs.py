"""The configs of pruners by name, in whichever folders a program searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from learnpruner.config.renamed import renamed_keys, renamed_sentence
from learnpruner.utils.errors import UserError
from learnpruner.utils.project import CONF

_OWN = "learnpruner"


@dataclass(frozen=True)
class PrunerConfigs:
    """Where the configs of pruners lie.

    Args:
        folders: in the order in which they are searched; of two files of one name the first counts, as Hydra has it. The
            first is conf/pruner; the configs of all others name classes of this package, or of one in `allow`.
        allow: packages beside this one that are trusted.
    """

    folders: tuple[Path, ...] = (CONF / "pruner",)
    allow: tuple[str, ...] = ()

    def files(self) -> dict[str, Path]:
        """List the files by name, in order of name."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            found = {path.stem: path for path in folder.glob("*.yaml")} | found
        return dict(sorted(found.items()))

    def find(self, name: str) -> Path:
        """Find the file of a config that may be built.

        Raises:
            UserError: there is none, or it names a package that nobody said to trust.
        """
        path = self.files().get(name)
        if path is None:
            raise UserError(f"There is no config {name!r} in {' or '.join(map(str, self.folders))}.")
        if path.parent != self.folders[0]:
            self._check_packages(path)
        return path

    def load(self, name: str, prune_ratio: float, backbone: str | None = None) -> dict[str, Any]:
        """Read a config at a budget, as `learnpruner.plan.build.build_plan` takes it. See `load_pruner_config`."""
        return load_pruner_config(self.find(name), prune_ratio, backbone)

    def _check_packages(self, path: Path) -> None:
        for target in _targets(OmegaConf.to_container(OmegaConf.load(path))):
            package = target.partition(".")[0]
            if package not in {_OWN, *self.allow}:
                raise UserError(
                    f"{path} asks for {target!r}, of another package than this one; where you trust {package}, add "
                    f"allow=[{package}]."
                )


def load_pruner_config(path: Path, prune_ratio: float, backbone: str | None = None) -> dict[str, Any]:
    """Read a file of conf/pruner at a budget, as `learnpruner.plan.build.build_plan` takes it.

    Args:
        path: the file.
        prune_ratio: what its `${prune_ratio}` stands for.
        backbone: folder or hub id, where a file refers to it.
    """
    if not path.is_file():
        raise UserError(
            f"There is no config {path}: conf/ lies in the project's folder, and is not part of an installed package; clone the "
            "project, or give the path of a YAML file."
        )
    given = {"prune_ratio": prune_ratio} | ({"backbone": {"path": backbone}} if backbone else {})
    root = OmegaConf.create({**given, "pruner": OmegaConf.load(path)})
    made: dict[str, Any] = OmegaConf.to_container(root.pruner, resolve=True)  # type: ignore[assignment]
    for old, new in renamed_keys({"pruner": made}):
        raise UserError(f"{path}: {renamed_sentence(old, new)}")
    if "defaults" in made:
        raise UserError(f"{path} has a defaults list, which is not read here: write the whole plan into it.")
    return made


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _targets(part)
