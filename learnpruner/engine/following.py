"""Tokens that follow a pruned prompt on its cache: their positions, and what the layers get for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from learnpruner.engine.cache import physical_length
from learnpruner.engine.segments import LayerInputs, LayerSegment
from learnpruner.engine.sequence_state import SequenceState


def follow_inputs(state: SequenceState, x: Tensor, cache: Cache, given: Tensor | None, layer: int) -> LayerInputs:
    """Make what the layers of the segment that starts at `layer` get for new tokens.

    Args:
        state: of the prompt that the tokens follow.
        x: (B, q, D) the new tokens.
        cache: that the prompt has filled.
        given: the model's mask over the prompt and what follows, 2-D, or 4-D (B, 1, q, L + q) as the layers take it.
        layer: the segment's first.
    """
    segment = next(s for s in reversed(state.segments) if s.start == layer)
    rotary = (
        state.language_model.rotary_emb(x, _counted(state, segment, cache, x, given))
        if state.compact and layer
        else None
    )
    ready = isinstance(given, Tensor) and given.dim() == 4
    if given is not None and ready and not cache.layers[layer].is_compileable:  # there it is generate's own
        return LayerInputs(_of_segment(state, segment, given), rotary)
    return LayerInputs(state.mask(x, cache, _grown(state, segment, cache, given, x.shape[1]), layer), rotary)


def following_positions(
    state: SequenceState, x: Tensor, cache: Cache, given: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Number new tokens as the plan's positions go on.

    Args:
        state: of the prompt that the tokens follow.
        x: (B, q, D) the new tokens.
        cache: that the prompt has filled.
        given: the caller's own position ids.
        mask: as `follow_inputs` takes it.

    Returns:
        Position ids, (B or 1, q).
    """
    if state.compact:
        return _counted(state, state.segments[0], cache, x, mask)
    if given is not None:
        return given
    past: int | Tensor = physical_length(cache, 0) + state.dropped
    return (torch.arange(x.shape[1], device=x.device) + past)[None]


def _counted(state: SequenceState, segment: LayerSegment, cache: Cache, x: Tensor, given: Tensor | None) -> Tensor:
    """Compact positions: count on from the tokens that the segment kept, without padding of later turns."""
    past = physical_length(cache, segment.start) - segment.index.shape[1]
    columns = torch.arange(x.shape[1], device=x.device) + past  # behind the prompt
    counted: Tensor = segment.alive.sum(1, keepdim=True).to(x.device) + columns
    behind = _behind(state, given)
    if behind is None:
        return counted
    padding: Tensor = (~behind).long().cumsum(1).to(x.device)
    last = padding.shape[1] - 1
    seen: Tensor = padding[:, columns.clamp(0, last)]  # what a static cache has room for is no padding
    return (counted - torch.where(columns >= 0, seen, 0)).clamp_min(0)


def _behind(state: SequenceState, given: Tensor | None) -> Tensor | None:
    """Which columns behind the prompt a 2-D mask says are real, (B, M); None where it says nothing of them."""
    if given is None or given.dim() != 2 or given.shape[1] <= state.length:
        return None
    return given[:, state.length :].bool()


def _of_segment(state: SequenceState, segment: LayerSegment, given: Tensor) -> Tensor:
    """The columns of a 4-D mask (B, 1, q, L + rest) that the segment's cache holds."""
    given = given.expand(len(segment.index), -1, -1, -1)
    index = segment.index.to(given.device)[:, None, None].expand(-1, *given.shape[1:3], -1)
    prompt = given[..., : state.length].gather(-1, index)
    if not segment.full:
        absent = ~segment.present.to(given.device)[:, None, None]
        prompt = prompt.masked_fill(absent, False if given.dtype == torch.bool else torch.finfo(given.dtype).min)
    return torch.cat([prompt, given[..., state.length :]], -1)


def _grown(state: SequenceState, segment: LayerSegment, cache: Cache, given: Tensor | None, new: int) -> Tensor | None:
    """The segment's mask with the columns that followed the prompt; None where nothing is masked."""
    behind = _behind(state, given)
    if segment.full and behind is None:
        return None
    layer = cache.layers[segment.start]
    total = layer.get_max_length() if layer.is_compileable else physical_length(cache, segment.start) + new
    present = segment.present[:, :total]
    if behind is not None and total > present.shape[1]:
        present = torch.cat([present, behind[:, : total - present.shape[1]].to(present.device)], 1)
    return F.pad(present, (0, total - present.shape[1]), value=True)
