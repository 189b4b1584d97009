"""Whether a checkpoint is one that this run can go on from: checked before anything is written or started."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learnpruner.config.earlier import upgraded
from learnpruner.training.checkpointing import check_finite_checkpoint
from learnpruner.utils.errors import UserError
from learnpruner.utils.moved_names import with_canonical_targets
from learnpruner.utils.validation import is_int

ABSENT = object()
FREE = (  # settings that the losses do not depend on; all others must be equal
    "name ckpt_path publish_export export_checkpoint allow logger callbacks benchmark optimized_metric trainer.max_steps "
    "trainer.log_every_n_steps trainer.profiler trainer.accelerator data.skipped"
).split()
TOLD = {  # settings that say where something is, or how it is to be had, whose digest the checkpoint keeps
    "backbone": ["backbone.path", "backbone.revision", "backbone.device_map"],
    "plan": ["plan"],
    "data": ["data.root", "data.json", "data.images", "data.source"],
    "processes": ["trainer.devices", "trainer.num_nodes", "trainer.strategy"],
    "precision": ["trainer.precision"],
}


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a whole checkpoint of finite values.

    Raises:
        UserError: where the file is none, is cut short, or holds values that are not finite.
    """
    try:
        held = _loaded(path)
    except Exception:  # PyTorch raises many kinds; each means that the file is something else, or cut short
        raise UserError(
            f"ckpt_path={path} cannot be read as a checkpoint; {_sibling(path)} (an export continues with plan=)."
        ) from None
    if (fault := _fault(held)) is not None:
        raise UserError(f"ckpt_path={path} is no whole checkpoint: {fault}; {_sibling(path)}.")
    check_finite_checkpoint(held, f"ckpt_path={path} is refused")
    return held


def _loaded(path: str) -> dict[str, Any]:
    held = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(held, dict) or not {"state_dict", "global_step", "optimizer_states", "loops"} <= set(held):
        raise KeyError(path)
    return held


def _sibling(path: str) -> str:
    """What to give in place of a broken file: the newest whole one beside it."""
    found = []
    for other in Path(path).parent.glob("*.ckpt"):
        try:
            found.append((_loaded(str(other))["global_step"], str(other)))
        except Exception:
            continue
    if not found:
        return "give checkpoints/last.ckpt of a run's folder"
    step, best = max(found, key=lambda one: one[0])
    return f"{best} is whole, after step {step}"


def _fault(held: Mapping[str, Any]) -> str | None:
    """What is wrong with its make-up; None for a checkpoint from which a run goes on exactly."""
    step, weights = held["global_step"], held["state_dict"]
    if not is_int(step, 0):
        return f"global_step is {step!r}"
    if not isinstance(weights, dict) or not all(isinstance(one, Tensor) for one in weights.values()) or not weights:
        return "state_dict holds no weights by name"
    for name, keys in (("optimizer_states", {"state", "param_groups"}), ("lr_schedulers", {"last_epoch"})):
        states = held.get(name)
        if (
            not isinstance(states, list)
            or len(states) != 1
            or not isinstance(states[0], dict)
            or not keys <= set(states[0])
        ):
            return f"{name} is not the state of one"
    state, groups = held["optimizer_states"][0]["state"], held["optimizer_states"][0]["param_groups"]
    if not isinstance(state, dict) or not all(isinstance(one, dict) for one in state.values()):
        return "the optimizer's state is not by weight"
    if not isinstance(groups, list) or not all(isinstance(one, dict) and "params" in one for one in groups):
        return "the optimizer's groups hold no weights"
    return _out_of_step(held, step)


def _out_of_step(held: Mapping[str, Any], step: int) -> str | None:
    """Counts that do not agree: a run would skip batches, or meet them twice."""
    try:
        loop = held["loops"]["fit_loop"]
        batches = loop["epoch_loop.batch_progress"]["total"]["ready"]
        counts = {
            "current batches": loop["epoch_loop.batch_progress"]["current"]["ready"] == batches,
            "batches of the data": loop["state_dict"]["combined_loader"][0]["batches"] == batches,
            "steps of the loop": loop["epoch_loop.state_dict"]["_batches_that_stepped"] == step,
            "steps of the learning rate": held["lr_schedulers"][0]["last_epoch"] == step,
            "steps of the optimizer": _steps(loop) == step,
            "batches a step": (step > 0 and batches % step == 0) or batches == 0,
        }
    except (KeyError, TypeError, IndexError) as error:
        return f"its loops lack {error}"
    return next(
        (f"the {name} do not agree with its step {step}" for name, agrees in counts.items() if not agrees), None
    )


