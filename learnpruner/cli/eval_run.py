"""Evaluates an exported plan, a pruner's config or the unpruned model: what eval.py does once its settings are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

import learnpruner
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.cli.config_folders import searched_pruners
from learnpruner.config.eval_config import EvalConfig
from learnpruner.evaluation.demo import answer_question, read_image
from learnpruner.evaluation.downsampling import build_contestants
from learnpruner.evaluation.task import SHIPPED_PLAN, PlanRequest, Task, TaskContext
from learnpruner.plan.build import build_plan
from learnpruner.plan.export import resolve_export
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.distributed import default_device, is_rank_zero


def request_of(config: EvalConfig) -> PlanRequest:
    """Sum up what is asked for, as tasks read it."""
    pruner = None if config.pruner is None else str(HydraConfig.get().runtime.choices["pruner"])
    random = config.backbone.weights == "random"
    return PlanRequest(config.plan, pruner, config.prune_ratio, config.prune_ratios, random)


def check_files(config: EvalConfig, task: Task, request: PlanRequest) -> None:
    """Refuse what a glance at the disk tells before the backbone is loaded: a plan or a picture that is not there."""
    own = request.pruner is not None or request.is_bare
    plan = config.plan or ("none" if own else task.default_plan)
    if plan != "none":
        resolve_export(plan)
    if config.image is not None:
        read_image(config.image)


def plan_to_evaluate(
    config: EvalConfig, task: Task, request: PlanRequest, budgets: Sequence[float], backbone: Backbone
) -> tuple[learnpruner.Plan | None, str | None]:
    """Load or build the plan, None for the unpruned model, and tell where it comes from."""
    ratio = next(iter(budgets), None)
    if config.pruner is not None:
        return build_plan({**config.pruner, "prune_ratio": ratio}, backbone, config.seed), request.pruner
    if (method := task.default_pruner(request)) is not None:
        return build_plan(PrunerConfigs().load(method, budgets[0]), backbone, config.seed), method
    source = config.plan or (SHIPPED_PLAN if config.image is not None else task.default_plan)
    if source == "none":
        return None, None
    plan = learnpruner.load(source, ratio, config.allow)
    return plan.prepare(backbone.family).to(backbone.model.device), source


def context_of(config: EvalConfig, task: Task, request: PlanRequest, backbone: Backbone, folder: Path) -> TaskContext:
    """Gather what the task runs on; its backbone shows pictures as the plan was trained."""
    budgets = request.asked_budgets if config.image is not None else task.budgets_for(request)
    allow, configs = tuple(config.allow), searched_pruners(config.allow)
    context = TaskContext(backbone, folder, budgets=budgets, pruners=configs, seed=config.seed, allow=allow)
    if not task.takes_plan and config.image is None:
        return replace(context, source=config.plan)
    plan, source = plan_to_evaluate(config, task, request, budgets, backbone)
    on = plan or learnpruner.Plan()
    on.image_aspect = config.image_aspect or on.image_aspect
    backbone = replace(backbone, image_aspect=on.image_aspect)
    if is_rank_zero():
        print(on.describe(backbone.family.tokens, backbone.family.layers))
    names = {} if plan is None or config.image is not None else task.baselines
    ratio = 1.0 if plan is None else plan.prune_ratio
    others = build_contestants(configs, names, ratio, backbone, config.seed)
    label = Path(source or "unpruned").name
    return replace(context, backbone=backbone, plan=plan, source=source, label=label, baselines=others)


def run_eval(config: EvalConfig, folder: Path) -> None:
    """Evaluate as the settings say; write results into the run's folder and print the table.

    Raises:
        UserError: where something that is asked for cannot be had.
    """
    device = config.device if config.device != "auto" else default_device()
    task: Task = instantiate(config.benchmark, _convert_="all")
    request = request_of(config)
    check_files(config, task, request)
    backbone = load_backbone(device=device, **config.backbone.to_dict())
    backbone = replace(backbone, image_aspect=config.image_aspect or backbone.image_aspect)
    context = context_of(config, task, request, backbone, folder)
    if config.image is not None and config.question is not None:
        assert context.plan is not None  # EvalConfig refuses plan=none with a picture
        path, text = answer_question(
            context.backbone, context.plan, config.image, config.question, folder, context.source
        )
    else:
        path, text = task.run(context)
    if text:  # of several processes one speaks
        print(f"\n{text}\nresults: {path}")
