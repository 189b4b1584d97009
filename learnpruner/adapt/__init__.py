"""Adapting the model to fewer tokens: weights that learn together with the pruner, and travel with the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from learnpruner.adapt.base import Adaptation
from learnpruner.adapt.lora import Lora
from learnpruner.adapt.projector import Projector
from learnpruner.export import ADAPTER as FOLDER

__all__ = ["FOLDER", "KINDS", "Adaptation", "Lora", "Projector", "load", "spec"]

KINDS: dict[str, type[Adaptation]] = {kind.kind: kind for kind in (Projector, Lora)}


def spec(adaptation: Adaptation) -> dict[str, Any]:
    """What config.json says of it."""
    return {"kind": adaptation.kind, "folder": FOLDER, **adaptation.arguments()}


def load(spec: Mapping[str, Any], plan: Path) -> Adaptation:
    """The adaptation that config.json of an exported plan names."""
    arguments = {name: value for name, value in spec.items() if name not in ("kind", "folder")}
    if spec.get("kind") not in KINDS:
        raise ValueError(f"The plan's adapter is of kind {spec.get('kind')!r}; this version knows {', '.join(KINDS)}.")
    folder = plan / FOLDER
    try:
        adaptation = KINDS[spec["kind"]](**arguments)
        adaptation.read(folder)
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"The adapter in {folder} is missing or damaged, export the plan again: {error}.") from None
    return adaptation
