"""What `python eval.py` reads: conf/eval.yaml."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from learnpruner.config.backbone import BackboneConfig
from learnpruner.config.data import ImageAspect
from learnpruner.config.runs import BenchmarkSetting, Name, PlanPath, Ratio, Ratios
from learnpruner.config.settings import Settings
from learnpruner.config.value_ranges import Seed
from learnpruner.core.budget_request import refuse_several_budgets, refuse_single_plan
from learnpruner.utils.errors import UserError

SEVERAL = ("peers", "speed", "train_step")  # benchmarks of several budgets


class EvalConfig(Settings):
    """An evaluation of one plan, of the unpruned model, or of all methods."""

    name: Name = "eval"
    seed: Seed = 0
    prune_ratio: Ratio | None = None
    prune_ratios: Ratios | None = None
    plan: PlanPath | None = None
    allow: list[str] = Field(default_factory=list)
    device: str = "auto"
    image_aspect: ImageAspect | None = None
    image: str | None = None
    question: str | None = None
    backbone: BackboneConfig
    pruner: dict[str, Any] | None = None
    benchmark: BenchmarkSetting

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        if self.device == "meta":
            raise UserError("device=meta holds no weights to compute with; choose cpu, cuda or auto.")
        return self

    @model_validator(mode="after")
    def _picture_and_question(self) -> Self:
        for key, text in (("image", self.image), ("question", self.question)):
            if text is not None and not text.strip():
                raise UserError(
                    f"{key}= is blank; give a picture's file as image= and what to ask about it as question=."
                )
        if (self.image is None) != (self.question is None):
            raise UserError("image= and question= go together: give both, or neither for the benchmark.")
        if self.image is not None and self.plan == "none":
            raise UserError("plan=none keeps all tokens: a picture of the kept ones needs plan=PATH or pruner=NAME.")
        return self

    @model_validator(mode="after")
    def _budgets(self) -> Self:
        name = self.benchmark.get("name") if self.image is None else None
        if self.plan == "none" and self.prune_ratio not in (None, 1.0):
            raise UserError(
                f"plan=none keeps all tokens and prune_ratio={self.prune_ratio:g} of them cannot be had: leave one out, "
                "or give plan=PATH or pruner=NAME."
            )
        if name == "peers":
            refuse_single_plan(self.pruner, self.prune_ratio)
        if name not in SEVERAL:
            refuse_several_budgets(self.prune_ratios)
        return self
