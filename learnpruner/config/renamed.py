"""Settings that have another name now: an old one gives a sentence that says the new one; checkpoints are read with both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "objective": "loss",
    "objective.kl": "loss.kl.weight",
    "objective.cross_entropy": "loss.cross_entropy.weight",
    "objective.hidden": "loss.hidden.weight",
    "objective.budget": "loss.budget.weight",
    "schedule": "scheduler",
    "adapt": "adapter",
    "pool": "grad_tokens_per_image",
    "copy": "publish_export",
    "trainer.clip": "trainer.gradient_clip_val",
    "trainer.accumulate": "trainer.accumulate_grad_batches",
    "trainer.log_every": "trainer.log_every_n_steps",
    "data.share": "data.fraction",
    "kv": "kv_eviction",
    "kv.every": "kv_eviction.evict_interval",
    "kv.capacity": "kv_eviction.capacity_weight",
    "pruner.stages.*.share": "pruner.stages.*.token_share",
    "benchmark.beside": "benchmark.baselines_to_run",
    "benchmark.every": "benchmark.evict_interval",
    "benchmark.looks": "benchmark.num_examples",
    "benchmark.pool": "benchmark.grad_tokens_per_image",
    "benchmark.ratios": "benchmark.prune_ratios",
    "benchmark.trained": "benchmark.export_pattern",
    "callbacks.checkpoint_every": "callbacks.checkpoint.every_n_train_steps",
    "logger.project": "logger.wandb.project",
    "logger.entity": "logger.wandb.entity",
    "logger.group": "logger.wandb.group",
    "logger.mode": "logger.wandb.mode",
}  # dotted key or group -> as it is called now; what stands below a key moves with it; * is any entry of a list

ELSEWHERE = {
    "benchmark.trained": "with benchmark=kv give +benchmark.exports.NAME=FOLDER"
}  # what a few keys are called where another config of their group had them too


def current_key(key: str) -> str:
    """Find what a dotted key is called now; one that was never renamed stays as it is."""
    parts = key.split(".")
    numbers = iter([part for part in parts if part.isdigit()])
    now = _current(tuple("*" if part.isdigit() else part for part in parts))
    return ".".join(next(numbers) if part == "*" else part for part in now)


def with_current_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bring settings of an earlier version under the names of today."""
    found: dict[str, Any] = {}
    for path, value in _leaves(settings):
        *parents, last = _current(path)
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = [_renamed_entry(one, path) for one in value] if isinstance(value, list | tuple) else value
    return found


def renamed_keys(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List old and new name of every key that has another name now, each once."""
    paths = set(_paths(settings))
    for old, new in RENAMED.items():
        if any(path[: old.count(".") + 1] == tuple(old.split(".")) for path in paths):
            yield old, new


def renamed_sentence(old: str, new: str) -> str:
    """Word what to say of an old name."""
    also = f"; {ELSEWHERE[old]}" if old in ELSEWHERE else ""
    return f"{old} is called {new} now: write {new} in its place{also}."


def _current(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where the value at the end of a path of keys stands now; of several old names that fit the longest counts."""
    for end in range(len(path), 0, -1):
        if (now := RENAMED.get(".".join(path[:end]))) is not None:
            return (*now.split("."), *path[end:])
    return path


def _renamed_entry(entry: Any, path: tuple[str, ...]) -> Any:
    """An entry of the list at a path, with the keys of today."""
    if not isinstance(entry, Mapping):
        return entry
    return {_current((*path, "*", str(key)))[-1]: value for key, value in entry.items()}


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where every value stands, with * for the entries of lists."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _paths(part, (*path, str(key)))
    elif isinstance(value, list | tuple) and value:
        for part in value:
            yield from _paths(part, (*path, "*"))
    else:
        yield path


def _leaves(settings: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value
