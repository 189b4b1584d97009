"""Plans made from the files of conf/pruner, for tables that compare several."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from learnpruner.backbones import Backbone
from learnpruner.plan import Plan
from learnpruner.plan.pruner_configs import PrunerConfigs
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


def build_baselines(
    configs: PrunerConfigs, names: Mapping[str, str], prune_ratio: float, backbone: Backbone, seed: int = 0
) -> dict[str, Plan]:
    """Build baselines, all at the same prune_ratio and with original positions.

    Args:
        configs: where they are looked for.
        names: name in the table -> config. One that this backbone refuses, such as [CLS] attention on a tower without,
            is left out with a warning.
        prune_ratio: share of visual tokens KEPT, in (0, 1].
        backbone: that the plans are for.
        seed: draws the weights of those that have some.

    Returns:
        Name in the table -> plan.
    """
    plans = {}
    for name, config in names.items():
        try:
            settings = configs.load(config, prune_ratio, backbone.name)
        except UserError as error:
            raise UserError(f"The baseline {name!r} cannot be built: {error}") from None
        plan = build_plan(settings, backbone, seed)
        try:
            with plan.on(backbone.model):
                plans[name] = plan
        except UserError as error:
            _log.warning("the baseline %s is left out: %s", name, error)
    return plans
