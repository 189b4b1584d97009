"""Video-LLaVA: LLaVA-1.5 with one tower for images and one for videos of 8 frames, whose [CLS] tokens the LLM reads too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.backbones import llava
from learnpruner.backbones.family import PatchGrids


class VideoLlavaFamily(llava.LlavaFamily):
    """A video is one row of all its frames; the [CLS] of each frame is structural and stays, as the papers do not count it."""

    projector_skips_dropped = False  # the [CLS] tokens pass the projector
    pixel_inputs = (
        "pixel_values",
        "pixel_values_images",
        "pixel_values_videos",
    )  # the processor still says "..._images"

    @property
    def tower(self) -> nn.Module:
        return self.inner_model.image_tower

    @property
    def towers(self) -> list[nn.Module]:
        return [self.inner_model.image_tower, self.inner_model.video_tower]

    def pack(self, rows: Tensor, inputs: Mapping[str, Any], structural: float) -> list[Tensor]:
        if inputs.get("pixel_values_videos") is None:
            return list(rows)
        patches = rows[:, -self.grid[0] * self.grid[1] :]  # behind [CLS], in features; alone, in signals
        frames = F.pad(patches, (0, 0, 1, 0), value=structural)
        return list(frames.unflatten(0, (len(inputs["pixel_values_videos"]), -1)).flatten(1, 2))

    def grids(self, shows: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[PatchGrids]:
        return [[self.grid] * (int(one.sum()) // (self.grid[0] * self.grid[1])) for one in shows]
