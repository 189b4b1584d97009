"""How weights move: conf/optimizer, the learning rate's conf/scheduler, and conf/relaxation, which gives a choice a gradient."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from learnpruner.config.settings import Built
from learnpruner.config.value_ranges import AboveZero, Amount
from learnpruner.utils.errors import UserError


class OptimizerConfig(Built):
    """The optimizer, handed to its class as a partial; what else the class takes stands beside these.

    Attributes:
        partial: always true.
        lr: learning rate at the schedule's top.
    """

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


class RelaxationConfig(Built):
    """How a choice of tokens gets a gradient; what else its class takes stands beside it.

    Attributes:
        temperature: divides the scores of the soft part; higher spreads gradient over more tokens.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    temperature: AboveZero = 1.0
