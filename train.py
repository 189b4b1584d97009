"""Trains a pruner on a frozen backbone, exports it and evaluates the export; conf/train.yaml says what can be set."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import lightning as L
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

import learnpruner
from learnpruner.backbones import load_backbone
from learnpruner.baselines import baselines, build
from learnpruner.config import TrainConfig, source_settings
from learnpruner.data.module import PrunerData
from learnpruner.entry import program
from learnpruner.lit import LitPruner
from learnpruner.loggers import make_loggers
from learnpruner.results import commit
from learnpruner.trainer import make_trainer

CONF = Path(__file__).parent / "conf"


@program(CONF, "train")
def main(config: TrainConfig, folder: Path) -> None:
    L.seed_everything(config.seed, verbose=False)
    b = config.backbone
    backbone = load_backbone(b.path, b.revision, b.dtype, attn_implementation=b.attn_implementation)
    if config.plan is not None:
        plan = learnpruner.load(config.plan, config.prune_ratio).prepare(backbone.adapter)
    else:
        plan = build(config.pruner, backbone, config.seed)
    print(plan.describe(backbone.adapter.tokens, backbone.adapter.layers))

    source = instantiate(source_settings(config))
    data = PrunerData(source, backbone.processor, config.data.images_per_batch, config.data.repeat, config.data.workers)
    module = LitPruner(
        backbone,
        plan,
        instantiate(asdict(config.relaxation)),
        config.objective,
        instantiate(asdict(config.optimizer)),
        config.schedule.warmup,
        config.schedule.floor,
        config.pool,
        config.seed,
        asdict(config),
    )
    loggers = make_loggers(config, folder)
    trainer = make_trainer(config.trainer, config.callbacks, loggers, folder)
    try:
        trainer.fit(module, data, ckpt_path=config.ckpt_path)
    finally:
        wandb.finish()
    if not trainer.is_global_zero:
        return

    metrics = {"steps": trainer.global_step, **{k: float(v) for k, v in trainer.callback_metrics.items()}}
    command = " ".join(["python train.py", *HydraConfig.get().overrides.task])
    notes = f"Trained with `{command}` at commit {commit() or 'unknown'}."
    export = plan.save(folder / "export", backbone.name, backbone.revision, metrics, notes)
    job = folder.parts[-2:] if folder.parent.parent.name == "sweeps" else folder.parts[-1:]
    copy = Path("checkpoints") / "-".join([config.name, f"r{plan.prune_ratio:g}", *job])
    shutil.copytree(export, copy)  # dated, so never onto a shipped plan

    trained = learnpruner.load(export).prepare(backbone.adapter).to(backbone.model.device)
    task = instantiate(config.benchmark, _convert_="all")
    others = baselines(CONF / "pruner", task.baselines, plan.prune_ratio, backbone, config.seed)
    path, text = task.run(backbone, trained, folder, str(export), others)
    print(f"\n{text}\nexported: {copy}\nresults: {path}")


if __name__ == "__main__":
    main()
