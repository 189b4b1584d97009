"""The grids that an image's visual tokens make up, from what Hugging Face was given and how its placeholders lie."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fuzz.subjects import Subject

Grids = list[tuple[int, int]]


def grids(on: Subject, inputs: Mapping[str, Any], spots: Sequence[Sequence[int]]) -> list[Grids]:
    """For each image, (H, W) of its tiles or frames, one after the other; spots: where its tokens are in the prompt."""
    vision = on.twin.config.vision_config
    if on.family.rotary_axes > 1:
        sizes = inputs.get("video_grid_thw", inputs.get("image_grid_thw"))
        merged = vision.spatial_merge_size
        return [] if sizes is None else [[(h // merged, w // merged)] * t for t, h, w in sizes.tolist()]
    side = vision.image_size // vision.patch_size
    if "pixel_values_videos" not in inputs:
        return [[(side, side), *_lines(one[side * side :])] for one in spots]
    side = -(-side // 2) if on.mixes else side  # frames are pooled
    return [[(side, side)] * (len(one) // side**2) for one in spots]


def _lines(spots: Sequence[int]) -> Grids:
    """The grid whose rows are set apart by a line break each."""
    if not spots:
        return []
    breaks = [number for number, (spot, after) in enumerate(itertools.pairwise(spots), 1) if after > spot + 1]
    width = breaks[0] if breaks else len(spots)
    return [(len(spots) // width, width)]
