"""Time to first token, LLM prefill, decode and the whole answer, measured on plans that take turns within one run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from learnpruner.backbones import family_of
from learnpruner.plan import Plan

Clock = Callable[[], float]


def synchronized_ms(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Read a monotonic clock, in milliseconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() * 1e3


@dataclass
class TokenTimestamps(StoppingCriteria):
    """Notes when each new token is known; never stops the generation."""

    device: torch.device
    clock: Clock = time.perf_counter
    times: list[float] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.times.append(synchronized_ms(self.device, self.clock))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@contextmanager
def time_module_calls(
    module: nn.Module, device: torch.device, clock: Clock = time.perf_counter
) -> Iterator[list[float]]:
    """Time each call of `module` inside the block, in milliseconds, other hooks on it included."""
    durations: list[float] = []
    starts: list[float] = []
    before = module.register_forward_pre_hook(lambda *_: starts.append(synchronized_ms(device, clock)), prepend=True)
    after = module.register_forward_hook(lambda *_: durations.append(synchronized_ms(device, clock) - starts.pop()))
    try:
        yield durations
    finally:
        before.remove()
        after.remove()


@torch.inference_mode()
def time_generation(
    model: Any, inputs: Mapping[str, Tensor], new_tokens: Sequence[int] = (1,), clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Time one greedy generation as long as the largest of `new_tokens`, in milliseconds, with the most GPU memory held.

    vision_ms: in the vision tower. ttft_ms: until the first token is known, vision tower included, image preprocessing
    excluded. prefill_ms: of that, in the language model. decode_ms: for each further token. total_N_ms: until N tokens
    are known, for each N of `new_tokens` above 1. peak_bytes: 0 on a CPU.
    """
    device, family, longest = torch.device(model.device), family_of(model), max(new_tokens)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stamps = TokenTimestamps(device, clock)
    with (
        time_module_calls(family.language_model, device, clock) as calls,
        time_module_calls(family.tower, device, clock) as seen,
    ):
        start = synchronized_ms(device, clock)
        model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=longest,
            max_new_tokens=longest,
            stopping_criteria=StoppingCriteriaList([stamps]),
        )
    first, last = stamps.times[0], stamps.times[-1]
    found = {"vision_ms": sum(seen), "ttft_ms": first - start, "prefill_ms": calls[0]}
    if longest > 1:
        found["decode_ms"] = (last - first) / (longest - 1)
    found |= {f"total_{count}_ms": stamps.times[count - 1] - start for count in new_tokens if count > 1}
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return found | {"peak_bytes": float(peak)}


def time_plans(
    model: Any,
    plans: Mapping[str, Plan | None],
    inputs: Mapping[str, Tensor],
    new_tokens: Sequence[int] = (1, 8),
    warmup: int = 2,
    repeats: int = 7,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Take the median of each plan's times on one batch, see `time_generation`.

    Plans take turns in every round, so that a machine that slows down slows all of them. The first plan is what the
    others are compared with: `speedup_*` is its median divided by theirs.
    """
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    for number in range(warmup + repeats):
        for name, plan in plans.items():
            with nullcontext() if plan is None else plan.on(model):
                timing = time_generation(model, inputs, new_tokens, clock)
            if number >= warmup:
                rounds[name].append(timing)
    medians = {
        name: {key: float(median(one[key] for one in found)) for key in found[0]} for name, found in rounds.items()
    }
    reference = next(iter(medians.values()))
    speedups = {
        name: {f"speedup_{key[:-3]}": reference[key] / values[key] for key in values if key.endswith("_ms")}
        for name, values in medians.items()
    }
    return {name: medians[name] | speedups[name] for name in plans}
