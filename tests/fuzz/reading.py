"""What unmodified Hugging Face hands to its language model of a row alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzz.grids import Grids, grids
from fuzz.subjects import Subject


class Reached(Exception):
    """The language model is about to run."""


@dataclass(frozen=True)
class Reading:
    """A row of length L.

    embeds: (L, D). positions: (1, L), or (3, 1, L) of M-RoPE. spots: where the visual tokens of each image are. deep: what
    the first layers add, (L, D) each. grids: (H, W) of each image's tiles or frames, one after the other. ahead: by
    how much what follows the row is counted on from more than L. features: of each
    image's visual tokens before the projector, (N, C), if asked for.
    """

    on: Subject
    embeds: Tensor
    positions: Tensor
    spots: list[list[int]]
    deep: list[Tensor]
    grids: list[Grids]
    ahead: int = 0
    features: list[Tensor] | None = None

    @property
    def visual(self) -> set[int]:
        return {spot for spots in self.spots for spot in spots}

    @torch.no_grad()
    def followed(self, new: Tensor, generated: bool) -> Reading:
        """The row with tokens behind it: `generate` counts on from the last position, a later turn from L and `ahead`."""
        embeds, order = self.on.twin.get_input_embeddings()(new), torch.arange(len(new))
        start = self.positions[..., -1:] + 1 if generated else len(self.embeds) + self.ahead
        positions = (start + order).expand(*self.positions.shape[:-1], -1)
        deep = [F.pad(added, (0, 0, 0, len(new))) for added in self.deep]
        return replace(
            self,
            embeds=torch.cat([self.embeds, embeds]),
            positions=torch.cat([self.positions, positions], -1),
            deep=deep,
        )


@torch.no_grad()
def read(on: Subject, inputs: Mapping[str, Any], images: int, features: bool = False) -> Reading:
    """From the inputs of one row without padding. features: of models that mix none on the way to the prompt."""
    seen = _reach(on, inputs)
    embeds, positions = seen["inputs_embeds"][0], seen.get("position_ids")
    if positions is None:
        positions = torch.arange(len(embeds))[None]
    elif positions.dim() == 3:
        positions = positions[-3:]  # without the text's own
    spots = _spots(on, inputs["input_ids"][0], embeds, _sizes(seen["shown"], images))
    added = seen.get("deepstack_visual_embeds") or ()
    deep = [torch.zeros_like(embeds).masked_scatter(seen["visual_pos_masks"][0, :, None], each) for each in added]
    ahead = int(on.twin.model.rope_deltas) if images and on.family.rotary_axes > 1 else 0
    reading = Reading(on, embeds, positions, spots, deep, grids(on, inputs, spots), ahead)
    if not features or not images:
        return reading
    count = seen["projected"].flatten(0, -2).shape[0]
    tapped = seen["tapped"].flatten(0, -2).unflatten(0, (count, -1)).mean(1)  # patches that become one token
    numbers = torch.arange(count, dtype=embeds.dtype)[:, None].expand(-1, embeds.shape[-1])
    shown = _reach(on, inputs, numbers)["inputs_embeds"][0, :, 0]  # which feature each placeholder shows
    return replace(reading, features=[tapped[shown[one].long()] for one in spots])


def _reach(on: Subject, inputs: Mapping[str, Any], projected: Tensor | None = None) -> dict[str, Any]:
    """Arguments of the language model, the features shown, the projector's input and output; `projected` replaces that."""
    seen: dict[str, Any] = {"shown": []}

    def arrive(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)
        raise Reached

    def tap(module: Any, args: Any, output: Tensor) -> Tensor | None:
        seen.update(tapped=args[0], projected=output)
        return None if projected is None else projected.view(output.shape)

    core = on.twin.model
    method = "get_video_features" if "pixel_values_videos" in inputs else "get_image_features"
    with ExitStack() as stack:
        stack.callback(core.language_model.register_forward_pre_hook(arrive, with_kwargs=True).remove)
        stack.callback(on.projector.register_forward_hook(tap).remove)
        stack.enter_context(_noted(core, method, seen["shown"]))
        stack.enter_context(suppress(Reached))
        on.twin(**inputs)
    return seen


@contextmanager
def _noted(core: Any, name: str, shown: list[Tensor]) -> Iterator[None]:
    """Note the features that a method of the model returns, one an image or a frame."""
    method = getattr(core, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        shown.extend(found.pooler_output)
        return found

    setattr(core, name, noting)
    try:
        yield
    finally:
        delattr(core, name)


def _sizes(shown: Sequence[Tensor], images: int) -> list[int]:
    """Placeholders of each image; where a model returns frames, each video has as many."""
    counts = [one.flatten(0, -2).shape[0] for one in shown]
    return counts if len(shown) == images else [sum(counts) // images] * images


def _spots(on: Subject, ids: Tensor, embeds: Tensor, sizes: Sequence[int]) -> list[list[int]]:
    """Positions of the visual tokens of each image, without its line breaks and without the [CLS] of frames."""
    places, found = torch.isin(ids, torch.tensor(on.marks)).nonzero()[:, 0], []
    newline, vision = getattr(on.twin.model, "image_newline", None), on.twin.config.vision_config
    frame = (vision.image_size // vision.patch_size) ** 2 + 1 if on.name == "video_llava" else 0
    for one in places.split(list(sizes)):
        if newline is not None:
            one = one[(embeds[one] != newline).any(-1)]
        elif frame and len(one) % frame == 0:
            one = one[torch.arange(len(one)) % frame > 0]
        found.append(one.tolist())
    return found
