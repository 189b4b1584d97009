"""LLaVA-OneVision: LLaVA-NeXT's tiles on a SigLIP tower without [CLS], and videos as pooled frames with one line break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers.models.llava_onevision import modeling_llava_onevision as source

from learnpruner.backbones import llava_next
from learnpruner.backbones.family import PatchGrids


class LlavaOnevisionFamily(llava_next.LlavaNextFamily):
    """Large images are shrunk, and frames pooled, behind the projector: a placeholder shows a mix of features."""

    source: Any = source
    projector_is_pointwise = False
    pixel_inputs = ("pixel_values", "pixel_values_videos")

    def pack(self, rows: Tensor, inputs: Mapping[str, Any], structural: float) -> list[Tensor]:
        line = rows.new_full((rows.shape[-1],), structural)
        if inputs.get("pixel_values") is None:
            frames = self.inner_model.apply_pooling(rows)
            videos = frames.reshape(len(inputs["pixel_values_videos"]), -1, rows.shape[-1])
            return [F.pad(video, (0, 0, 0, 1), value=structural) for video in videos]
        tiles, aspect = rows.split(self.tiles(inputs)), self.config.vision_aspect_ratio
        return list(self.inner_model.pack_image_features(tiles, inputs["image_sizes"], line, aspect)[0])

    def tiles(self, inputs: Mapping[str, Any]) -> list[int]:
        """Count the pieces of each image; only one that is alone in its prompt is cut into tiles."""
        tiles, rows = super().tiles(inputs), inputs.get("batch_num_images")
        alone = [True] * len(tiles) if rows is None else [int(n) == 1 for n in rows for _ in range(int(n))]
        return [count if one else 1 for count, one in zip(tiles, alone, strict=True)]

    def grids(self, shows: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[PatchGrids]:
        if inputs.get("pixel_values") is None:
            height, width = (-(-side // 2) for side in self.grid)
            return [[(height, width)] * (int(one.sum()) // (height * width)) for one in shows]
        return super().grids(shows, inputs)
