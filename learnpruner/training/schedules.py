"""Learning-rate schedules over a run of known length: a linear warm-up, then a decay to a floor.

Any scheduler of torch or transformers that counts steps can take their place in a config of conf/scheduler.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from learnpruner.utils.errors import UserError

RUN_LENGTH = ("total_steps", "T_max", "num_training_steps")  # what schedulers call the number of steps of a run


def learning_rate(step: int, total: int, warmup: float, floor: float) -> float:
    """Compute the share of the full learning rate at a step.

    Args:
        step: from 0.
        total: steps of the run.
        warmup: share of all steps over which it rises linearly.
        floor: share that is left at the last step, to which it falls linearly.
    """
    falling = (total - 1 - step) / max(1, total - 1 - _rising(total, warmup))
    return min(_warmed(step, total, warmup), floor + (1 - floor) * min(1.0, max(0.0, falling)))


def cosine_rate(step: int, total: int, warmup: float, floor: float) -> float:
    """Compute the share of the full learning rate at a step, which falls along half a cosine; as `learning_rate`."""
    done = (step - _rising(total, warmup)) / max(1, total - 1 - _rising(total, warmup))
    left = (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2
    return min(_warmed(step, total, warmup), floor + (1 - floor) * left)


def linear_with_warmup(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.02
) -> LRScheduler:
    """Rise linearly, then fall linearly.

    Args:
        optimizer: whose learning rates are scaled.
        total_steps: of the run.
        warmup: share of all steps with a rising rate.
        floor: share of the rate that is left at the last step.
    """
    _check(warmup=warmup, floor=floor)
    return LambdaLR(optimizer, lambda step: learning_rate(step, total_steps, warmup, floor))


def cosine_with_warmup(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.02
) -> LRScheduler:
    """Rise linearly, then fall along half a cosine; arguments as `linear_with_warmup`."""
    _check(warmup=warmup, floor=floor)
    return LambdaLR(optimizer, lambda step: cosine_rate(step, total_steps, warmup, floor))


def constant_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LRScheduler:
    """Rise linearly, then stay; arguments as `linear_with_warmup`."""
    _check(warmup=warmup)
    return LambdaLR(optimizer, lambda step: min(1.0, _warmed(step, total_steps, warmup)))


def attach_scheduler(make: Callable[..., LRScheduler], optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
    """Tie an optimizer to its schedule, as Lightning takes them.

    Args:
        make: a partial that takes the optimizer; the run's length goes to the argument that a scheduler has for it, where
            the config does not give it.
        optimizer: of the run.
        total_steps: optimizer steps of the run.

    Raises:
        UserError: for a schedule that waits for a metric.
    """
    known, given = inspect.signature(make).parameters, getattr(make, "keywords", {})
    length = {name: total_steps for name in RUN_LENGTH if name in known and name not in given}
    scheduler = make(optimizer, **length)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UserError("scheduler=ReduceLROnPlateau waits for a metric: a schedule here counts steps, such as cosine.")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _rising(total: int, warmup: float) -> int:
    return max(1, round(warmup * total))


def _warmed(step: int, total: int, warmup: float) -> float:
    return (step + 1) / _rising(total, warmup)


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"scheduler.{name} is {value}; it is a share between 0 and 1.")
