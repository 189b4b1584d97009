"""How a run learns: conf/relaxation, objective, optimizer, adapt, trainer, logger, callbacks and the schedule."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from learnpruner.config.base import AboveZero, Amount, Built, Natural, Positive, Settings, Share, Target
from learnpruner.utils.errors import UserError

LORA = "learnpruner.adapters.lora.LoraAdapter"


class RelaxationConfig(Built):
    """How a choice of tokens gets a gradient."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    temperature: AboveZero = 1.0


class ObjectiveConfig(Settings):
    """A weighted sum; a weight of 0 leaves its term out.

    kl: distance to the unpruned model's distribution. cross_entropy: the data's own answers. hidden: last hidden states of the
    unpruned model. budget: used where the relaxation does not meet the budget by itself; higher holds it closer.
    """

    kl: Amount = 1.0
    cross_entropy: Amount = 0.0
    hidden: Amount = 0.0
    budget: Amount = 100.0

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if self.kl == self.cross_entropy == self.hidden == 0:
            raise UserError("objective has no term to learn from; give kl, cross_entropy or hidden a weight above 0.")
        return self


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


class AdaptConfig(Settings):
    """What learns beside the pruner. lr: its own learning rate, which follows the same schedule; None is the pruner's."""

    target: Target | None = Field(None, alias="_target_")
    lr: Amount | None = None

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if self.lr is not None and self.target is None:
            raise UserError(f"adapt.lr is {self.lr}, but nothing is adapted: choose adapt=lora or adapt=projector.")
        return self


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f"adapt.target_modules={value!r} is no regular expression: {error}.") from None
    return value


class LoraAdaptConfig(AdaptConfig):
    """Low-rank updates of the language model."""

    r: Positive = 8
    alpha: AboveZero = 16.0
    dropout: Annotated[Amount, Field(lt=1)] = 0.0
    target_modules: Annotated[str, AfterValidator(_pattern)] = ".*_proj"


def _kind(value: Any) -> str:
    target = value.get("_target_") if isinstance(value, dict) else getattr(value, "target", None)
    return "<lora>" if target == LORA else "<plain>"


AnyAdapt = Annotated[
    Annotated[LoraAdaptConfig, Tag("<lora>")] | Annotated[AdaptConfig, Tag("<plain>")], Discriminator(_kind)
]


class ScheduleConfig(Settings):
    """Linear warm-up, then linear decay. warmup: share of all steps; floor: share of the learning rate at the last step."""

    warmup: Share = 0.05
    floor: Share = 0.02


def _devices(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"trainer.devices is {value}; it is a number, auto, or device numbers in quotes: '0,1'.")
    return value


class TrainerConfig(Settings):
    """Steps, devices and precision; clip: largest gradient norm, 0 does not clip."""

    accelerator: str = "auto"
    devices: Annotated[int | str, BeforeValidator(_devices)] = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    max_steps: Positive = 100
    accumulate: Positive = 1
    clip: Amount = 1.0
    log_every: Positive = 10
    profiler: Literal["simple", "advanced", "pytorch"] | None = None


class LoggerConfig(Settings):
    """csv: metrics.csv in the run's folder. wandb: Weights & Biases; mode auto is online when a key is found, else offline."""

    csv: bool = True
    wandb: bool = False
    project: str = "learnpruner"
    entity: str | None = None
    group: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"


class CallbacksConfig(Settings):
    """checkpoint_every: steps between checkpoints, 0 saves none; the last step and a failure are saved as well."""

    checkpoint_every: Natural = 50
    progress: bool = True


class KvConfig(Settings):
    """Gates for KV-cache eviction, trained in place of a pruner. policy, budget, every: as `learnpruner.kv_eviction.Eviction`;
    teacher, capacity: as `learnpruner.kv_eviction.lit_module.KVGateLitModule`.
    """

    policy: dict[str, Any]
    budget: Positive = 64
    every: Positive = 16
    teacher: Literal["turn", "transcript"] = "transcript"
    capacity: Amount = 1.0
