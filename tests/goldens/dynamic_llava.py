"""Dynamic-LLaVA: attention under a policy, straight-through top-k and argmax, the ratio loss; gradients included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.relaxations import StraightThroughArgmax, hard_top_k, straight_through
from learnpruner.engine.masks import bias_depth, biased_attention, key_bias
from learnpruner.training.losses import budget_penalty

CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    kinds = {
        "masked_softmax": ("probs", masked_softmax),
        "ste_topk": ("hard_mask", ste_topk),
        "ste_argmax": ("hard_onehot", ste_argmax),
        "ratio_loss": ("loss", ratio_loss),
    }
    output, compare = next((found for kind, found in kinds.items() if kind in name), (None, None))
    if compare is None or output not in tensors:
        return False
    compare(tensors, settings)
    return True


def masked_softmax(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """The rule reproduces the authors' numbers; the engine's masked mode reproduces the rule for every kept query.

    It differs where it is meant to: a gate bears on its own row too, so that rows of dropped queries (which nobody reads)
    and the gradient of the diagonal are others; and there is no epsilon.
    """
    policy, upstream = tensors["policy"][..., 0].requires_grad_(), tensors["upstream_grad"]
    probs = rule(tensors["logits_causal"], policy, settings.get("eps", 1e-6))
    torch.testing.assert_close(probs, tensors["probs"], **CLOSE, msg=lambda m: f"the rule's probabilities: {m}")
    (grad,) = torch.autograd.grad(probs, policy, upstream, retain_graph=True)
    torch.testing.assert_close(grad, tensors["grad_policy"][..., 0], **CLOSE, msg=lambda m: f"the rule's gradient: {m}")
    kept = policy.detach() > 0.5
    if not torch.equal(kept.to(policy), policy):
        return  # the engine's gates are hard
    read = kept[:, None, :, None]
    upstream = upstream.masked_fill(~read, 0)
    exact = rule(
        tensors["logits_causal"], policy, 1e-20
    )  # their epsilon is large where dropped keys have the largest logits
    blind = rule(tensors["logits_causal"], policy, 1e-20, own=0.0)
    (expected,) = torch.autograd.grad(blind, policy, upstream)
    gate = kept.float().requires_grad_()
    found = engine(tensors["logits_causal"], gate)
    difference = (found - exact).masked_fill(~read, 0).abs().max()
    assert difference < 1e-5, f"the engine's probabilities differ by {difference:.1e}"
    (grad,) = torch.autograd.grad(found, gate, upstream)
    torch.testing.assert_close(grad, expected, atol=2e-5, rtol=1e-4, msg=lambda m: f"the engine's gradient: {m}")


def rule(logits: Tensor, policy: Tensor, eps: float, own: float = 1.0) -> Tensor:
    """e = exp(a - max a) (pi_j + (1 - pi_j) [i = j]), p = (e + eps / N) / (sum e + eps): logits (B, H, N, N), policy (B, N).

    own: 0 leaves the second part of the bracket out.
    """
    n = logits.shape[-1]
    seen = policy[:, None, None, :] + (1 - policy[:, None, None, :]) * own * torch.eye(n)
    e = (logits - logits.amax(-1, keepdim=True)).exp() * seen
    return (e + eps / n) / (e.sum(-1, keepdim=True) + eps)


def engine(logits: Tensor, gate: Tensor) -> Tensor:
    """Attention probabilities of the engine's masked mode: queries carry the logits, keys and values are unit vectors."""
    b, h, n, _ = logits.shape
    unit = torch.eye(n).expand(b, h, n, n)
    query = logits.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), 0)
    bias = key_bias([gate], torch.ones(b, n, dtype=torch.bool), bias_depth(1.0, torch.float32))
    module = torch.nn.Module()
    module.is_causal = True
    return biased_attention(module, query, unit, unit, bias, 1.0)[0].transpose(1, 2)


def ste_topk(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    logits = tensors["logits"].requires_grad_()
    gate = straight_through(hard_top_k(logits, torch.full((len(logits),), settings["k"])), logits.sigmoid())
    agree(gate, logits, tensors, "hard_mask", "grad_logits")


def ste_argmax(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    logits = tensors["logits"].requires_grad_()
    keep = StraightThroughArgmax()(logits[..., 0] - logits[..., 1], torch.ones(len(logits)))
    agree(torch.stack([keep, 1 - keep], -1), logits, tensors, "hard_onehot", "grad_logits")


def agree(found: Tensor, leaf: Tensor, tensors: dict[str, Tensor], value: str, gradient: str) -> None:
    torch.testing.assert_close(found, tensors[value], **CLOSE, msg=lambda m: f"{value}: {m}")
    (grad,) = torch.autograd.grad(found, leaf, tensors["upstream_grad"])
    torch.testing.assert_close(grad, tensors[gradient], **CLOSE, msg=lambda m: f"{gradient}: {m}")


def ratio_loss(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    found = settings["weight"] * budget_penalty(tensors["masks"], settings["target"])
    torch.testing.assert_close(found, tensors["loss"], **CLOSE)
