"""The exported folder: config.json, model.safetensors (pruner weights only), README.md (a model card), perhaps adapter/."""

from __future__ import annotations

import importlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from learnpruner.errors import UserError
from learnpruner.finite import check_finite, finite_or_none
from learnpruner.pruner import Pruner

CONFIG, WEIGHTS, CARD, ADAPTER = "config.json", "model.safetensors", "README.md", "adapter"


def write(folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], card: str) -> Path:
    """Write a plan's folder; weights are stored on the CPU, one contiguous copy each."""
    folder = Path(folder)
    check_finite(weights, f"{folder / WEIGHTS} is not written")
    config = {**config, "metrics": finite_or_none(config["metrics"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def read(source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an exported plan: a folder, or a Hub id."""
    folder = find(source)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read as a plan's config: {error}.") from None
    if not isinstance(config, dict) or not isinstance(config.get("stages"), list):
        raise UserError(f"{folder / CONFIG} is not the config of an exported plan: it has no list of stages.")
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} is missing or damaged, export the plan again: {error}.") from None
    check_finite(weights, f"{folder / WEIGHTS} is refused")
    return config, weights


def find(source: str | Path) -> Path:
    """The folder itself, or the local snapshot of a Hub repository."""
    folder = Path(source)
    if (folder / CONFIG).is_file():
        return folder
    looks_local = folder.exists() or (folder.parent.is_dir() and str(folder.parent) != ".")
    if not looks_local and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        try:
            return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS, f"{ADAPTER}/*"]))
        except Exception as error:  # the Hub client raises many kinds; each means that the plan is not there
            raise UserError(f"{source!r} is neither a plan's folder nor a reachable Hub id: {error}.") from None
    raise UserError(f"No plan at {str(source)!r}: expected a folder with {CONFIG} and {WEIGHTS}, or a Hub id.")


def describe_pruner(pruner: Pruner) -> dict[str, Any]:
    """The `_target_` and arguments from which `build` makes the same pruner."""
    kind = type(pruner)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **pruner.arguments()}


def build(spec: Mapping[str, Any], allow: Iterable[str] = ()) -> Pruner:
    """A pruner from its description. Only classes of this package, or of packages named in `allow`, are built."""
    arguments = dict(spec)
    target = str(arguments.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if package not in {"learnpruner", *allow}:
        raise UserError(f"The plan asks for {target!r}: pass allow=({package!r},) to load code of that package.")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"The plan asks for {target!r}, which this installation does not have.") from None
    if not (isinstance(kind, type) and issubclass(kind, Pruner)):
        raise UserError(f"The plan asks for {target!r}, which is not a Pruner.")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"The plan's arguments do not fit {target!r}: {error}.") from None


def versions() -> dict[str, str]:
    """What the export was made with."""
    found = {"python": platform.python_version()}
    for name in ("learnpruner", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found
