"""Evaluates an exported plan, a pruner's config or the unpruned model; conf/eval.yaml says what can be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

import learnpruner
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.cli.main import hydra_main
from learnpruner.comparison.task import ComparisonTask
from learnpruner.config.eval import EvalConfig
from learnpruner.evaluation.demo import answer_question, read_image
from learnpruner.plan.build import build_baselines, build_plan, load_pruner_config
from learnpruner.plan.export import resolve_export
from learnpruner.profiling.latency_task import LatencyTask
from learnpruner.profiling.train_step_task import TrainStepTask
from learnpruner.utils.distributed import default_device, is_rank_zero

CONF = Path(__file__).parent / "conf"
SHIPPED = "checkpoints/nano-r0.055"


def budgets(config: EvalConfig, task: LatencyTask | TrainStepTask) -> list[float]:
    """Budgets to time: those asked for, or the task's own for random weights without a plan; none is the plan's own."""
    asked = config.prune_ratios or ([] if config.prune_ratio is None else [config.prune_ratio])
    return asked or (list(task.ratios) if bare(config) else [])


def bare(config: EvalConfig) -> bool:
    """Whether weights are random and no plan is named: an untrained one takes the same time."""
    return config.backbone.weights == "random" and config.plan is None and config.pruner is None


def chosen(config: EvalConfig, task: Any, backbone: Backbone) -> tuple[learnpruner.Plan | None, str | None]:
    """The plan, None for the unpruned model, and where it comes from."""
    ratio = next(iter(config.prune_ratios or ()), config.prune_ratio)
    if config.pruner is not None:
        given = {**config.pruner, "prune_ratio": ratio}
        return build_plan(given, backbone, config.seed), str(HydraConfig.get().runtime.choices["pruner"])
    if bare(config) and isinstance(task, LatencyTask | TrainStepTask):
        given = load_pruner_config(CONF / "pruner" / f"{task.method}.yaml", budgets(config, task)[0])
        return build_plan(given, backbone, config.seed), task.method
    source = config.plan or SHIPPED
    if source == "none":
        return None, None
    plan = learnpruner.load(source, ratio, config.allow)
    return plan.prepare(backbone.family).to(backbone.model.device), source


def check(config: EvalConfig, task: Any) -> None:
    """Refuse what a glance at the disk tells before the backbone is loaded: a plan or a picture that is not there."""
    own = config.pruner is not None or bare(config) or isinstance(task, ComparisonTask)
    plan = config.plan or (None if own else SHIPPED)
    if plan not in (None, "none"):
        resolve_export(plan)
    if config.image is not None:
        read_image(config.image)


def compare(config: EvalConfig, task: ComparisonTask, backbone: Backbone, folder: Path) -> tuple[Path, str]:
    """Every method of conf/pruner at every budget; an export given as plan= takes part under its folder's name."""
    exports = {Path(config.plan).name: config.plan} if config.plan not in (None, "none") else {}
    return task.run(
        backbone, task.field(CONF / "pruner", config.seed, exports, config.allow), config.prune_ratios, folder
    )


@hydra_main(CONF, "eval")
def main(config: EvalConfig, folder: Path) -> None:
    device = config.device if config.device != "auto" else default_device()
    task = instantiate(config.benchmark, _convert_="all")
    check(config, task)
    backbone = load_backbone(device=device, **config.backbone.to_dict())
    backbone = replace(backbone, image_aspect=config.image_aspect or backbone.image_aspect)
    if isinstance(task, ComparisonTask) and config.image is None:
        path, text = compare(config, task, backbone, folder)
        print(f"\n{text}\nresults: {path}")
        return
    if isinstance(task, LatencyTask | TrainStepTask):
        task.prune_ratios = budgets(config, task)
    plan, source = chosen(config, task, backbone)
    on = plan or learnpruner.Plan()
    on.image_aspect = config.image_aspect or on.image_aspect
    backbone = replace(backbone, image_aspect=on.image_aspect)
    if is_rank_zero():
        print(on.describe(backbone.family.tokens, backbone.family.layers))
    if config.image is not None and config.question is not None:
        assert plan is not None  # EvalConfig refuses plan=none with a picture
        path, text = answer_question(backbone, plan, config.image, config.question, folder, source)
    else:
        names = {} if plan is None else task.baselines
        ratio = 1.0 if plan is None else plan.prune_ratio
        others = build_baselines(CONF / "pruner", names, ratio, backbone, config.seed)
        path, text = task.run(backbone, plan, folder, source, others, label=Path(source or "unpruned").name)
    if text:  # of several processes one speaks
        print(f"\n{text}\nresults: {path}")


if __name__ == "__main__":
    main()
