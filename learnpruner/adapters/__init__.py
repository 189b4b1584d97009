"""Adapting the model to fewer tokens: weights that learn together with the pruner, and travel with the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from learnpruner.adapters.base import Adaptation
from learnpruner.adapters.lora import Lora
from learnpruner.adapters.projector import Projector
from learnpruner.utils.errors import UserError
from learnpruner.utils.typed_arguments import check_arguments

FOLDER = "adapter"  # in an exported plan

__all__ = ["FOLDER", "KINDS", "Adaptation", "Lora", "Projector", "choose", "load", "spec"]

KINDS: dict[str, type[Adaptation]] = {kind.kind: kind for kind in (Projector, Lora)}


def spec(adaptation: Adaptation) -> dict[str, Any]:
    """What config.json says of it."""
    return {"kind": adaptation.kind, "folder": FOLDER, **adaptation.arguments()}


def load(spec: Mapping[str, Any], plan: Path) -> Adaptation:
    """The adaptation that config.json of an exported plan names."""
    arguments = {name: value for name, value in spec.items() if name not in ("kind", "folder")}
    if spec.get("kind") not in KINDS:
        raise UserError(f"The plan's adapter is of kind {spec.get('kind')!r}; this version knows {', '.join(KINDS)}.")
    folder = plan / FOLDER
    try:
        check_arguments(KINDS[spec["kind"]], arguments)
        adaptation = KINDS[spec["kind"]](**arguments)
        adaptation.read(folder)
    except (OSError, SafetensorError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"The adapter in {folder} is missing or damaged, export the plan again: {error}.") from None
    return adaptation


def choose(own: Adaptation | None, asked: Adaptation | None, source: str | None = None) -> Adaptation | None:
    """What a plan is trained with: its own, from the export `source`, learns on if asked for alike, and stays else."""
    if own is None:
        return asked
    if asked is not None and spec(own) != spec(asked):
        raise UserError(
            f"plan={source} carries an adapter of its own ({own.describe()}): ask for one with the same settings to train it "
            "on, or adapt=none to keep it as it is."
        )
    return own.requires_grad_(asked is not None)
