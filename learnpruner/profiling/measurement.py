"""How much the speed task measures: batch sizes, answer lengths and rounds that suit a model and its device."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from learnpruner.utils.errors import UserError
from learnpruner.utils.validation import check_int

LARGE_MODEL_WEIGHTS = 1_000_000_000  # weights from which on a CPU takes about a minute for a prompt
LARGEST_BATCH = "largest"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasurementSettings:
    """What is measured, and how often; None is what `default_settings` says.

    Args:
        batch_sizes: prompts at once; "largest" is the largest power of two that a GPU holds.
        new_tokens: answer lengths.
        warmup, repeats: rounds that do not and do count. None is what `default_settings` says.
    """

    batch_sizes: Sequence[int | str] | None = None
    new_tokens: Sequence[int] | None = None
    warmup: int | None = None
    repeats: int | None = None

    def __post_init__(self) -> None:
        for name, values in (("batch_sizes", self.batch_sizes), ("new_tokens", self.new_tokens)):
            if isinstance(values, int | str) or (values is not None and not values):
                raise UserError(f"benchmark.{name} is {values!r}; give a list: benchmark.{name}=[1,8].")
            for value in values or ():
                if (name, value) != ("batch_sizes", LARGEST_BATCH):
                    check_int(f"benchmark.{name}", value, 1)
        for name, count, low in (("warmup", self.warmup, 0), ("repeats", self.repeats, 1)):
            if count is not None:
                check_int(f"benchmark.{name}", count, low)

    def or_usual(self, model: Any) -> MeasurementSettings:
        """Fill in what is usual where nothing was asked for."""
        asked = {f.name: getattr(self, f.name) for f in fields(self)}
        default = default_settings(model)
        made = {name: getattr(default, name) if value is None else value for name, value in asked.items()}
        if LARGEST_BATCH in made["batch_sizes"] and not on_gpu(model):
            raise UserError("benchmark.batch_sizes has 'largest', which is found on a GPU only; give numbers.")
        return MeasurementSettings(**made)


GPU_SETTINGS = MeasurementSettings((1, 8, LARGEST_BATCH), (1, 32, 128), 2, 5)
CPU_SETTINGS = MeasurementSettings((1, 8), (1, 8), 2, 7)
LARGE_MODEL_CPU_SETTINGS = MeasurementSettings((1,), (1,), 0, 1)


def default_settings(model: Any) -> MeasurementSettings:
    """Choose what is usual: a GPU takes everything; a large model on a CPU one prompt, once, up to the first token."""
    if on_gpu(model):
        return GPU_SETTINGS
    return LARGE_MODEL_CPU_SETTINGS if is_large(model) else CPU_SETTINGS


def on_gpu(model: Any) -> bool:
    """Tell whether a model lies on a GPU."""
    return torch.device(model.device).type == "cuda"


def is_large(model: Any) -> bool:
    """Tell whether a model has so many weights that a CPU takes about a minute for a prompt."""
    return sum(parameter.numel() for parameter in model.parameters()) >= LARGE_MODEL_WEIGHTS


def largest_fitting(attempt: Callable[[int], object], start: int = 1) -> int:
    """Find the largest of start, 2 start, 4 start, ... for which `attempt` does not run out of GPU memory."""
    size = start
    while _fits(attempt, 2 * size):
        size *= 2
    return size


def _fits(attempt: Callable[[int], object], size: int) -> bool:
    try:
        attempt(size)
    except torch.OutOfMemoryError:
        fitted = False
    else:
        fitted = True
    gc.collect()  # what a pass that failed still held
    torch.cuda.empty_cache()
    _log.info("a batch of %d %s", size, "fits" if fitted else "does not fit")
    return fitted
