"""How a run learns: conf/relaxation, objective, optimizer, adapt, trainer, logger, callbacks and the schedule."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from learnpruner.config.base import AboveZero, Amount, Built, Positive, Settings, Target
from learnpruner.config.sentences import no_setting
from learnpruner.utils.errors import UserError

LIGHTNING = frozenset(  # further arguments of Lightning's Trainer; a test compares them with its signature
    """barebones benchmark check_val_every_n_epoch detect_anomaly deterministic enable_autolog_hparams enable_model_summary
    fast_dev_run gradient_clip_algorithm inference_mode limit_predict_batches limit_test_batches limit_train_batches
    limit_val_batches max_time min_epochs min_steps model_registry num_sanity_val_steps overfit_batches
    reload_dataloaders_every_n_epochs sync_batchnorm""".split()
)
MADE_HERE = {
    "callbacks": "callbacks=",
    "default_root_dir": "hydra.run.dir=",
    "enable_checkpointing": "callbacks.checkpoint",
    "enable_progress_bar": "callbacks.progress",
    "logger": "logger=",
    "max_epochs": "trainer.max_steps",
    "plugins": "trainer.precision and trainer.strategy",
    "use_distributed_sampler": "the data",
}
LORA = "learnpruner.adapters.lora.LoraAdapter"


class RelaxationConfig(Built):
    """How a choice of tokens gets a gradient."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    temperature: AboveZero = 1.0


class OptimizerConfig(Built):
    """Handed to its class as a partial; what else the class takes stands beside these."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    partial: Literal[True] = Field(True, alias="_partial_")
    lr: Amount = 1e-3

    @model_validator(mode="after")
    def _never_negative(self) -> Self:
        for key in ("weight_decay", "momentum"):  # some classes take any number
            value = (self.model_extra or {}).get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UserError(f"optimizer.{key} is {value}; it must be a finite number, 0 or more.")
        return self


class AdapterConfig(Settings):
    """What learns beside the pruner. lr: its own learning rate, which follows the same schedule; None is the pruner's."""

    target: Target | None = Field(None, alias="_target_")
    lr: Amount | None = None

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if self.lr is not None and self.target is None:
            raise UserError(
                f"adapter.lr is {self.lr}, but nothing is adapted: choose adapter=lora or adapter=projector."
            )
        return self


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f"adapter.target_modules={value!r} is no regular expression: {error}.") from None
    return value


class LoraAdapterConfig(AdapterConfig):
    """Low-rank updates of the language model."""

    r: Positive = 8
    alpha: AboveZero = 16.0
    dropout: Annotated[Amount, Field(lt=1)] = 0.0
    target_modules: Annotated[str, AfterValidator(_pattern)] = ".*_proj"


def _kind(value: Any) -> str:
    target = value.get("_target_") if isinstance(value, dict) else getattr(value, "target", None)
    return "<lora>" if target == LORA else "<plain>"


AnyAdapter = Annotated[
    Annotated[LoraAdapterConfig, Tag("<lora>")] | Annotated[AdapterConfig, Tag("<plain>")], Discriminator(_kind)
]


class SchedulerConfig(Built):
    """The learning rate's schedule, handed to its class as a partial; what the class takes stands beside these."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    partial: Literal[True] = Field(True, alias="_partial_")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        for key in ("warmup", "floor"):
            value = (self.model_extra or {}).get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"scheduler.{key} is {value}; it is a share between 0 and 1.")
        return self


class ValidationConfig(Settings):
    """samples: images, with their questions, that are held out of the training for `trainer.val_check_interval`."""

    samples: Positive = 50


def _devices(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"trainer.devices is {value}; it is a number, auto, or device numbers in quotes: '0,1'.")
    return value


def _interval(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    if isinstance(value, float) and 0 < value <= 1:
        return value
    raise UserError(
        f"trainer.val_check_interval is {value}; it is a number of batches, a share of the run such as 0.25, or null."
    )


class TrainerConfig(Settings):
    """Arguments of Lightning's Trainer by its own names; those that are not here may stand beside these.

    gradient_clip_val: largest gradient norm, 0 does not clip. accumulate_grad_batches: batches a step.
    val_check_interval: batches, or share of the run, between validations; None validates never.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    accelerator: str = "auto"
    devices: Annotated[int | str, BeforeValidator(_devices)] = 1
    num_nodes: Positive = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    max_steps: Positive = 100
    accumulate_grad_batches: Positive = 1
    gradient_clip_val: Amount = 1.0
    log_every_n_steps: Positive = 10
    val_check_interval: Annotated[int | float | None, BeforeValidator(_interval)] = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None

    @model_validator(mode="after")
    def _known_to_lightning(self) -> Self:
        for name in self.model_extra or {}:
            if name in MADE_HERE:
                raise UserError(f"trainer.{name} is made by {MADE_HERE[name]}: set that.")
            if name not in LIGHTNING:
                raise UserError(no_setting(f"trainer.{name}", [*TrainerConfig.model_fields, *LIGHTNING]))
        return self


class KvConfig(Settings):
    """Gates for KV-cache eviction, trained in place of a pruner. policy, budget, every: as `learnpruner.kv_eviction.Eviction`;
    teacher, capacity: as `learnpruner.kv_eviction.lit_module.KVGateLitModule`.
    """

    policy: dict[str, Any]
    budget: Positive = 64
    every: Positive = 16
    teacher: Literal["turn", "transcript"] = "transcript"
    capacity: Amount = 1.0
