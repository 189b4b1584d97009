"""Time to first token, LLM prefill and decode, measured on plans that take turns within one run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from learnpruner.backbones import adapter
from learnpruner.plan import Plan


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one batch.

    ttft_ms: until the first token is known, vision tower included, image preprocessing excluded.
    prefill_ms: of that, in the language model; decode_ms: for each further token.
    peak_bytes: the most memory held on a GPU, 0 on a CPU.
    """

    ttft_ms: float
    prefill_ms: float
    decode_ms: float
    peak_bytes: int


def now(device: torch.device) -> float:
    """Milliseconds on a monotonic clock once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1e3


@dataclass
class Stamps(StoppingCriteria):
    """Notes when each new token is known; never stops the generation."""

    device: torch.device
    times: list[float] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.times.append(now(self.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@contextmanager
def spans(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Milliseconds of each call of `module`, other hooks on it included."""
    durations: list[float] = []
    starts: list[float] = []
    before = module.register_forward_pre_hook(lambda *_: starts.append(now(device)), prepend=True)
    after = module.register_forward_hook(lambda *_: durations.append(now(device) - starts.pop()))
    try:
        yield durations
    finally:
        before.remove()
        after.remove()


@torch.inference_mode()
def timed(model: Any, inputs: Mapping[str, Tensor], new_tokens: int) -> Timing:
    """Time one greedy generation of exactly `new_tokens` tokens (at least 2)."""
    device = torch.device(model.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stamps = Stamps(device)
    with spans(adapter(model).lm, device) as calls:
        start = now(device)
        model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([stamps]),
        )
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    first, last = stamps.times[0], stamps.times[-1]
    return Timing(first - start, calls[0], (last - first) / (new_tokens - 1), peak)


def measure(
    model: Any,
    plans: Mapping[str, Plan | None],
    inputs: Mapping[str, Tensor],
    new_tokens: int = 8,
    warmup: int = 2,
    repeats: int = 7,
) -> dict[str, dict[str, float]]:
    """Median timing of each plan on one batch.

    Plans take turns in every round, so that a machine that slows down slows all of them. The first plan is what the
    others are compared with: `speedup_*` is its median divided by theirs.
    """
    if new_tokens < 2:
        raise ValueError(f"new_tokens is {new_tokens}; decoding is timed from the second token on: give at least 2.")
    rounds: dict[str, list[Timing]] = {name: [] for name in plans}
    for number in range(warmup + repeats):
        for name, plan in plans.items():
            with nullcontext() if plan is None else plan.on(model):
                timing = timed(model, inputs, new_tokens)
            if number >= warmup:
                rounds[name].append(timing)
    medians = {name: medians_of(timings) for name, timings in rounds.items()}
    reference = next(iter(medians.values()))
    speedups = {
        name: {f"speedup_{key[:-3]}": reference[key] / values[key] for key in values if key.endswith("_ms")}
        for name, values in medians.items()
    }
    return {name: medians[name] | speedups[name] for name in plans}


def medians_of(timings: list[Timing]) -> dict[str, float]:
    """Median of each field."""
    rows = [asdict(timing) for timing in timings]
    return {key: float(median(row[key] for row in rows)) for key in rows[0]}