def _steps(loop: Mapping[str, Any]) -> int:
    done: int = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    return done


def checkpoint_settings(held: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Tell the settings of the checkpoint's run, in today's names.

    Args:
        held: the checkpoint.
        path: of its file, for the refusal.

    Raises:
        UserError: where it holds none.
    """
    if not isinstance(held.get("config"), dict) or not held["config"]:
        raise UserError(
            f"ckpt_path={path} holds no settings of its run, so that nothing tells whether this one goes on as that began: "
            "begin anew, from its run's export with plan=."
        )
    config: dict[str, Any] = with_canonical_targets(upgraded(held["config"]))
    return config


def unbound_settings(held: Mapping[str, Any]) -> list[str]:
    """List settings that may differ from the checkpoint's: they are compared in another way, or do not matter."""
    facts = held.get("facts") or {}
    free = FREE + [name for fact, names in TOLD.items() if fact in facts for name in names]
    streams = (held["config"].get("data") or {}).get("streaming")  # its samples depend on how many workers read
    return free if streams else [*free, "data.workers"]


def check_checkpoint(path: str, module: Any, facts: Mapping[str, str], max_steps: int) -> None:
    """Refuse a checkpoint of another backbone, plan or data, and one of a run that has reached its end.

    Args:
        path: of the checkpoint, whose settings have been compared.
        module: what is to be trained; its `make_optimizer` gives the optimizer.
        facts: what it is trained on, as `learnpruner.training.run_facts` says.
        max_steps: at which the run ends.

    Raises:
        UserError: where it is one of these.
    """
    held = read_checkpoint(path)
    own = {name: value.shape for name, value in module.state_dict().items()}
    if own != {name: value.shape for name, value in held["state_dict"].items()}:
        raise UserError(
            f"ckpt_path={path} holds weights of another pruner or backbone: resume it with the settings in its run's "
            "config.yaml."
        )
    for name, now in facts.items():
        if (was := (held.get("facts") or {}).get(name)) not in (None, now):
            raise UserError(
                f"ckpt_path={path} was trained with another {name} than this run has ({was} in place of {now}): give the "
                f"same {name}, or begin anew from its export with plan=."
            )
    if (fault := _misfit(module.make_optimizer(), held)) is not None:
        raise UserError(f"ckpt_path={path} is no whole checkpoint: {fault}; {_sibling(path)}.")
    unfinished = (
        held["global_step"] == max_steps and not (Path(path).parent.parent / "export" / "config.json").is_file()
    )
    if held["global_step"] >= max_steps and not unfinished:  # one that was stopped before its export goes on to it
        raise UserError(
            f"ckpt_path={path} is at step {held['global_step']} and trainer.max_steps is {max_steps}: nothing is left to "
            "train; ask for more steps, or evaluate its export: eval.py plan=."
        )


def _misfit(optimizer: Optimizer, held: Mapping[str, Any]) -> str | None:
    """What the optimizer's state has otherwise than one that has taken a step; its weights stay as they are."""
    (found,), steps = held["optimizer_states"], held["global_step"]
    groups = [len(group["params"]) for group in optimizer.param_groups]
    if [len(group["params"]) for group in found["param_groups"]] != groups:
        return "the optimizer's state is of other weights"
    tried = _stepped(optimizer)
    skipped = (held.get("callbacks") or {}).get("FiniteSteps", {}).get("skipped", 0)
    if tried["state"] and not found["state"] and steps > skipped:
        return "the optimizer's state is missing"
    for number, moments in found["state"].items():
        expected = tried["state"].get(number, {})
        if {n: _shape(v) for n, v in moments.items() if v is not None} != {n: _shape(v) for n, v in expected.items()}:
            return f"the optimizer's state of weight {number} is of another kind"
    return None


def _stepped(optimizer: Optimizer) -> dict[str, Any]:
    """The state of a copy that has taken a step on copies of its weights."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    trial.step()
    state: dict[str, Any] = trial.state_dict()
    return state


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value)


def setting_differences(
    was: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Compare the settings of two runs, leaf by leaf.

    Args:
        was: of the one before.
        now: of this one.
        free: names that are left out, with all below.

    Yields:
        Of each that is not equal: its name, the value before, the value now.
    """
    before, after = (dict(_flat(one)) for one in (was, now))
    for name in {**before, **after}:
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if old != new and not any(name == one or name.startswith(f"{one}.") for one in free):
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
