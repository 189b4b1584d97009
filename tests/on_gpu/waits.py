"""Where the host waits for the device inside a prefill: each place, with its number, beside those of the unpruned model.

On a GPU PyTorch itself tells of each wait (`torch.cuda.set_sync_debug_mode`). On a CPU nothing waits: there, calls that would are listed.
"""

from __future__ import annotations

import collections
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES
from plans import plan
from torch.overrides import TorchFunctionMode

from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import load_pruner_config
from on_gpu.report import Report, must
from on_gpu.twins import Twin, saved

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = f"{ROOT}/learnpruner/"
MOST = 1  # waits of the engine itself in a prefill: it must know the lengths of rows
READS = {"tolist", "item", "numpy", "cpu", "nonzero", "unique", "masked_select", "equal", "bincount", "allclose"}
READS |= {"__bool__", "__int__", "__float__", "__index__", "argwhere", "is_nonzero", "histc"}


def waits(report: Report, device: str, quick: bool) -> None:
    folder = saved("llava")
    twin = Twin(folder, "llava", "image", device)
    batch = twin.rows()
    _one(report, twin, batch, "unpruned", None)
    for file in sorted((ROOT / "conf" / "pruner").glob("*.yaml"))[:: 8 if quick else 1]:
        _one(
            report,
            twin,
            batch,
            file.stem,
            lambda file=file: build_plan(load_pruner_config(file, 0.7, str(folder)), twin.backbone),
        )
    for name in ("qwen2_5_vl",) if quick else [name for name in FAMILIES if name != "llava"]:
        other = Twin(saved(name), name, "image", device)
        rows = other.rows()
        _one(report, other, rows, f"{name}: unpruned", None)
        _one(report, other, rows, f"{name}: two stages", lambda other=other: plan("two", 0.5).to(other.model.device))


@torch.no_grad()
def _one(report: Report, twin: Twin, batch: dict[str, Any], name: str, make: Any) -> None:
    """A prefill after one that warms up."""
    with report.case(name) as found, nullcontext() if make is None else make().on(twin.model):
        twin.model(**batch, use_cache=True)
        with watched(str(twin.model.device)) as places:
            twin.model(**batch, use_cache=True)
        counted = collections.Counter(places)
        ours = {place: count for place, count in counted.items() if place.startswith("learnpruner/")}
        found |= {"waits": len(places), "ours": sum(ours.values())}
        found["engine"] = sum(count for place, count in ours.items() if place.startswith("learnpruner/engine"))
        found["places"] = dict(sorted(counted.items(), key=lambda one: -one[1]))
        must(found["engine"] <= MOST, f"the engine waits {found['engine']} times; it must at most {MOST}")


@contextmanager
def watched(device: str) -> Iterator[list[str]]:
    """The places of the package, or of Hugging Face, where the host waits inside the block."""
    places: list[str] = []
    if not device.startswith("cuda"):
        with Reads(places):
            yield places
        return

    def note(message: Any, *rest: Any, **more: Any) -> None:
        if "called a synchronizing" in str(message):
            places.append(place())

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Reads(TorchFunctionMode):
    """Calls whose result the host needs, or whose shape depends on values."""

    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        chosen = name in ("__getitem__", "__setitem__") and any(
            torch.is_tensor(one) and one.dtype == torch.bool
            for one in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        counts = name == "repeat_interleave" and any(map(torch.is_tensor, args[1:2]))
        if name in READS or chosen or counts or (name == "where" and len(args) == 1):
            self.places.append(place())
        return function(*args, **(kwargs or {}))


def place() -> str:
    """file:line of the statement: the innermost of the package, unless Hugging Face's models wait behind it."""
    frames = [frame for frame in traceback.extract_stack() if "on_gpu" not in frame.filename]
    ours = [number for number, frame in enumerate(frames) if frame.filename.startswith(PACKAGE)]
    theirs = [number for number, frame in enumerate(frames) if "/transformers/" in frame.filename]
    models = [number for number in theirs if "/models/" in frames[number].filename]
    if ours and ours[-1] > max(models, default=-1):
        frame = frames[ours[-1]]
        return f"learnpruner/{frame.filename[len(PACKAGE) :]}:{frame.lineno} {frame.name}: {frame.line}"
    if not theirs:
        return "elsewhere"
    frame = frames[theirs[-1]]
    return f"transformers/{frame.filename.rpartition('/transformers/')[2]}:{frame.lineno} {frame.name}: {frame.line}"
