"""What train.py trains: a plan, or anything else whose weights act on a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.utils import instantiate

from learnpruner.adapters import choose_adapter
from learnpruner.backbones import Backbone
from learnpruner.cli.entries import make_entries
from learnpruner.config.train_config import TrainConfig
from learnpruner.data.datamodule import PrunerData
from learnpruner.data.image_padding import apply_image_aspect
from learnpruner.data.sample import hold_out
from learnpruner.evaluation.downsampling import Downsampling
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.plan import Plan, load
from learnpruner.plan.build import build_plan
from learnpruner.plan.export import outside_packages
from learnpruner.training.base_module import FrozenBackboneLitModule
from learnpruner.training.choose_module import make_plan_module
from learnpruner.training.losses import DistillationLoss


class Trainable(Protocol):
    """Weights to train, the module and data that train them, and how their export is evaluated.

    Attributes:
        learner: holds the weights; has `save`, `describe` and `tag`.
        module: trains them.
        data: what on.
        prune_ratio: the budget of the baselines beside it.
    """

    learner: Any
    module: FrozenBackboneLitModule
    data: PrunerData
    prune_ratio: float

    def describe(self, backbone: Backbone) -> str:
        """Word in a line or more what is trained."""

    def evaluate(
        self,
        task: Task,
        backbone: Backbone,
        export: Path,
        folder: Path,
        baselines: Mapping[str, Plan | Downsampling],
        label: str,
    ) -> tuple[Path, str]:
        """Put the export, loaded again, on the benchmark.

        Args:
            task: the benchmark.
            backbone: frozen.
            export: what was trained.
            folder: of the run; results go here.
            baselines: plans beside it, by name.
            label: of what was trained, in the table.

        Returns:
            The results' file, and the table to print.
        """


@dataclass
class PrunerTrainable:
    """A plan of pruners, with what adapts the model."""

    learner: Plan
    module: FrozenBackboneLitModule
    data: PrunerData
    prune_ratio: float

    @classmethod
    def build(cls, config: TrainConfig, backbone: Backbone) -> PrunerTrainable:
        """The plan that the settings name, from conf/pruner or an export."""
        if config.plan is not None:
            plan = load(config.plan, config.prune_ratio, config.allow).prepare(backbone.family)
        else:
            plan = build_plan(config.pruner, backbone, config.seed)
        adapt(plan, config, backbone)
        plan.image_aspect = config.data.image_aspect
        module = make_plan_module(
            backbone,
            plan,
            instantiate(config.relaxation.to_dict()),
            make_loss(config),
            instantiate(config.optimizer.to_dict()),
            instantiate(config.scheduler.to_dict()),
            config.grad_tokens_per_image,
            config.seed,
            config.to_dict(),
            config.adapter.lr,
        )
        return cls(plan, module, make_data(PrunerData, config, backbone), plan.prune_ratio)

    def describe(self, backbone: Backbone) -> str:
        return self.learner.describe(backbone.family.tokens, backbone.family.layers)

    def evaluate(
        self,
        task: Task,
        backbone: Backbone,
        export: Path,
        folder: Path,
        baselines: Mapping[str, Plan | Downsampling],
        label: str,
    ) -> tuple[Path, str]:
        allow = outside_packages(stage.pruner for stage in self.learner.stages)
        trained = load(export, allow=allow).prepare(backbone.family).to(backbone.model.device)
        backbone = replace(backbone, image_aspect=trained.image_aspect)
        return task.run(TaskContext(backbone, folder, trained, str(export), label, baselines))


def adapt(plan: Plan, config: TrainConfig, backbone: Backbone) -> None:
    """Give the plan what learns beside its pruners; `seed` draws the weights that it starts from."""
    settings = config.adapter.to_dict()
    settings.pop("lr")
    plan.adaptation = choose_adapter(
        plan.adaptation, instantiate(settings) if config.adapter.target else None, config.plan
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        plan.prepare(backbone.family)


def make_loss(config: TrainConfig) -> DistillationLoss:
    """The terms of conf/loss."""
    return DistillationLoss(make_entries(config.to_dict()["loss"]))


def make_data(kind: type[PrunerData], config: TrainConfig, backbone: Backbone) -> PrunerData:
    """The samples of conf/data, some of them held out where the run validates."""
    data, samples = config.data, config.validation.samples
    source = instantiate(data.source(config.seed))
    held_out = None if config.trainer.val_check_interval is None else hold_out(source, samples)
    if held_out is not None:
        held_out = apply_image_aspect(held_out, data.image_aspect, backbone.processor)
    shown = apply_image_aspect(source, data.image_aspect, backbone.processor)
    positions = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", None)
    return kind(
        shown, backbone.processor, data.images_per_batch, data.repeat, data.workers, positions, held_out, samples
    )
