"""Relaxations: scores (B, N) -> gate (B, N), a hard 0/1 decision in the forward pass that lets gradient through.

Scores are logits, keep minus drop: sigmoid(score) is the keep-probability of a softmax over the two. ``keep`` (B,) is the number of
tokens that the budget asks for; ``valid`` (B, N) marks real tokens where images differ in token count. ``meets_budget`` tells the
objective whether the gate keeps exactly that number or needs a budget term. ``temperature`` divides the scores in the soft part:
higher spreads gradient over more tokens.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from learnpruner.core.autograd import apply_function
from learnpruner.utils.errors import UserError

_BISECTIONS = 60


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Combine the value of ``hard`` with the gradient of ``soft``."""
    return hard + (soft - soft.detach())


def hard_top_k(scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
    """Open the gates of the ``keep`` highest scores of each row; ties go to the lower index.

    Args:
        scores: (B, N).
        keep: (B,) tokens to keep, on the scores' device.
        valid: (B, N) real tokens; others are never kept. None for all.

    Returns:
        (B, N) of 0 and 1, without gradient.
    """
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    )
    kept = rank < keep[:, None]
    return (kept if valid is None else kept & valid).to(scores.dtype)


def soft_top_k(scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute sigmoid(score + offset), the offset of a row such that its sum is ``keep``; the Jacobian is exact.

    Args:
        scores: (B, N).
        keep: (B,) what a row's probabilities sum to.
        valid: (B, N) real tokens; others get 0. None for all.

    Returns:
        (B, N) keep-probabilities, differentiable in the scores.
    """
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    return apply_function(_SoftTop, scores, keep.to(scores.dtype), valid)


class _SoftTop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: Tensor, valid: Tensor) -> Tensor:
        # Where the offset would be infinite (keep everything, keep nothing) it stops 40 away from the last score.
        low = -scores.masked_fill(~valid, -torch.inf).amax(1, keepdim=True) - 40
        high = -scores.masked_fill(~valid, torch.inf).amin(1, keepdim=True) + 40
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            over = (torch.sigmoid(scores + middle) * valid).sum(1, keepdim=True) > keep[:, None]
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        probability = torch.sigmoid(scores + (low + high) / 2) * valid
        ctx.save_for_backward(probability)
        return probability

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """dp_i/ds_j = v_i (1[i = j] - v_j / sum(v)) with v = p (1 - p): the second part is how the offset answers."""
        (probability,) = ctx.saved_tensors
        slope = probability * (1 - probability)
        total = slope.sum(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        mean = (slope * grads[0]).sum(1, keepdim=True) / total
        return slope * (grads[0] - mean), None, None


class Relaxation:
    """Base: a plain callable, without weights or state.

    Args:
        temperature: divides the scores of the soft part; higher spreads gradient over more tokens.
    """

    meets_budget: bool = False

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise UserError(f"relaxation.temperature is {temperature}; it must be above 0, for example 1.0.")
        self.temperature = temperature

    def __call__(self, scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def cooled(self, factor: float) -> Relaxation:
        """Copy it at `factor` times its temperature, for methods that anneal; below 1 the soft part nears the hard."""
        other = copy.copy(self)
        other.temperature = self.temperature * factor
        return other


class StraightThroughArgmax(Relaxation):
    """Keep where the keep-probability is above one half; gradient of the probability (LearnPruner, DynamicViT).

    Keeps as many tokens as it likes: needs a budget term.
    """

    meets_budget = False

    def __call__(self, scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
        soft = torch.sigmoid(scores / self.temperature)
        gate = straight_through((scores > 0).to(soft.dtype), soft)
        return gate if valid is None else gate * valid


class GumbelStraightThrough(Relaxation):
    """A sample from the keep-probability; gradient of the tempered sample (Jang et al., 2017; Dynamic-LLaVA).

    Keeps as many tokens as it likes: needs a budget term.
    """

    meets_budget = False

    def __call__(self, scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
        uniform = torch.rand_like(scores).clamp(1e-6, 1 - 1e-6)
        noisy = scores + torch.logit(uniform)  # the difference of two Gumbel variables is logistic
        soft = torch.sigmoid(noisy / self.temperature)
        gate = straight_through((noisy > 0).to(soft.dtype), soft)
        return gate if valid is None else gate * valid


class SoftTopK(Relaxation):
    """Keep the ``keep`` highest scores; gradient of sigmoid(score + offset) whose offset makes the row sum to ``keep``.

    Meets the budget exactly, in the forward pass and in the soft part: needs no budget term.
    """

    meets_budget = True

    def __call__(self, scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
        return straight_through(hard_top_k(scores, keep, valid), soft_top_k(scores / self.temperature, keep, valid))
