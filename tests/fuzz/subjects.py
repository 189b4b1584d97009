"""The tiny models that cases run on: one that carries plans, and a twin of the same weights that never does."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from families import FAMILIES
from torch import Tensor

from learnpruner.backbones import family_of
from learnpruner.backbones.family import ModelFamily

WORDS = "is there a red square on the left of any blue circle how many objects are".split()
KINDS = [  # families and what they show, in the order in which cases take turns
    ("qwen2_5_vl", "image"),
    ("llava", "image"),
    ("llava_onevision", "image"),
    ("video_llava", "video"),
    ("qwen3_vl", "image"),
    ("llava_next", "image"),
    ("qwen2_5_vl", "video"),
    ("llava_onevision", "video"),
    ("video_llava", "image"),
    ("qwen3_vl", "video"),
]


@dataclass(frozen=True, eq=False)
class Subject:
    """twin: eager attention, never attached to."""

    name: str
    processor: Any
    model: Any
    twin: Any
    family: ModelFamily

    @property
    def marks(self) -> list[int]:
        """Token ids of images and videos."""
        names = ("image_token_id", "video_token_id")
        return [getattr(self.processor, name) for name in names if hasattr(self.processor, name)]

    @property
    def projector(self) -> Any:
        """What makes the language model's tokens of the twin's visual features."""
        return self.twin.model.visual.merger if self.family.rotary_axes > 1 else self.twin.model.multi_modal_projector

    @property
    def mixes(self) -> bool:
        """Whether neighbours are mixed behind the projector, so that a token is no one feature."""
        return self.name == "llava_onevision"

    @functools.cached_property
    def words(self) -> Tensor:
        """Token ids of words."""
        return torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(WORDS))


@functools.cache
def subject(name: str) -> Subject:
    processor, model = FAMILIES[name].make()
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return Subject(name, processor, model, twin, family_of(model))
