"""Plans made from the files of conf/pruner, for tables that compare several."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learnpruner.backbones import Backbone
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)


def build_plan(settings: Mapping[str, Any], backbone: Backbone, seed: int = 0) -> Plan:
    """Build the plan that a config describes, fitted to the backbone.

    Args:
        settings: as in conf/pruner.
        backbone: that the plan is for.
        seed: draws the weights that it starts from.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            plan: Plan = instantiate(settings, _convert_="all")
        except InstantiationException as error:
            if isinstance(error.__cause__, UserError):  # what the pruner itself says, without where Hydra met it
                raise error.__cause__ from None
            raise
        return plan.prepare(backbone.family).to(backbone.model.device).eval()


def load_pruner_config(path: Path, prune_ratio: float, backbone: str | None = None) -> dict[str, Any]:
    """A file of conf/pruner at a budget, as `build` takes it.

    Args:
        backbone: folder or hub id, where a file refers to it.
    """
    if not path.is_file():
        raise UserError(
            f"There is no config {path}: conf/ lies in the project's folder, and is not part of an installed package; clone the "
            "project, or give the path of a YAML file."
        )
    given = {"prune_ratio": prune_ratio} | ({"backbone": {"path": backbone}} if backbone else {})
    root = OmegaConf.create({**given, "pruner": OmegaConf.load(path)})
    return OmegaConf.to_container(root.pruner, resolve=True)  # type: ignore[return-value]


def build_baselines(
    folder: Path, names: Mapping[str, str], prune_ratio: float, backbone: Backbone, seed: int = 0
) -> dict[str, Plan]:
    """Name in the table -> plan, all at the same prune_ratio and with original positions.

    Args:
        folder: conf/pruner.
        names: name in the table -> file in it, without its ending. One that this backbone refuses, such as [CLS]
            attention on a tower without, is left out with a warning.
    """
    plans = {}
    for name, file in names.items():
        path = folder / f"{file}.yaml"
        if not path.is_file():
            raise UserError(f"The baseline {name!r} asks for the config {file!r}, but {path} does not exist.")
        plan = build_plan(load_pruner_config(path, prune_ratio, backbone.name), backbone, seed)
        try:
            with plan.on(backbone.model):
                plans[name] = plan
        except UserError as error:
            _log.warning("the baseline %s is left out: %s", name, error)
    return plans
