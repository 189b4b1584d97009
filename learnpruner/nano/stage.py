"""One resumable step of the pre-training: a loop with warm-up, linear decay, clipping, snapshots and a progress bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from learnpruner.utils.errors import UserError
from learnpruner.utils.finite import check_finite

_log = logging.getLogger(__name__)
StageLogs = dict[str, float]


@dataclass(frozen=True)
class PretrainStage:
    """``loss(step)`` returns the loss and what to show; it must be a function of the step number, so that a resumed stage repeats nothing."""

    name: str
    steps: int
    modules: dict[str, nn.Module]
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[int], tuple[Tensor, StageLogs]]
    warmup: int = 60
    decay: float = 0.5  # share of the steps over which the rate falls to a hundredth
    save_every: int = 100


def run_pretrain_stage(stage: PretrainStage, folder: Path) -> None:
    """Trains to the end, from the last snapshot in ``folder`` if there is one, and leaves the final one there."""
    path = folder / f"{stage.name}.pt"
    start, seconds = _restore(stage, path)
    began = time.monotonic() - seconds
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in stage.optimizers]
    parameters = [p for o in stage.optimizers for group in o.param_groups for p in group["params"]]
    bar = tqdm(range(start, stage.steps), desc=stage.name, initial=start, total=stage.steps, mininterval=10)
    for step in bar:
        for optimizer, base in zip(stage.optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * warmup_decay(step, stage)
        loss, logs = stage.loss(step)
        loss.backward()
        if not nn.utils.clip_grad_norm_(parameters, 1.0).isfinite():
            raise UserError(
                f"{stage.name}: the loss or its gradient is not finite at step {step}; {path} is kept as it is."
            )
        for optimizer in stage.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 49:
            shown = " ".join(f"{name} {value:.3f}" for name, value in {"loss": loss.item(), **logs}.items())
            bar.write(f"{stage.name} {step + 1}/{stage.steps}: {shown}")
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            _save(stage, path, step + 1, time.monotonic() - began, rates)


def warmup_decay(step: int, stage: PretrainStage) -> float:
    """Linear warm-up, constant, then linear decay to 1 % over the last ``decay`` of the steps."""
    left = (stage.steps - step) / max(1.0, stage.decay * stage.steps)
    return min(1.0, (step + 1) / stage.warmup) * max(0.01, min(1.0, left))


def summarise_stage(name: str, folder: Path) -> tuple[int, float]:
    """Steps done and seconds spent, as the last snapshot tells."""
    state = torch.load(folder / f"{name}.pt", weights_only=True)
    return int(state["step"]), float(state["seconds"])


def _save(stage: PretrainStage, path: Path, step: int, seconds: float, rates: Iterable[list[float]]) -> None:
    for optimizer, base in zip(stage.optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate
    state = {
        "step": step,
        "of": stage.steps,
        "seconds": seconds,
        "modules": {name: module.state_dict() for name, module in stage.modules.items()},
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers],
    }
    for name, module in stage.modules.items():
        check_finite(module.state_dict(), f"{path} is not written, {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(stage: PretrainStage, path: Path) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if (of := state.get("of", stage.steps)) != stage.steps:
        raise UserError(
            f"{path} is of {of} steps, and {stage.steps} are asked for: give another --work, or the --scale that it was begun with."
        )
    for name, module in stage.modules.items():
        check_finite(state["modules"][name], f"{path} is refused, {name}")
        module.load_state_dict(state["modules"][name])
    for optimizer, values in zip(stage.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    _log.info("%s resumes at step %d of %d", stage.name, state["step"], stage.steps)
    return int(state["step"]), float(state["seconds"])
