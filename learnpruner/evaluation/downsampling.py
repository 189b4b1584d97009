"""The plain competitor of every pruning method: the unpruned model on a smaller picture, https://arxiv.org/abs/2510.07143

Letters: B batch, N visual tokens of a picture, K at most that many of a smaller one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image
from transformers import BatchFeature

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.core.budget import check_ratio
from learnpruner.data.image import as_rgb
from learnpruner.data.image_padding import pad_to_square, pad_visuals
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.plan import Plan
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

DOWNSAMPLING = "downsampling"  # its name in tables, and among baselines in the place of a config of conf/pruner
_RESIZES = ("do_resize", "do_center_crop", "do_pad")  # settings of image processors that change a picture's size


@dataclass(frozen=True)
class Downsampling:
    """Stands where a plan stands, and drops nothing: the picture is scaled down until it has at most K tokens.

    A tower of native resolution (Qwen) gets a smaller picture. One of fixed resolution (CLIP, SigLIP) gets it as well, with
    its position embeddings interpolated to the smaller grid, as Hugging Face's `interpolate_pos_encoding` does: the tower
    was not trained on so small a grid, and what that costs is part of the result.

    Args:
        prune_ratio: K / N; the grid has the picture's shape within one row or column, and may have fewer tokens than K.
    """

    prune_ratio: float
    adapts: ClassVar[None] = None
    positions: ClassVar[str] = "compact"

    def __post_init__(self) -> None:
        check_ratio(self.prune_ratio)

    def tokens(self, tokens: int, layers: int) -> dict[str, float]:
        """Visual tokens of a square picture, as `Plan.tokens` tells them; the same in all layers."""
        side = math.isqrt(tokens)
        count = math.prod(downsampled_grid(side, side, self.prune_ratio))
        return {"entering": count, "averaged": float(count), "final": count}


Contestant = Plan | Downsampling | None  # what answers a benchmark; None is the unpruned model


def downsampled_grid(rows: int, columns: int, prune_ratio: float) -> tuple[int, int]:
    """The grid with the most of `prune_ratio` x rows x columns tokens, and not more, one side rounded down, one up or down."""
    count = max(1, round(prune_ratio * rows * columns))
    scale = math.sqrt(count / (rows * columns))
    height, width = (max(1, math.floor(side * scale + 1e-9)) for side in (rows, columns))
    choices = [(height, width), (height, width + 1), (height + 1, width)]
    feasible = [one for one in choices if math.prod(one) <= count and one[0] <= rows and one[1] <= columns]
    return max(feasible, key=math.prod, default=(1, 1))


def check_downsampling(backbone: Backbone) -> None:
    """Refuse families of which a smaller picture has no fewer tokens."""
    family = backbone.family
    if not family.native_resolution and not family.features_are_placeholders:
        raise UserError(
            f"downsampling is not possible on {type(family).__name__.removesuffix('Family')}: its pictures are cut or framed to "
            "one size, so that a smaller one has no fewer tokens."
        )


def framed(picture: Image.Image, image_processor: Any) -> Image.Image:
    """The part of a picture that the processor would show at full size: padded to a square, or cropped in the middle."""
    picture = as_rgb(picture)
    if getattr(image_processor, "do_pad", None):
        return pad_to_square(picture, image_processor.image_mean)
    edge = (getattr(image_processor, "size", None) or {}).get("shortest_edge")
    if not getattr(image_processor, "do_center_crop", None) or edge is None:
        return picture
    scale, (width, height) = min(picture.size) / edge, picture.size
    crop = [
        min(side, round(image_processor.crop_size[name] * scale))
        for side, name in ((width, "width"), (height, "height"))
    ]
    left, top = (width - crop[0]) // 2, (height - crop[1]) // 2
    return picture.crop((left, top, left + crop[0], top + crop[1]))


def smaller_picture(backbone: Backbone, picture: Image.Image, prune_ratio: float) -> Image.Image:
    """The picture with as many pixels as its smaller grid of tokens shows."""
    family, image_processor = backbone.family, backbone.processor.image_processor
    patch, grid = family.config.vision_config.patch_size, family.grid
    if not family.native_resolution:
        picture = framed(picture, image_processor)
    else:
        merge, picture = image_processor.merge_size, as_rgb(picture)
        _, height, width = image_processor(images=[picture], return_tensors="pt")["image_grid_thw"][0].tolist()
        patch, grid = patch * merge, (height // merge, width // merge)
    rows, columns = downsampled_grid(*grid, prune_ratio)
    return picture.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC)


def downsampled_prompts(
    backbone: Backbone, images: Sequence[Any], questions: Sequence[str], prune_ratio: float
) -> BatchFeature:
    """The prompts of `encode_prompts` with smaller pictures, which the processor leaves at their size.

    Raises:
        UserError: of videos, and of families of which a smaller picture has no fewer tokens.
    """
    check_downsampling(backbone)
    if any(isinstance(one, list) for one in images):
        raise UserError("downsampling is for pictures, and this benchmark shows videos: leave it out.")
    shown = pad_visuals(images, backbone.image_aspect, backbone.processor)
    small = [smaller_picture(backbone, one, prune_ratio) for one in shown]
    as_they_are = {name: False for name in _RESIZES if getattr(backbone.processor.image_processor, name, None)}
    return encode_prompts(replace(backbone, image_aspect="processor"), small, questions, **as_they_are)


@contextmanager
def interpolated_positions(backbone: Backbone) -> Iterator[None]:
    """Inside the block a tower of fixed resolution takes pictures of other sizes, its position embeddings interpolated."""

    def interpolate(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, {**kwargs, "interpolate_pos_encoding": True}

    if backbone.family.native_resolution:
        yield
        return
    hook = backbone.family.tower.register_forward_pre_hook(interpolate, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def generate_downsampled(
    backbone: Backbone, contestant: Downsampling, images: Sequence[Any], questions: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers (B,) of the unpruned model to smaller pictures.

    Raises:
        RuntimeError: where a prompt, or a layer's KV cache, holds more or less than is promised.
    """
    small = downsampled_prompts(backbone, images, questions, contestant.prune_ratio)
    check_placeholders(backbone, contestant, small)
    with interpolated_positions(backbone):
        return generate_and_verify(backbone, None, small, max_new_tokens)


