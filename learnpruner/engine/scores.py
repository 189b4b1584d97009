"""Attention probabilities for the few rows that a pruner reads, from the layer's own queries and keys, in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 64  # query rows a chunk; bounds memory to B x H x 64 x L numbers


def cls_rows(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """The [CLS] row of each head over the patches: query, key (B, H, 1+N, d) -> (B, H, N)."""
    logits = query[:, :, :1].float() @ key.float().transpose(-1, -2) * scaling
    return logits.softmax(-1)[:, :, 0, 1:]


def text_rows(query: Tensor, key: Tensor, scaling: float, rows: Tensor, counted: Tensor, bias: Tensor) -> Tensor:
    """What each key receives on the average of heads and of the counted rows, by causal softmax over all keys.

    query (B, H, L, d); key (B, G, L, d) with G key-value heads; rows (B, T) query positions; counted (B, T) bool;
    bias (B, L) added to each key's logit: 0, or very negative where a key is not there. Returns (B, L).
    """
    weight = counted.float() / counted.sum(1, keepdim=True).clamp_min(1)
    parts = zip(rows.split(ROWS_AT_ONCE, 1), weight.split(ROWS_AT_ONCE, 1), strict=True)
    key, bias = key.float().transpose(-1, -2), bias.float()
    received = torch.zeros_like(bias)
    for some, share in parts:
        received = received + (_probabilities(query, key, scaling, some, bias) * share[..., None]).sum(1)
    return received


def _probabilities(query: Tensor, key: Tensor, scaling: float, rows: Tensor, bias: Tensor) -> Tensor:
    """Head mean of the softmax rows: (B, T, L); key (B, G, d, L)."""
    (b, h, _, d), g = query.shape, key.shape[1]
    picked = query.gather(2, rows[:, None, :, None].expand(b, h, rows.shape[1], d)).float()
    logits = (picked.reshape(b, g, -1, d) @ key).reshape(b, h, rows.shape[1], -1) * scaling + bias[:, None, None]
    later = torch.arange(key.shape[-1], device=rows.device) > rows[..., None]
    return logits.masked_fill(later[:, None], torch.finfo(torch.float32).min).softmax(-1).mean(1)
