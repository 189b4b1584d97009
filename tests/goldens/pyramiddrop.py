"""PyramidDrop: successive stages through a layer of the stated kind, on renumbered positions.

A case holds one stage's result; its input is what the stages before it left.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from learnpruner.core.selection import gather_tokens
from learnpruner.core.signals import NEXT_ATTENTION, View
from learnpruner.engine.llm_signals import LlmSignals, PromptPlace
from learnpruner.pruners.pyramiddrop import PyramidDrop

STAGE = re.compile(r"stage(\d+)")


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "kept_positions_of_input" not in tensors:
        return False
    hidden, visual = tensors["hidden_states"], settings["image_len"]
    expected = tensors["kept_positions_of_input"].view(len(hidden), -1)
    text = hidden.shape[1] - visual
    for keep in earlier(name, settings, entering=int(expected.max()) + 1 - text):
        hidden, visual = gather_tokens(hidden, stage(hidden, visual, keep, tensors, settings)), keep
    kept = stage(hidden, visual, settings.get("keep", expected.shape[1] - text), tensors, settings)
    assert torch.equal(kept, expected), "other positions were kept"
    if "hidden_states_out" in tensors:
        torch.testing.assert_close(gather_tokens(hidden, kept), tensors["hidden_states_out"], rtol=0, atol=0)
    if "position_ids_out" in tensors:
        numbers = torch.arange(kept.shape[1]).expand_as(kept)
        assert torch.equal(tensors["position_ids_out"].view_as(kept), numbers), "positions are not renumbered"
    return True


def earlier(name: str, settings: dict[str, Any], entering: int) -> list[int]:
    """How many tokens the stages before this one keep. The last of them leaves what enters here, which the prompt's last
    token tells, for it always stays; the others' counts are those of their cases, or shrink evenly where none says it."""
    if entering == settings["image_len"]:
        return []
    number = STAGE.search(name)
    assert number is not None, f"case {name} does not say which stage it is"
    family, before, whole = name[: number.start()], int(number[1]), settings["image_len"]
    told: dict[int, set[int]] = {}
    for case, other in settings.get("cases", {}).items():
        if case.startswith(family) and (found := STAGE.match(case, len(family))) and "keep" in other:
            told.setdefault(int(found[1]), set()).add(other["keep"])
    counts = [round(whole * (entering / whole) ** ((at + 1) / before)) for at in range(before)]
    counts = [min(told[at]) if len(told.get(at, ())) == 1 else count for at, count in enumerate(counts)]
    return [*counts[:-1], entering]


def stage(hidden: Tensor, visual: int, keep: int, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """Positions that stay, of a sequence hidden (B, S, D) with `visual` image tokens."""
    (batch, length, _), start = hidden.shape, settings["image_start"]
    lm, rotary = layer(hidden, tensors, settings)
    question = torch.zeros(batch, length, dtype=torch.bool)
    question[:, -1] = True
    place = PromptPlace(torch.arange(length).expand(batch, -1), torch.ones_like(question))
    inside = LlmSignals(lm, {}, question, [1] * batch, entered=torch.zeros_like(question))
    spots = torch.arange(start, start + visual).expand(batch, -1)
    seen = inside.signals(frozenset({NEXT_ATTENTION}), 0, place, spots, hidden, rotary)
    chosen = PyramidDrop()(View(gather_tokens(hidden, spots), signals=seen), torch.full((batch,), keep))
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
        rope_parameters={"rope_type": "default", "rope_theta": float(settings.get("rope_base", 10_000))},
    )
    attention = LlamaAttention(config, 0)
    attention.q_proj.weight.data = tensors["q_proj_weight"]
    attention.k_proj.weight.data = tensors["k_proj_weight"]
    norm = nn.LayerNorm(hidden.shape[-1], eps=settings.get("norm_eps", 1e-5), elementwise_affine=False)
    lm = SimpleNamespace(layers=[SimpleNamespace(self_attn=attention, input_layernorm=norm)])
    cos, sin = LlamaRotaryEmbedding(config)(hidden, torch.arange(hidden.shape[1])[None])
    return lm, (cos, sin)
