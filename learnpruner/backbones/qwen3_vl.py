"""Qwen3-VL: Qwen2.5-VL without windows; features of three tower layers are added to the first layers' visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learnpruner.backbones import qwen2_5_vl
from learnpruner.core.selection import gather_tokens


class Qwen3VLFamily(qwen2_5_vl.Qwen25VLFamily):
    """What the first layers add to a visual token (DeepStack, arXiv 2406.04334) goes or stays with the token."""

    @classmethod
    def tower_dimensions(cls, vision: Any) -> dict[str, int]:
        return {"projectors": 1 + len(vision.deepstack_visual_indexes)}

    @property
    def earliest_cut(self) -> int:
        return len(self.config.vision_config.deepstack_visual_indexes)

    def order(self, sizes: Tensor) -> Tensor:
        return torch.arange(int(sizes.prod(-1).sum()) // self.merged**2)

    def other_inputs(self, kwargs: Mapping[str, Any], index: Tensor, present: Tensor) -> dict[str, Any]:
        visual = kwargs["visual_pos_masks"]
        index, present = index.to(visual.device), present.to(visual.device)
        kept = gather_tokens(visual, index) & present
        rows = gather_tokens(visual.flatten().cumsum(0).view_as(visual) - 1, index)[kept]
        added = [features[rows.to(features.device)] for features in kwargs["deepstack_visual_embeds"]]
        return {"visual_pos_masks": kept, "deepstack_visual_embeds": added}
