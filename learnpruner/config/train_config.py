"""What `python train.py` reads: conf/train.yaml."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from learnpruner.config.adapter import AdapterConfig, AnyAdapter
from learnpruner.config.backbone import BackboneConfig
from learnpruner.config.data import AnyData
from learnpruner.config.entries import Entry, LossEntry
from learnpruner.config.kv_eviction import KvEvictionConfig
from learnpruner.config.optimizer import OptimizerConfig, RelaxationConfig, SchedulerConfig
from learnpruner.config.runs import BenchmarkSetting, Checkpoint, Name, PlanPath, Ratio
from learnpruner.config.settings import Settings
from learnpruner.config.trainer import TrainerConfig, ValidationConfig
from learnpruner.config.value_ranges import Natural, Seed
from learnpruner.utils.errors import UserError

MEASURES = {
    "peers": "benchmark=compare_methods compares many plans; train first, then run eval.py benchmark=compare_methods plan=PATH."
}
MEASURES["heads"] = "benchmark=heads measures no trained plan; run eval.py plan=none benchmark=heads."


class TrainConfig(Settings):
    """A training, its export and the evaluation behind it."""

    name: Name = "train"
    seed: Seed = 0
    prune_ratio: Ratio | None = None
    plan: PlanPath | None = None
    ckpt_path: Checkpoint | None = None
    publish_export: bool = True
    export_checkpoint: Literal["last", "best"] = "last"
    allow: list[str] = Field(default_factory=list)
    grad_tokens_per_image: Natural | None = None
    backbone: BackboneConfig
    data: AnyData
    pruner: dict[str, Any]
    kv_eviction: KvEvictionConfig | None = None
    relaxation: RelaxationConfig
    loss: dict[str, LossEntry]
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    adapter: AnyAdapter = Field(default_factory=lambda: AdapterConfig.read({}))
    trainer: TrainerConfig
    logger: dict[str, Entry]
    callbacks: dict[str, Entry]
    validation: ValidationConfig = ValidationConfig()
    benchmark: BenchmarkSetting
    optimized_metric: str | None = None

    @model_validator(mode="after")
    def _something_learns_and_is_measured(self) -> Self:
        if self.plan == "none":
            raise UserError("plan=none keeps all tokens and has nothing to train: give an export, or pruner=NAME.")
        if (said := MEASURES.get(str(self.benchmark.get("name")))) is not None:
            raise UserError(said)
        return self

    @model_validator(mode="after")
    def _the_best_is_found(self) -> Self:
        if self.export_checkpoint == "best" and (
            self.kv_eviction is not None or self.trainer.val_check_interval is None
        ):
            way = (
                "gates are never"
                if self.kv_eviction is not None
                else "set trainer.val_check_interval=0.25; this run is not"
            )
            raise UserError(f"export_checkpoint=best takes the weights of the best validation: {way} validated.")
        return self

    @model_validator(mode="after")
    def _gates_learn_alone(self) -> Self:
        if self.kv_eviction is None:
            return self
        if self.plan is not None:
            raise UserError(
                f"plan={self.plan} and kv_eviction= are both given; gates are trained on the unpruned model."
            )
        if self.adapter.target is not None:
            raise UserError(
                "adapter= and kv_eviction= are both given; gates are trained on the unmodified model: use adapter=none."
            )
        if self.benchmark.get("name") != "kv":
            raise UserError("kv_eviction= needs benchmark=kv: run experiment=kv, or give both.")
        return self
