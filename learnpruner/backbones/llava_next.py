"""LLaVA-NeXT: a base image and tiles of any resolution, unpadded, with a line break behind each row of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.models.llava_next import modeling_llava_next as source

from learnpruner.backbones import llava
from learnpruner.backbones.dimensions import square_dimensions
from learnpruner.backbones.family import PatchGrids

QUOTED_TILES = 5  # of an image in the papers' counts: the base image and 2 x 2 tiles, 2880 tokens


class LlavaNextFamily(llava.LlavaFamily):
    """Hugging Face's own packing, run on values in place of features, says where each of them lies in the prompt."""

    source: Any = source

    @classmethod
    def vision_dimensions(cls, config: Any) -> dict[str, int]:
        return square_dimensions(config, QUOTED_TILES)

    @property
    def tokens(self) -> int:
        """N of an image of 2 x 2 tiles that fills them; budgets are shares of each image's own count."""
        return QUOTED_TILES * self.grid[0] * self.grid[1]

    @property
    def quoted_side(self) -> int:
        return 2 * self.config.vision_config.image_size

    def pack(self, rows: Tensor, inputs: Mapping[str, Any], structural: float) -> list[Tensor]:
        line = rows.new_full((rows.shape[-1],), structural)
        tiles = rows.split(self.tiles(inputs))
        strategy = self.config.vision_feature_select_strategy
        return list(self.inner_model.pack_image_features(tiles, inputs["image_sizes"], strategy, image_newline=line)[0])

    def tiles(self, inputs: Mapping[str, Any]) -> list[int]:
        """Count the pieces of each image that pass the vision tower, the base image included."""
        pinpoints, side = self.config.image_grid_pinpoints, self.config.vision_config.image_size
        return [self.source.image_size_to_num_patches(size, pinpoints, side) for size in inputs["image_sizes"]]

    def grids(self, shows: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[PatchGrids]:
        base = self.grid[0] * self.grid[1]
        return [[self.grid, *_lines(one[base:])] for one in shows]


def _lines(shows: Tensor) -> PatchGrids:
    """The grid of patches that are followed by a structural placeholder each row."""
    rows = int((~shows).sum())
    width = int(shows.sum()) // max(1, rows)
    return [(rows, width)] if width else []
