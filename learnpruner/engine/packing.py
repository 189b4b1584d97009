"""Shorter sequences: which prompt positions stay, packed to the right, and results laid out over the prompt again."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_rows(keep: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Pack what is kept of each row to the right.

    Fillers are dropped positions, so no index comes twice. Input padding goes too: left- and right-padded prompts pack
    to the same sequence.

    Args:
        keep: (B, L) bool.
        length: the largest count of a row.

    Returns:
        Positions (B, length) in order, right-aligned, and a mask (B, length), False on fillers.
    """
    index = keep.to(torch.int8).argsort(dim=1, stable=True)[:, keep.shape[1] - length :]
    return index, keep.gather(1, index)


def scatter_tokens(x: Tensor, index: Tensor, values: Tensor, valid: Tensor | None) -> Tensor:
    """Copy x (B, L, D) with values (B, K, D) at index (B, K), where valid (B, K); None is valid everywhere."""
    if valid is not None:
        values = torch.where(valid[..., None], values, x.gather(1, index[..., None].expand_as(values)))
        index = index.masked_fill(~valid, x.shape[1])  # fillers share an index: send them to a row that is cut off
        x = torch.cat([x, x[:, :1]], 1)
        return x.scatter(1, index[..., None].expand_as(values), values)[:, :-1]
    return x.scatter(1, index[..., None].expand_as(values), values)


def forward_fill(index: Tensor, alive: Tensor, length: int) -> Tensor:
    """Find for each prompt position the packed position of the last token alive at or before it.

    So `logits[:, t]` stays beside `input_ids[:, t]`, and the first text after a dropped image token is predicted from
    the last token before it that was kept, exactly as in the shorter sequence.

    Args:
        index: (B, K) prompt positions of the packed tokens.
        alive: (B, K) bool, which of them are no fillers.
        length: L, prompt positions.

    Returns:
        (B, L).
    """
    order = torch.arange(index.shape[1], device=index.device).expand_as(index)
    places = index.new_zeros(index.shape[0], length).scatter(1, index, order.masked_fill(~alive, 0))
    return places.cummax(dim=1).values


def consecutive_positions(alive: Tensor) -> Tensor:
    """Number the tokens alive, (B, L) bool, consecutively; a dropped token shares the position of the one before it."""
    return (alive.long().cumsum(1) - 1).clamp_min(0)
