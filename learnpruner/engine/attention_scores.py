"""Attention probabilities for the few rows that a pruner reads, from the layer's own queries and keys, in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 64  # query rows a chunk; bounds memory to B x H x 64 x L numbers


def cls_attention_rows(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """The [CLS] row of each head over the patches: query, key (B, H, 1+N, d) -> (B, H, N)."""
    logits = query[:, :, :1].float() @ key.float().transpose(-1, -2) * scaling
    return logits.softmax(-1)[:, :, 0, 1:]


def mean_text_attention(
    query: Tensor, key: Tensor, scaling: float, rows: Tensor, counted: Tensor, bias: Tensor
) -> Tensor:
    """What each key receives on the average of heads and of the counted rows, by causal softmax over all keys.

    query (B, H, L, d); key (B, G, L, d) with G key-value heads; rows (B, T) query positions; counted (B, T) bool;
    bias (B, L) added to each key's logit: 0, or very negative where a key is not there. Returns (B, L).
    """
    return mean_attention_rows(gather_queries(query, rows), key, scaling, rows, counted, bias)


def mean_attention_rows(
    picked: Tensor, key: Tensor, scaling: float, rows: Tensor, counted: Tensor, bias: Tensor
) -> Tensor:
    """The same of the queries at rows alone, picked (B, H, T, d)."""
    weight = counted.float() / counted.sum(1, keepdim=True).clamp_min(1)
    parts = zip(*(torch.split(part, ROWS_AT_ONCE, d) for part, d in ((picked, 2), (rows, 1), (weight, 1))), strict=True)
    key, received = key.float(), torch.zeros_like(bias, dtype=torch.float32)
    for some, places, share in parts:
        found = attention_rows(some, key, scaling, places, bias).mean(1)
        received = received + (found * share[..., None]).sum(1)
    return received


def attention_rows(picked: Tensor, key: Tensor, scaling: float, rows: Tensor, bias: Tensor) -> Tensor:
    """Causal softmax rows of each head over all keys: (B, H, T, L).

    picked (B, H, T, d) the queries at rows (B, T); key (B, G, L, d); bias (B, L), as above.
    """
    (b, h, t, d), g = picked.shape, key.shape[1]
    logits = (picked.float().reshape(b, g, -1, d) @ key.float().transpose(-1, -2)).reshape(b, h, t, -1)
    later = torch.arange(key.shape[2], device=rows.device) > rows[..., None]
    logits = logits * scaling + bias.float()[:, None, None]
    return logits.masked_fill(later[:, None], torch.finfo(torch.float32).min).softmax(-1)


def gather_queries(query: Tensor, rows: Tensor) -> Tensor:
    """Query (B, H, L, d) at rows (B, T): (B, H, T, d)."""
    return query.gather(2, rows[:, None, :, None].expand(*query.shape[:2], -1, query.shape[3]))
