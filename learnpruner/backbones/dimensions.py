"""The sizes of a model that its cost depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelDimensions:
    """The sizes of a model that its cost depends on, and those of one image, as large as its family counts its tokens."""

    patches: int  # of one piece of the image: of all of it, or of a tile
    patch_values: int  # numbers in a patch of pixels
    vision_layers: int
    vision_width: int
    vision_mlp: int
    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tokens: int  # visual tokens of the image
    structural: int = 0  # placeholders beside them that always stay: line breaks
    pieces: int = 1
    cls: int = 1  # positions that the vision tower sees beside the patches of a piece
    vision_matrices: int = 2  # of an MLP in the tower; 3 with a gate
    windowed: int = 0  # layers of the tower whose attention stays inside windows
    window: int = 0  # patches of a window
    merged: int = 1  # patches that make a token on their way into the projector
    projectors: int = 1  # beside the tower's end, some models project from layers within


def language_dimensions(config: Any) -> dict[str, int]:
    """Read the language model's sizes from a model's config, as arguments of `ModelDimensions`."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    return {
        "layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "mlp": text.intermediate_size,
        "heads": heads,
        "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_width": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "vocabulary": text.vocab_size,
    }


def square_dimensions(config: Any, pieces: int = 1) -> dict[str, int]:
    """Read the vision side's sizes where square pieces pass a CLIP-like tower and a projector of two layers.

    Args:
        config: of the model.
        pieces: of one image; above 1 it is cut into tiles, whose rows of patches end in line breaks.

    Returns:
        Arguments of `ModelDimensions`.
    """
    vision = config.vision_config
    rows = vision.image_size // vision.patch_size
    return {
        "patches": rows**2,
        "patch_values": vision.num_channels * vision.patch_size**2,
        "vision_layers": vision.num_hidden_layers,
        "vision_width": vision.hidden_size,
        "vision_mlp": vision.intermediate_size,
        "tokens": pieces * rows**2,
        "structural": 2 * rows if pieces > 1 else 0,
        "pieces": pieces,
        "cls": 0 if "siglip" in vision.model_type else 1,
    }
