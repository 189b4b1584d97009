"""Attention probabilities for the few rows that a pruner reads, from the layer's own queries and keys, in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 64  # query rows a chunk; bounds memory to B x H x 64 x L numbers


def cls_attention_rows(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Compute the [CLS] row of each head over the patches: query, key (B, H, 1+N, d) -> (B, H, N)."""
    logits = query[:, :, :1].float() @ key.float().transpose(-1, -2) * scaling
    return logits.softmax(-1)[:, :, 0, 1:]


def mean_text_attention(
    query: Tensor, key: Tensor, scaling: float, rows: Tensor, counted: Tensor, bias: Tensor
) -> Tensor:
    """Average what each key receives over heads and counted rows, by causal softmax over all keys.

    Args:
        query: (B, H, L, d).
        key: (B, G, L, d), of G key-value heads.
        scaling: of the logits.
        rows: (B, T) positions of the queries.
        counted: (B, T) bool, which of them count.
        bias: (B, L) added to each key's logit: 0, or very negative where a key is not there.

    Returns:
        (B, L) fp32.
    """
    return mean_attention_rows(gather_queries(query, rows), key, scaling, rows, counted, bias)


def mean_attention_rows(
    picked: Tensor, key: Tensor, scaling: float, rows: Tensor, counted: Tensor, bias: Tensor
) -> Tensor:
    """Average as `mean_text_attention` does, of the queries at rows alone: picked (B, H, T, d)."""
    weight = counted.float() / counted.sum(1, keepdim=True).clamp_min(1)
    parts = zip(*(torch.split(part, ROWS_AT_ONCE, d) for part, d in ((picked, 2), (rows, 1), (weight, 1))), strict=True)
    key, received = key.float(), torch.zeros_like(bias, dtype=torch.float32)
    for some, places, share in parts:
        found = attention_rows(some, key, scaling, places, bias).mean(1)
        received = received + (found * share[..., None]).sum(1)
    return received


def attention_rows(picked: Tensor, key: Tensor, scaling: float, rows: Tensor, bias: Tensor) -> Tensor:
    """Compute causal softmax rows of each head over all keys, in fp32.

    Args:
        picked: (B, H, T, d) the queries at rows.
        key: (B, G, L, d), of G key-value heads.
        scaling: of the logits.
        rows: (B, T) positions of the queries; a row sees the keys up to its own.
        bias: (B, L) added to each key's logit.

    Returns:
        (B, H, T, L).
    """
    (b, h, t, d), g = picked.shape, key.shape[1]
    logits = (picked.float().reshape(b, g, -1, d) @ key.float().transpose(-1, -2)).reshape(b, h, t, -1)
    later = torch.arange(key.shape[2], device=rows.device) > rows[..., None]
    logits = logits * scaling + bias.float()[:, None, None]
    return logits.masked_fill(later[:, None], torch.finfo(torch.float32).min).softmax(-1)


def gather_queries(query: Tensor, rows: Tensor) -> Tensor:
    """Gather query (B, H, L, d) at rows (B, T): (B, H, T, d)."""
    return query.gather(2, rows[:, None, :, None].expand(*query.shape[:2], -1, query.shape[3]))
