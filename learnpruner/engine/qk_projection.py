"""Queries and keys of a layer of the language model for tokens that it has not run on, by the layer's own weights."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def project_heads(attention: Any, part: str, x: Tensor) -> Tensor:
    """Project tokens to a layer's queries or keys, without RoPE.

    Args:
        attention: the layer's attention module.
        part: "q" for queries, "k" for keys.
        x: (B, L, D), after the layer's first norm.

    Returns:
        (B, heads, L, d).
    """
    heads = getattr(attention, f"{part}_proj")(x).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{part}_norm", None)  # Qwen3 normalises each head
    normed: Tensor = heads if norm is None else norm(heads)
    return normed.transpose(1, 2)


def apply_rotary(attention: Any, query: Tensor, key: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Apply RoPE as the attention module's own file does.

    Args:
        attention: the layer's attention module.
        query: (B, H, L, d).
        key: (B, G, L, d).
        rotary: cosines and sines, (B or 1, L, d) each.
    """
    apply: Any = vars(sys.modules[type(attention).__module__])["apply_rotary_pos_emb"]
    query, key = apply(query, key, *(part.to(query.device) for part in rotary))
    return query, key
