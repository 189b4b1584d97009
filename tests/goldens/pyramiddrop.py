"""PyramidDrop: successive stages through a layer of the stated kind, on renumbered positions.

A case holds one stage's result; its input is what the stages before it left, each of which keeps twice as many.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from learnpruner.engine.inside import Inside, Place
from learnpruner.pruner import View
from learnpruner.pruners.pyramiddrop import NEXT, PyramidDrop
from learnpruner.selection import take


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "kept_positions_of_input" not in tensors:
        return False
    number = re.search(r"stage(\d+)", name)
    assert number is not None, f"case {name} does not say which stage it is"
    hidden, visual = tensors["hidden_states"], settings["image_len"]
    for earlier in range(int(number[1]), 0, -1):
        keep = settings["keep"] * 2**earlier
        hidden, visual = take(hidden, stage(hidden, visual, keep, tensors, settings)), keep
    kept = stage(hidden, visual, settings["keep"], tensors, settings)
    assert torch.equal(kept, tensors["kept_positions_of_input"]), "other positions were kept"
    torch.testing.assert_close(take(hidden, kept), tensors["hidden_states_out"], rtol=0, atol=0)
    return True


def stage(hidden: Tensor, visual: int, keep: int, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """Positions that stay, of a sequence hidden (B, S, D) with `visual` image tokens."""
    (batch, length, _), start = hidden.shape, settings["image_start"]
    lm, rotary = layer(hidden, tensors, settings)
    question = torch.zeros(batch, length, dtype=torch.bool)
    question[:, -1] = True
    place = Place(torch.arange(length).expand(batch, -1), torch.ones_like(question))
    inside = Inside(lm, {}, question, 1, entered=torch.zeros_like(question))
    spots = torch.arange(start, start + visual).expand(batch, -1)
    seen = inside.signals(frozenset({NEXT}), 0, place, spots, hidden, rotary)
    chosen = PyramidDrop()(View(take(hidden, spots), signals=seen), torch.full((batch,), keep))
    alive = torch.ones_like(question)
    alive[:, start : start + visual] = chosen.mask(visual)
    return alive.nonzero()[:, 1].view(batch, -1)


def layer(hidden: Tensor, tensors: dict[str, Tensor], settings: dict[str, Any]) -> tuple[Any, tuple[Tensor, Tensor]]:
    """A language model of one Llama layer with the case's weights, and its rotary embeddings."""
    config = LlamaConfig(
        hidden_size=hidden.shape[-1],
        num_attention_heads=settings["num_heads"],
        num_key_value_heads=tensors["k_proj_weight"].shape[0] // settings["head_dim"],
        head_dim=settings["head_dim"],
        rope_parameters={"rope_type": "default", "rope_theta": float(settings["rope_base"])},
    )
    attention = LlamaAttention(config, 0)
    attention.q_proj.weight.data = tensors["q_proj_weight"]
    attention.k_proj.weight.data = tensors["k_proj_weight"]
    norm = nn.LayerNorm(hidden.shape[-1], eps=1e-5, elementwise_affine=False)
    lm = SimpleNamespace(layers=[SimpleNamespace(self_attn=attention, input_layernorm=norm)])
    cos, sin = LlamaRotaryEmbedding(config)(hidden, torch.arange(hidden.shape[1])[None])
    return lm, (cos, sin)
