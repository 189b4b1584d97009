"""Adapting the model to fewer tokens: weights that learn together with the pruner, and travel with the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from learnpruner.adapters.base import TrainableAdapter
from learnpruner.adapters.lora import LoraAdapter
from learnpruner.adapters.projector import ProjectorAdapter
from learnpruner.utils.errors import UserError
from learnpruner.utils.typed_arguments import check_arguments

ADAPTER_FOLDER = "adapter"  # in an exported plan

__all__ = [
    "ADAPTER_FOLDER",
    "ADAPTER_KINDS",
    "LoraAdapter",
    "ProjectorAdapter",
    "TrainableAdapter",
    "adapter_spec",
    "choose_adapter",
    "load_adapter",
]

ADAPTER_KINDS: dict[str, type[TrainableAdapter]] = {kind.kind: kind for kind in (ProjectorAdapter, LoraAdapter)}


def adapter_spec(adaptation: TrainableAdapter) -> dict[str, Any]:
    """Describe an adaptation as config.json does."""
    return {"kind": adaptation.kind, "folder": ADAPTER_FOLDER, **adaptation.arguments()}


def load_adapter(spec: Mapping[str, Any], plan: Path) -> TrainableAdapter:
    """Load the adaptation that config.json of an exported plan names."""
    arguments = {name: value for name, value in spec.items() if name not in ("kind", "folder")}
    if spec.get("kind") not in ADAPTER_KINDS:
        raise UserError(
            f"The plan's adapter is of kind {spec.get('kind')!r}; this version knows {', '.join(ADAPTER_KINDS)}."
        )
    folder = plan / ADAPTER_FOLDER
    try:
        check_arguments(ADAPTER_KINDS[spec["kind"]], arguments)
        adaptation = ADAPTER_KINDS[spec["kind"]](**arguments)
        adaptation.read(folder)
    except (OSError, SafetensorError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"The adapter in {folder} is missing or damaged, export the plan again: {error}.") from None
    return adaptation


def choose_adapter(
    own: TrainableAdapter | None, asked: TrainableAdapter | None, source: str | None = None
) -> TrainableAdapter | None:
    """Choose what a plan is trained with: its own, from the export `source`, learns on if asked for alike, and stays else.

    Args:
        own: the plan's.
        asked: for this training.
        source: of the plan, for the refusal.

    Raises:
        UserError: where both are there and differ.
    """
    if own is None:
        return asked
    if asked is not None and adapter_spec(own) != adapter_spec(asked):
        raise UserError(
            f"plan={source} carries an adapter of its own ({own.describe()}): ask for one with the same settings to train it "
            "on, or adapter=none to keep it as it is."
        )
    return own.requires_grad_(asked is not None)
