"""Trains a pruner, or gates of KV-cache eviction, on a frozen backbone, exports it and evaluates the export; conf/train.yaml says what can be set."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

import learnpruner
from learnpruner.adapters import choose_adapter
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.cli.inherit import GROUPS
from learnpruner.cli.main import hydra_main
from learnpruner.cli.run_folder import fresh
from learnpruner.config.train import TrainConfig
from learnpruner.data.datamodule import PrunerData
from learnpruner.data.image_padding import apply_image_aspect
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.evaluation.wandb_results import log_results
from learnpruner.kv_eviction import Eviction
from learnpruner.kv_eviction.conversation_data import TranscriptDataModule
from learnpruner.kv_eviction.lit_module import KVGateLitModule
from learnpruner.plan.build import build_baselines, build_plan
from learnpruner.plan.export import outside_packages
from learnpruner.plan.hub import write_retention
from learnpruner.training.choose_module import make_plan_module
from learnpruner.training.loggers import make_loggers
from learnpruner.training.losses import BudgetPenalty, CrossEntropy, DistillationLoss, HiddenMSE, KLDivergence
from learnpruner.training.plan_module import PlanLitModule
from learnpruner.training.resume import check_checkpoint
from learnpruner.training.run_facts import run_facts
from learnpruner.training.schedules import linear_with_warmup
from learnpruner.training.trainer import fit, make_trainer
from learnpruner.utils.distributed import check_common_folder, is_rank_zero
from learnpruner.utils.interrupts import exit_status
from learnpruner.utils.privacy import command_line
from learnpruner.utils.provenance import commit

CONF = Path(__file__).parent / "conf"
log = logging.getLogger(__name__)


def pruner(config: TrainConfig, backbone: Backbone) -> tuple[learnpruner.Plan, PlanLitModule, PrunerData]:
    """A plan to train, the training step and its data."""
    if config.plan is not None:
        plan = learnpruner.load(config.plan, config.prune_ratio, config.allow).prepare(backbone.family)
    else:
        plan = build_plan(config.pruner, backbone, config.seed)
    adapt(plan, config, backbone)
    plan.image_aspect = config.data.image_aspect
    if is_rank_zero():
        print(plan.describe(backbone.family.tokens, backbone.family.layers))
    optimizer, scheduler = instantiate(config.optimizer.to_dict()), schedule(config)
    relaxation, settings = instantiate(config.relaxation.to_dict()), config.to_dict()
    module = make_plan_module(
        backbone,
        plan,
        relaxation,
        loss(config),
        optimizer,
        scheduler,
        config.pool,
        config.seed,
        settings,
        config.adapt.lr,
    )
    return plan, module, PrunerData(*data_settings(config, backbone))


def adapt(plan: learnpruner.Plan, config: TrainConfig, backbone: Backbone) -> None:
    """Give the plan what learns beside its pruners; `seed` draws the weights that it starts from."""
    settings = config.adapt.to_dict()
    settings.pop("lr")
    plan.adaptation = choose_adapter(
        plan.adaptation, instantiate(settings) if config.adapt.target else None, config.plan
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        plan.prepare(backbone.family)


def gates(config: TrainConfig, backbone: Backbone) -> tuple[Eviction, KVGateLitModule, TranscriptDataModule]:
    """The same for gates of KV-cache eviction."""
    kv = config.kv
    assert kv is not None
    eviction = Eviction(instantiate(kv.policy), kv.budget, kv.every).prepare(backbone.family)
    if is_rank_zero():
        print(eviction.describe())
    module = KVGateLitModule(
        backbone,
        eviction,
        loss(config),
        instantiate(config.optimizer.to_dict()),
        kv.capacity,
        kv.teacher,
        schedule(config),
        config.to_dict(),
    )
    return eviction, module, TranscriptDataModule(*data_settings(config, backbone))


def loss(config: TrainConfig) -> DistillationLoss:
    """What conf/objective describes."""
    terms = {"kl": KLDivergence, "cross_entropy": CrossEntropy, "hidden": HiddenMSE, "budget": BudgetPenalty}
    return DistillationLoss({name: terms[name](weight) for name, weight in config.objective.to_dict().items()})


def schedule(config: TrainConfig) -> partial[Any]:
    """The learning rate's."""
    return partial(linear_with_warmup, **config.schedule.to_dict())