def check_placeholders(backbone: Backbone, contestant: Downsampling, inputs: BatchFeature) -> None:
    """Refuse numbers of pictures that have more tokens than is said; those of native resolution differ in size."""
    family = backbone.family
    found = family.placeholders(inputs["input_ids"]).sum(1).tolist()
    promised = contestant.tokens(family.tokens, family.layers)["entering"]
    if not family.native_resolution and any(count != promised for count in found):
        raise RuntimeError(f"Smaller pictures have {found} tokens in place of {promised}.")


def downsampled_of(contestants: Mapping[str, Contestant]) -> dict[str, str]:
    """Find for each contestant the name of downsampling at its budget; those without are left out."""
    plain = {one.prune_ratio: name for name, one in contestants.items() if isinstance(one, Downsampling)}
    known = {name: one.prune_ratio for name, one in contestants.items() if one is not None}
    return {name: plain[ratio] for name, ratio in known.items() if ratio in plain}


def build_contestants(
    configs: PrunerConfigs, names: Mapping[str, str], prune_ratio: float, backbone: Backbone, seed: int = 0
) -> dict[str, Plan | Downsampling]:
    """The baselines of `build_baselines`, and downsampling where it is named in the place of a config.

    What this backbone refuses is left out with a warning.
    """
    plans = {name: config for name, config in names.items() if config != DOWNSAMPLING}
    built: dict[str, Plan | Downsampling] = {**build_baselines(configs, plans, prune_ratio, backbone, seed)}
    for name in (name for name in names if name not in plans):
        try:
            check_downsampling(backbone)
            built[name] = Downsampling(prune_ratio)
        except UserError as error:
            _log.warning("the baseline %s is left out: %s", name, error)
    return {name: built[name] for name in names if name in built}
