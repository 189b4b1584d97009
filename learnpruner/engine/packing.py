"""Shorter sequences: which prompt positions stay, packed to the right, and results laid out over the prompt again."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_rows(keep: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keep (B, L) bool -> index (B, length) in order, right-aligned, and mask (B, length), False on fillers.

    `length` is the largest count of a row. Fillers are dropped positions, so no index comes twice. Input padding goes
    too: left- and right-padded prompts pack to the same sequence.
    """
    index = keep.to(torch.int8).argsort(dim=1, stable=True)[:, keep.shape[1] - length :]
    return index, keep.gather(1, index)


def scatter_tokens(x: Tensor, index: Tensor, values: Tensor, valid: Tensor | None) -> Tensor:
    """A copy of x (B, L, D) with values (B, K, D) at index (B, K), where valid."""
    if valid is not None:
        values = torch.where(valid[..., None], values, x.gather(1, index[..., None].expand_as(values)))
        index = index.masked_fill(~valid, x.shape[1])  # fillers share an index: send them to a row that is cut off
        x = torch.cat([x, x[:, :1]], 1)
        return x.scatter(1, index[..., None].expand_as(values), values)[:, :-1]
    return x.scatter(1, index[..., None].expand_as(values), values)


def forward_fill(index: Tensor, alive: Tensor, length: int) -> Tensor:
    """For each of `length` prompt positions, the packed position of the last token alive at or before it: (B, length).

    Args:
        index, alive: (B, K). So `logits[:, t]` stays beside `input_ids[:, t]`, and the first text after a dropped image
            token is predicted from the last token before it that was kept, exactly as in the shorter sequence.
    """
    order = torch.arange(index.shape[1], device=index.device).expand_as(index)
    places = index.new_zeros(index.shape[0], length).scatter(1, index, order.masked_fill(~alive, 0))
    return places.cummax(dim=1).values


def consecutive_positions(alive: Tensor) -> Tensor:
    """Consecutive positions of the tokens alive, (B, L); a dropped token shares the one before it."""
    return (alive.long().cumsum(1) - 1).clamp_min(0)
