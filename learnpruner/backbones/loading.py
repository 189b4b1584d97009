"""Load a frozen backbone: model, processor and where both came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from learnpruner.backbones import random_weights
from learnpruner.backbones.family import ModelFamily
from learnpruner.backbones.processors import load_processor
from learnpruner.backbones.registry import family_class, family_of
from learnpruner.utils.errors import UserError
from learnpruner.utils.pretrained import NO_CODE, load_model
from learnpruner.utils.project import find_checkpoint

QUANTIZATION = ("4bit", "8bit")
WEIGHT_SOURCES = ("pretrained", "random")
_DAMAGED = (  # what Hugging Face raises where a folder's files hold something else than it writes
    SafetensorError,
    StrictDataclassError,
    AttributeError,
    LookupError,
    RuntimeError,  # also RecursionError
    TypeError,
    ZeroDivisionError,
)


@dataclass(frozen=True)
class Backbone:
    """A frozen model in evaluation mode, with its processor and where it came from.

    Args:
        image_aspect: what becomes of pictures before the processor sees them, as `learnpruner.data.image_padding` says.
    """

    model: Any
    processor: Any
    name: str
    revision: str | None = None
    image_aspect: str = "processor"

    @cached_property
    def family(self) -> ModelFamily:
        """The seams of the model's family."""
        return family_of(self.model)

    @property
    def placed(self) -> bool:
        """Whether its weights lie where they were loaded, on several devices or quantized, and must not be moved."""
        return hasattr(self.model, "hf_device_map") or getattr(self.model, "is_quantized", False)


def load_backbone(
    path: str | Path,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    device_map: str | None = None,
    quantization: str | None = None,
    weights: str = "pretrained",
    shape: Mapping[str, Any] | None = None,
) -> Backbone:
    """Load a backbone from a folder or a Hub id, its `path`: frozen, in evaluation mode, on `device`.

    `device_map` of accelerate, such as "auto", takes the place of `device`; `quantization` is "4bit" or "8bit" weights by
    bitsandbytes. weights="random" downloads nothing: the sizes are those of the folder's config, or of `shape`.

    Raises:
        UserError: where there is no such model, or one of no known family.
    """
    source, kind = str(path), getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UserError(f"dtype={dtype!r} is refused: name a torch type, such as 'float32' or 'bfloat16'.")
    if weights not in WEIGHT_SOURCES:
        raise UserError(f"weights={weights!r} is refused: choose {' or '.join(map(repr, WEIGHT_SOURCES))}.")
    name, source = source, str(find_checkpoint(path))
    model: Any
    if weights == "random":
        if quantization is not None or device_map is not None:
            raise UserError(
                "weights='random' is for speed and memory on one device: leave out quantization, device_map."
            )
        with _in_a_sentence(source):
            model, processor = random_weights.build_random_model(
                source, shape, kind, device, attn_implementation, family_class
            )
        return Backbone(model.requires_grad_(False).eval(), processor, f"{name} (random weights)", revision)
    stored = _quantized(quantization, kind)
    if stored is not None and device_map is None:
        device_map = _straight_to(device)
    options = {"device_map": device_map, "quantization_config": stored}
    with _in_a_sentence(source):
        family_class(AutoConfig.from_pretrained(source, revision=revision, **NO_CODE).model_type)
        model = load_model(
            AutoModelForImageTextToText,
            source,
            revision=revision,
            dtype=kind,
            attn_implementation=attn_implementation,
            **{name: value for name, value in options.items() if value is not None},
        )
        processor = load_processor(source, revision)
    backbone = Backbone(model.requires_grad_(False).eval(), processor, name, revision)
    if not backbone.placed:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:  # PyTorch raises the second where it was built without CUDA
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"device={device!r} is refused: {reason}; choose cpu, or auto for a GPU if any.") from None
    return backbone


@contextmanager
def _in_a_sentence(source: str) -> Iterator[None]:
    """What Hugging Face refuses, without its stack trace: a missing file, a missing package, a setting it has not."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        if isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
            reason = f"{source} holds a file that is no JSON: {reason}; fetch the folder again"
        elif "custom code" in reason:
            reason = (
                f"{source} asks for code of its own to be run, which is never done; take a model that transformers has"
            )
        elif isinstance(error, OSError):
            reason = f"No backbone at {source!r}: expected a model folder or a Hub id ({reason})"
        elif isinstance(error, ImportError):
            reason = f"{source} cannot be loaded like this: {reason}; install it, or choose attn_implementation='sdpa'"
        elif source not in reason:
            reason = f"{source} cannot be loaded: {reason}"
        raise UserError(f"{reason}.") from None
    except torch.OutOfMemoryError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{source} cannot be loaded as a model: its config.json, weights or processor's files are damaged or of another "
            f"version of transformers ({type(error).__name__}: {reason}); fetch the folder again."
        ) from error


def _straight_to(device: str) -> str:
    """Where bitsandbytes puts weights that cannot be moved later: a process that trains has a GPU of its own."""
    if device == "cpu" and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device


def _quantized(bits: str | None, kind: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes stores the weights; None for as they are."""
    if bits is None:
        return None
    if bits not in QUANTIZATION:
        raise UserError(f"quantization={bits!r} is refused: choose {' or '.join(map(repr, QUANTIZATION))}, or null.")
    if not is_bitsandbytes_available():
        raise UserError(f"quantization={bits!r} needs bitsandbytes: install it, or leave quantization out.")
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=kind)
