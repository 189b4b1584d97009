"""Who takes part: every config of a pruner at every budget, and why where one does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import learnpruner
from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.core.budget import InfeasibleBudget
from learnpruner.core.plan_spec import Positions
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.downsampling import DOWNSAMPLING, Downsampling, check_downsampling, generate_downsampled
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.plan import Plan
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.errors import UserError
from learnpruner.utils.project import find_checkpoint

OK, INFEASIBLE, UNTRAINED, REFUSED = "ok", "infeasible", "untrained", "refused"


@dataclass(frozen=True)
class MethodRun:
    """One method at one budget.

    plan: also the unpruned model on smaller pictures; None where it does not run; then `status` says what kind of reason there is, and `why` the reason itself.
    source: the config's name, or the export that it was loaded from. smallest: feasible prune_ratio, where known.
    reconstruction, fallback: as its pruners say; not known of a plan that could not be built. adapts: what the plan changes
    in the model itself.
    """

    method: str
    prune_ratio: float
    source: str
    plan: Plan | Downsampling | None = None
    status: str = OK
    why: str = ""
    smallest: float | None = None
    reconstruction: bool = False
    fallback: str = ""
    adapts: str | None = None

    @property
    def row(self) -> str:
        """Its name among the answers."""
        return f"{self.method}@{self.prune_ratio:g}"


def labels(plan: Plan) -> dict[str, Any]:
    """Tell what tables say of a plan's pruners."""
    pruners = [stage.pruner for stage in plan.stages]
    fallback = "; ".join(dict.fromkeys(pruner.fallback for pruner in pruners if pruner.fallback))
    return {
        "reconstruction": any(pruner.reconstruction for pruner in pruners),
        "fallback": fallback,
        "adapts": plan.adapts,
    }


@dataclass(frozen=True)
class MethodGrid:
    """The methods that take part.

    configs: where they lie. methods: names in them, None for all. exports: method -> trained export, re-budgeted; for others
    `export_pattern` with {method} filled in is looked at. positions: of every plan, None for what each config says.
    allow: packages beside this one whose pruners exports may have. downsampling: whether the unpruned model on smaller
    pictures takes part.
    """

    configs: PrunerConfigs = field(default_factory=PrunerConfigs)
    methods: Sequence[str] | None = None
    exports: Mapping[str, str] = field(default_factory=dict)
    export_pattern: str | None = None
    positions: Positions | None = None
    seed: int = 0
    allow: tuple[str, ...] = ()
    downsampling: bool = False

    def names(self) -> list[str]:
        """List the methods in order of name, then exports that have no config.

        Raises:
            UserError: one is in no folder, or its config may not be built.
        """
        known = self.configs.files()
        named = list(dict.fromkeys([*known, *self.exports] if self.methods is None else self.methods))
        if unknown := sorted(set(named) - set(known) - set(self.exports)):
            folders = " and ".join(str(folder) for folder in self.configs.folders)
            raise UserError(f"benchmark.methods names {unknown}; {folders} has {', '.join(known)}.")
        for name in named:
            if self.export(name) is None:
                self.configs.find(name)
        return named

    def export(self, method: str) -> Path | None:
        """Find the trained export of a method, None where there is none."""
        if method in self.exports:
            return Path(self.exports[method])
        path = None if self.export_pattern is None else Path(self.export_pattern.format(method=method))
        return path if path is not None and find_checkpoint(path).is_dir() else None

    def entrants(self, ratios: Sequence[float], backbone: Backbone) -> Iterator[MethodRun]:
        """Build every method at every budget, and the plain competitor last."""
        for method in self.names():
            for ratio in ratios:
                yield self.entrant(method, ratio, backbone)
        for ratio in ratios if self.downsampling else ():
            yield downsampling_run(ratio, backbone)

    def entrant(self, method: str, ratio: float, backbone: Backbone) -> MethodRun:
        """Build one method at one budget; what can't run says why."""
        export = self.export(method)
        source = method if export is None else str(export)
        try:
            plan = self.plan(method, export, ratio, backbone)
            with plan.on(backbone.model):  # refuses what this family cannot give
                pass
        except InfeasibleBudget as error:
            return MethodRun(method, ratio, source, None, INFEASIBLE, str(error), error.smallest)
        except UserError as error:
            return MethodRun(method, ratio, source, None, REFUSED, " ".join(str(error).split()))
        if export is None and any(True for _ in plan.parameters()):
            why = f"it learns, and {self.export_pattern and self.export_pattern.format(method=method)} holds no trained export."
            return MethodRun(method, ratio, source, None, UNTRAINED, why, **labels(plan))
        return MethodRun(method, ratio, source, plan, **labels(plan))

    def plan(self, method: str, export: Path | None, ratio: float, backbone: Backbone) -> Plan:
        """The method's plan on this backbone; a UserError says why there is none."""
        if export is None:
            made = self.configs.load(method, ratio, backbone.name)
            return build_plan(made | ({"positions": self.positions} if self.positions else {}), backbone, self.seed)
        plan = learnpruner.load(export, ratio, self.allow)
        plan.positions = self.positions or plan.positions
        return plan.prepare(backbone.family).to(backbone.model.device)


def downsampling_run(ratio: float, backbone: Backbone) -> MethodRun:
    """The unpruned model on smaller pictures, or why this backbone has none with fewer tokens."""
    try:
        check_downsampling(backbone)
    except UserError as error:
        return MethodRun(DOWNSAMPLING, ratio, DOWNSAMPLING, None, REFUSED, str(error))
    return MethodRun(DOWNSAMPLING, ratio, DOWNSAMPLING, Downsampling(ratio))


@torch.inference_mode()
def tried(entrants: Iterable[MethodRun], backbone: Backbone, benchmark: Benchmark, samples: int) -> list[MethodRun]:
    """Try each plan on the first samples.

    A method that refuses how this backbone lays out pictures says so before the others have run.
    """
    batch = [benchmark[i] for i in range(samples)]
    images, questions = [one.image for one in batch], [benchmark.wording(one.question) for one in batch]
    inputs = encode_prompts(backbone, images, questions)
    found = []
    with shared_vision(backbone.model):
        for one in entrants:
            try:
                if isinstance(one.plan, Downsampling):
                    generate_downsampled(backbone, one.plan, images, questions, max_new_tokens=1)
                elif one.plan is not None:
                    generate_and_verify(backbone, one.plan, inputs, max_new_tokens=1)
            except UserError as error:
                one = replace(one, plan=None, status=REFUSED, why=" ".join(str(error).split()))
            found.append(one)
    return found


def check_average(entrant: MethodRun, tokens: int, layers: int) -> None:
    """Refuse a plan that would run at another budget than it was asked for; a smaller picture has at most that many tokens."""
    if entrant.plan is None or isinstance(entrant.plan, Downsampling):
        return
    asked, found = round(entrant.prune_ratio * tokens), entrant.plan.tokens(tokens, layers)["averaged"]
    if abs(found - asked) > 0.5:
        raise RuntimeError(
            f"{entrant.method} at prune_ratio={entrant.prune_ratio:g} would run on {found:.2f} tokens on average in "
            f"place of {asked}: its budget must be mended before it is compared."
        )