def data_settings(config: TrainConfig, backbone: Backbone) -> tuple[Any, ...]:
    """Arguments of the data module."""
    data = config.data
    source = apply_image_aspect(instantiate(data.source(config.seed)), data.image_aspect, backbone.processor)
    positions = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", None)
    return source, backbone.processor, data.images_per_batch, data.repeat, data.workers, positions


def asked(config: TrainConfig, backbone: Backbone, prune_ratio: float) -> tuple[Task, dict[str, learnpruner.Plan]]:
    """The benchmark and the baselines beside the trained plan: made before training, so that a wrong setting costs none."""
    task: Task = instantiate(config.benchmark, _convert_="all")
    return task, build_baselines(CONF / "pruner", task.baselines, prune_ratio, backbone, config.seed)


def evaluated(
    config: TrainConfig,
    backbone: Backbone,
    learner: learnpruner.Plan | Eviction,
    export: Path,
    folder: Path,
    task: Task,
    others: dict[str, learnpruner.Plan],
) -> tuple[Path, str]:
    """The export, loaded again, on the benchmark; of whatever package the run has trained a pruner."""
    if isinstance(learner, Eviction):
        allow = outside_packages([learner.policy])
        return task.run(TaskContext(backbone, folder, policy=str(export), allow=allow))
    allow = outside_packages(stage.pruner for stage in learner.stages)
    trained = learnpruner.load(export, allow=allow).prepare(backbone.family).to(backbone.model.device)
    backbone = replace(backbone, image_aspect=trained.image_aspect)
    name = Path(config.plan).name if config.plan else str(HydraConfig.get().runtime.choices["pruner"])
    return task.run(TaskContext(backbone, folder, trained, str(export), name, others))


def exported(
    config: TrainConfig, backbone: Backbone, learner: learnpruner.Plan | Eviction, trainer: L.Trainer, folder: Path
) -> tuple[Path, Path]:
    """The export in the run's folder, and its copy in checkpoints/ where one is asked for."""
    metrics = {"steps": trainer.global_step, **{k: float(v) for k, v in trainer.callback_metrics.items()}}
    command = command_line(["python train.py", *HydraConfig.get().overrides.task])
    notes = f"Trained with `{command}` at commit {commit() or 'unknown'}."
    export = learner.save(folder / "export", backbone.name, backbone.revision, metrics, notes)
    if not config.copy_export:
        return export, export
    job = folder.parts[-2:] if folder.parent.parent.name == "sweeps" else folder.parts[-1:]
    copy = fresh(Path("checkpoints") / "-".join([config.name, learner.tag, *job]))
    return export, shutil.copytree(export, copy, dirs_exist_ok=True)


@hydra_main(CONF, "train")
def main(config: TrainConfig, folder: Path) -> None:
    check_common_folder(any(one.startswith("hydra.run.dir=") for one in HydraConfig.get().overrides.hydra))
    L.seed_everything(config.seed, verbose=False)
    backbone = load_backbone(**config.backbone.to_dict())
    learner, module, data = (pruner if config.kv is None else gates)(config, backbone)
    ratio = 1.0 if isinstance(learner, Eviction) else learner.prune_ratio
    task, others = asked(config, backbone, ratio)
    module.facts = run_facts(backbone.model, data.batches.source, learner)
    module.choices = {group: HydraConfig.get().runtime.choices.get(group) for group in GROUPS}
    if config.ckpt_path is not None:
        check_checkpoint(config.ckpt_path, module, module.facts, config.trainer.max_steps)
    try:
        loggers = make_loggers(config, folder)
        trainer = make_trainer(config.trainer, config.callbacks, loggers, folder, backbone.model.dtype)
        signalled = fit(trainer, module, data, config.ckpt_path)
        if not trainer.is_global_zero:
            return
        export, copy = exported(config, backbone, learner, trainer, folder)
        try:
            if signalled is not None:
                raise SystemExit(exit_status(signalled))
            path, text = evaluated(config, backbone, learner, export, folder, task, others)
        except BaseException:
            log.warning("trained and exported, but not evaluated; go on with: python eval.py plan=%s", copy)
            raise
        write_retention(learner, {export, copy}, path, backbone.model.device)
        log_results(loggers, folder)
    finally:
        wandb.finish()  # behind the evaluation, which is part of the run
    print(f"\n{text}\nexported: {copy}\nresults: {path}")


if __name__ == "__main__":
    main()
