"""Trains a pruner, or gates of KV-cache eviction, on a frozen backbone, exports it and evaluates the export: what train.py does once its settings are checked."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger

import learnpruner
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.cli.config_folders import searched_pruners
from learnpruner.cli.entries import make_entries
from learnpruner.cli.inherit import GROUPS
from learnpruner.cli.kv_trainable import KVGateTrainable
from learnpruner.cli.run_folder import fresh
from learnpruner.cli.sweep_job import swept_name, swept_settings
from learnpruner.cli.trainable import PrunerTrainable, Trainable
from learnpruner.config.train_config import TrainConfig
from learnpruner.evaluation.downsampling import Downsampling, build_contestants
from learnpruner.evaluation.optimized_metric import optimized_metric
from learnpruner.evaluation.task import Task
from learnpruner.evaluation.wandb_results import log_results
from learnpruner.plan.hub import write_retention
from learnpruner.training.checkpointing import best_checkpoint, restore_best
from learnpruner.training.loggers import checkpoint_step, finish_wandb
from learnpruner.training.resume_checks import check_checkpoint
from learnpruner.training.run_facts import run_facts
from learnpruner.training.trainer import fit, make_trainer
from learnpruner.utils.distributed import check_common_folder, is_rank_zero
from learnpruner.utils.interrupts import exit_status
from learnpruner.utils.privacy import command_line
from learnpruner.utils.project import SHIPPED
from learnpruner.utils.provenance import commit

log = logging.getLogger(__name__)


def built(config: TrainConfig, backbone: Backbone) -> Trainable:
    """Build what is to be trained."""
    trainable = (PrunerTrainable if config.kv_eviction is None else KVGateTrainable).build(config, backbone)
    if is_rank_zero():
        print(trainable.describe(backbone))
    module = trainable.module
    module.facts = run_facts(backbone.model, trainable.data.batches.source, trainable.learner)
    module.choices = {group: HydraConfig.get().runtime.choices.get(group) for group in GROUPS}
    return trainable


def asked(
    config: TrainConfig, backbone: Backbone, prune_ratio: float
) -> tuple[Task, dict[str, learnpruner.Plan | Downsampling]]:
    """Build the benchmark and the baselines beside the trained plan, before training: a wrong setting then costs none."""
    task: Task = instantiate(config.benchmark, _convert_="all")
    return task, build_contestants(searched_pruners(config.allow), task.baselines, prune_ratio, backbone, config.seed)


def watched(config: TrainConfig, backbone: Backbone, folder: Path) -> tuple[L.Trainer, list[Logger]]:
    """Make the trainer, and what its metrics go to."""
    settings = config.to_dict()
    first = checkpoint_step(config.ckpt_path)
    logged = make_entries(
        settings["logger"], save_dir=folder, first_step=first, run_name=config.name, run_config=settings
    )
    called = make_entries(settings["callbacks"], dirpath=folder / "checkpoints", total_steps=config.trainer.max_steps)
    loggers = list(logged.values())
    return make_trainer(settings["trainer"], [*called.values()], loggers, folder, backbone.model.dtype), loggers


def exported(
    config: TrainConfig, backbone: Backbone, trained: Trainable, trainer: L.Trainer, folder: Path
) -> tuple[Path, Path]:
    """Export into the run's folder, and copy it to checkpoints/ where that is asked for; return both."""
    learner, best = trained.learner, None
    if config.export_checkpoint == "best":
        best = restore_best(best_checkpoint(trainer), trained.module)
    last = {"steps": trainer.global_step, **{k: float(v) for k, v in trainer.callback_metrics.items()}}
    command = command_line(["python train.py", *HydraConfig.get().overrides.task])
    notes = f"Trained with `{command}` at commit {commit() or 'unknown'}."
    export = learner.save(folder / "export", backbone.name, backbone.revision, best or last, notes)
    if not config.publish_export:
        return export, export
    job = folder.parts[-2:] if folder.parent.parent.name == "sweeps" else folder.parts[-1:]
    varied = swept_name({key: value for key, value in swept_settings().items() if key != "prune_ratio"})  # in the tag
    copy = fresh(Path(SHIPPED) / "-".join(filter(None, [config.name, learner.tag, varied, *job])))
    return export, shutil.copytree(export, copy, dirs_exist_ok=True)


def run_train(config: TrainConfig, folder: Path) -> float | None:
    """Train, export and evaluate as the settings say; print the table.

    Returns:
        The number that `optimized_metric` names, None where it names none.

    Raises:
        UserError: where something that is asked for cannot be had.
    """
    check_common_folder(any(one.startswith("hydra.run.dir=") for one in HydraConfig.get().overrides.hydra))
    L.seed_everything(config.seed, verbose=False)
    backbone = load_backbone(**config.backbone.to_dict())
    trainable = built(config, backbone)
    task, others = asked(config, backbone, trainable.prune_ratio)
    if config.ckpt_path is not None:
        check_checkpoint(config.ckpt_path, trainable.module, trainable.module.facts, config.trainer.max_steps)
    try:
        trainer, loggers = watched(config, backbone, folder)
        if config.export_checkpoint == "best":
            best_checkpoint(trainer)  # refused before it trains
        signalled = fit(trainer, trainable.module, trainable.data, config.ckpt_path)
        if not trainer.is_global_zero:
            return None
        export, copy = exported(config, backbone, trainable, trainer, folder)
        label = Path(config.plan).name if config.plan else str(HydraConfig.get().runtime.choices["pruner"])
        try:
            if signalled is not None:
                raise SystemExit(exit_status(signalled))
            path, text = trainable.evaluate(task, backbone, export, folder, others, label)
        except BaseException:
            log.warning("trained and exported, but not evaluated; go on with: python eval.py plan=%s", copy)
            raise
        write_retention(trainable.learner, {export, copy}, path, backbone.model.device)
        log_results(loggers, folder, export)
    finally:
        finish_wandb()  # behind the evaluation, which is part of the run
    print(f"\n{text}\nexported: {copy}\nresults: {path}")
    return optimized_metric(config.optimized_metric, path, trainer.callback_metrics)
