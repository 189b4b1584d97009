"""Load a frozen backbone, and find the adapter of its family."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from learnpruner.backbones.processor import load_processor
from learnpruner.engine.adapter import Adapter


@dataclass(frozen=True)
class Backbone:
    """A frozen model in evaluation mode, with its processor and where it came from."""

    model: Any
    processor: Any
    name: str
    revision: str | None = None

    @property
    def adapter(self) -> Adapter:
        return adapter(self.model)


def adapter(model: nn.Module) -> Adapter:
    """The adapter of the model's family; PEFT wrappers are looked through."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return _family(getattr(getattr(base, "config", None), "model_type", None))(base)


def load_backbone(
    path: str | Path,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
) -> Backbone:
    """A backbone from a folder or a Hub id: frozen, in evaluation mode, on `device`."""
    source, torch_dtype = str(path), getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is refused: name a torch type, such as 'float32' or 'bfloat16'.")
    try:
        _family(AutoConfig.from_pretrained(source, revision=revision).model_type)
        model = AutoModelForImageTextToText.from_pretrained(
            source, revision=revision, dtype=torch_dtype, attn_implementation=attn_implementation
        )
        processor = load_processor(source, revision)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"No backbone at {source!r}: expected a model folder or a Hub id ({reason}).") from None
    return Backbone(model.requires_grad_(False).eval().to(device), processor, source, revision)


def _family(model_type: str | None) -> type[Adapter]:
    """The class `Family` of the file named after the model type."""
    module = f"{__package__}.{model_type}"
    if model_type is None or not model_type.isidentifier() or importlib.util.find_spec(module) is None:
        known = sorted(f.stem for f in Path(__file__).parent.glob("*.py") if "\nclass Family(" in f.read_text("utf-8"))
        raise ValueError(f"model_type={model_type!r} is not supported yet; known families: {', '.join(known)}.")
    return importlib.import_module(module).Family
