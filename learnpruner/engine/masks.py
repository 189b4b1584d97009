"""Masked mode: a dropped token stays in the sequence, out of attention, and still receives gradient."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from learnpruner.core.autograd import apply_function

ABSENT_LOGIT = -1e4  # bias of padding: no gradient is wanted there
_CHANNELS = 8  # extra columns of queries, keys and values: one carries the bias, the others keep kernels aligned


def bias_depth(scaling: float, dtype: torch.dtype) -> float:
    """Choose how far below the others a dropped key's logit lies, so that depth / scaling is a power of two.

    At least 20 (a weight of e^-20 is nothing beside a kept token's); at least 8 in fp16, which can't hold smaller
    weights. A power of two survives the cast to 16 bits, and with it the scale of the gradient of `HardBias`.

    Args:
        scaling: of the attention's logits.
        dtype: that the attention runs in.
    """
    least = 8.0 if dtype == torch.float16 else 20.0
    return 2.0 ** math.ceil(math.log2(least / scaling)) * scaling


class HardBias(torch.autograd.Function):
    """0 where a gate is open, -depth where it is closed; the gradient of log(gate + e^-depth).

    That is the exact gradient of attention whose weights are multiplied by the gate: the softmax weight of a closed
    token is e^-depth too small, and its gradient is scaled back by e^depth.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, depth: float) -> Tensor:
        ctx.save_for_backward(gate > 0.5)
        ctx.depth = depth
        return torch.where(gate > 0.5, 0.0, -depth)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (is_open,) = ctx.saved_tensors
        return grad * torch.where(is_open, 1.0, math.exp(ctx.depth)), None


def key_bias(gates: list[Tensor], present: Tensor, depth: float) -> Tensor:
    """Sum the logit bias of each key: (B, L) fp32.

    Args:
        gates: (B, L) one a stage, 0 or 1 in value, with gradient.
        present: (B, L) bool, which keys are there at all.
        depth: of `bias_depth`.
    """
    bias = torch.zeros(present.shape, device=present.device)
    for gate in gates:
        bias = bias + apply_function(HardBias, gate.float(), depth)
    return bias.masked_fill(~present, ABSENT_LOGIT)


def biased_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """Run causal SDPA with a bias a key and no mask tensor: the bias travels in an extra channel of the keys.

    query' = [query, 1, 0...], key' = [key, bias / scaling, 0...], value' = [value, 0...].
    CPUs run it in fp32: their 16-bit kernel is several times slower backwards.

    Args:
        module: the attention module.
        query: (B, H, L, d).
        key: (B, G, L, d), of G key-value heads.
        value: (B, G, L, d).
        bias: (B, L), added to the logits of each key.
        scaling: of the logits.
        dropout: share of the probabilities that are dropped.

    Returns:
        (B, L, H, d) in the values' dtype, and no probabilities.
    """
    given = value.dtype
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    channel = (bias / scaling).to(key.device, key.dtype)[:, None, :, None].expand(*key.shape[:3], 1)
    query = torch.cat(
        [query, query.new_ones(*query.shape[:3], 1), query.new_zeros(*query.shape[:3], _CHANNELS - 1)], -1
    )
    key = torch.cat([key, channel, key.new_zeros(*key.shape[:3], _CHANNELS - 1)], -1)
    wide = F.pad(value, (0, _CHANNELS))
    with torch.autocast("cpu", enabled=False) if query.device.type == "cpu" else nullcontext():
        out, _ = sdpa_attention_forward(module, query, key, wide, None, dropout, scaling, is_causal=True)
    return out[..., : value.shape[-1]].to(given), None
