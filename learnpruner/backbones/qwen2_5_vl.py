"""Qwen2.5-VL: images of any size, four patches merged into a token, windows in the tower, M-RoPE in the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from learnpruner.backbones.family import ModelFamily, PatchGrids

QUOTED_SIDE = 1008  # pixels a side of the image that counts are quoted for: 36 x 36 = 1296 tokens of 28 x 28 pixels


class Qwen25VLFamily(ModelFamily):
    """A visual token is the mean of the patches that merge into it, as the tower leaves them: (S, D), window by window."""

    projector_is_pointwise = False
    tower_is_watchable = False  # the tower runs all images as one sequence, in pieces
    native_resolution = True
    rotary_axes = 3
    pixel_inputs = ("pixel_values", "pixel_values_videos")

    @classmethod
    def vision_dimensions(cls, config: Any) -> dict[str, int]:
        vision = config.vision_config
        rows = QUOTED_SIDE // (vision.patch_size * vision.spatial_merge_size) * vision.spatial_merge_size
        merged = vision.spatial_merge_size**2
        return {
            "patches": rows**2,
            "patch_values": vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            "vision_layers": vision.depth,
            "vision_width": vision.hidden_size,
            "vision_mlp": vision.intermediate_size,
            "tokens": rows**2 // merged,
            "cls": 0,
            "merged": merged,
            **cls.tower_dimensions(vision),
        }

    @classmethod
    def tower_dimensions(cls, vision: Any) -> dict[str, int]:
        """Tell how the tower's layers attend and end: a few of them see the whole image, the others their windows."""
        return {
            "vision_matrices": 3,
            "windowed": vision.depth - len(vision.fullatt_block_indexes),
            "window": (vision.window_size // vision.patch_size) ** 2,
        }

    @property
    def tower(self) -> nn.Module:
        return self.inner_model.visual

    def layers_of(self, tower: Any) -> nn.ModuleList:
        return tower.blocks

    @property
    def projector(self) -> nn.Module:
        return self.inner_model.visual.merger

    @property
    def feature_layer(self) -> int:
        return len(self.tower_layers) - 1

    @property
    def feature_width(self) -> int:
        return self.config.vision_config.hidden_size

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) tokens of a square image; budgets are shares of each image's own count."""
        side = QUOTED_SIDE // (self.config.vision_config.patch_size * self.merged)
        return side, side

    @property
    def quoted_side(self) -> int:
        return self.grid[0] * self.config.vision_config.patch_size * self.merged

    @property
    def merged(self) -> int:
        """Patches a side that become a token."""
        return self.config.vision_config.spatial_merge_size

    def split_features(self, features: Tensor) -> Tensor:
        return features.unflatten(0, (-1, self.merged**2)).mean(1, keepdim=True)

    def pack(self, rows: Tensor, inputs: Mapping[str, Any], structural: float) -> list[Tensor]:
        order = self.order(self._sizes(inputs)).to(rows.device)
        return list(rows[order, 0].split(self._counts(inputs)))

    def order(self, sizes: Tensor) -> Tensor:
        """Find where each token of the prompt is among the tower's: windows come one after the other there."""
        vision = self.config.vision_config
        windows, _ = get_vision_window_index(sizes, self.merged, vision.window_size, vision.patch_size)
        return windows.argsort()

    def image_values(self, values: Tensor, first: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Mix the hashes of an image's patches into one that tells their order."""
        parts = values.split(self._sizes(inputs).prod(-1).tolist())
        return torch.stack([(part * (2 * torch.arange(len(part), device=part.device) + 1)).sum() for part in parts])

    def grids(self, shows: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[PatchGrids]:
        return [[(h // self.merged, w // self.merged)] * t for t, h, w in self._sizes(inputs).tolist()]

    def _sizes(self, inputs: Mapping[str, Any]) -> Tensor:
        """(frames, rows, columns) of patches of each image or video."""
        name = "video_grid_thw" if inputs.get("pixel_values") is None else "image_grid_thw"
        return torch.as_tensor(inputs[name]).cpu()

    def _counts(self, inputs: Mapping[str, Any]) -> list[int]:
        """Tokens of each image or video."""
        return (self._sizes(inputs).prod(-1) // self.merged**2).tolist()
