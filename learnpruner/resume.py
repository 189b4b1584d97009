"""Whether a checkpoint is one that this run can go on from: checked before anything is written or started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch

from learnpruner.errors import UserError

FIXED = ("prune_ratio", "seed", "pruner", "kv", "adapt", "relaxation", "optimizer")  # settings that a resumed run keeps
ABSENT = object()


def check_checkpoint(path: str, module: L.LightningModule, config: Mapping[str, Any], max_steps: int) -> None:
    """Refuse a file that is no checkpoint, one of another run, and one of a run that has reached its end.

    config: what the run is asked for; the checkpoint holds what its own was asked for.
    """
    held = _read(path)
    for name, was, now in _differences(held.get("config") or {}, config):
        raise UserError(
            f"ckpt_path={path} comes from a run with {name}={was}, not {now}: resume it with the settings in its run's "
            "config.yaml, or begin anew from its export with plan=."
        )
    own = {name: value.shape for name, value in module.state_dict().items()}
    if own != {name: value.shape for name, value in held["state_dict"].items()}:
        raise UserError(
            f"ckpt_path={path} holds weights of another pruner or backbone: resume it with the settings in its run's "
            "config.yaml."
        )
    if held["global_step"] >= max_steps:
        raise UserError(
            f"ckpt_path={path} is at step {held['global_step']} and trainer.max_steps is {max_steps}: nothing is left to "
            "train; ask for more steps, or evaluate its export: eval.py plan=."
        )


def _read(path: str) -> dict[str, Any]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # PyTorch raises many kinds; each means that the file is something else, or cut short
        held = None
    if not isinstance(held, dict) or not {"state_dict", "global_step", "optimizer_states", "loops"} <= set(held):
        raise UserError(
            f"ckpt_path={path} cannot be read as a checkpoint; give checkpoints/last.ckpt of a run's folder "
            "(an export continues with plan=)."
        )
    return held


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that must be equal and are not: name, the checkpoint's value, this run's."""
    before, after = (dict(_flat({key: one.get(key) for key in FIXED if key in was})) for one in (was, now))
    for name in {**before, **after}:
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if old != new:
            yield name, "absent" if old is ABSENT else old, "absent" if new is ABSENT else new


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the leaves."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for number, part in enumerate(value):
            yield from _flat(part, f"{path}.{number}")
    else:
        yield path, value
