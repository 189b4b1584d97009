"""Entropic optimal transport between two weighted sets of tokens, by Sinkhorn iterations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SINKHORN_EPS, SINKHORN_STEPS, SINKHORN_STOP = 0.1, 100, 1e-2  # of Sinkhorn's iterations
_TINY = 1e-20


def sinkhorn(
    cost: Tensor, a: Tensor, b: Tensor, eps: float = SINKHORN_EPS, steps: int = SINKHORN_STEPS, stop: float = SINKHORN_STOP,
    together: bool = False, in_logs: bool = False,
) -> Tensor:  # fmt: skip
    """Solve entropic optimal transport by Sinkhorn's iteration; entries of weight 0 take no part.

    Args:
        cost: (B, M, N).
        a: (B, M) marginals of the rows.
        b: (B, N) marginals of the columns.
        eps: weight of the entropy; higher spreads the plan.
        steps: iterations at most.
        stop: change of u, on the mean of its entries, below which they end.
        together: end on the mean over the batch, for all at once.
        in_logs: measure the change of eps log u instead.

    Returns:
        The plan, (B, M, N).
    """
    kernel = (-cost / eps).exp()
    u, v = (a > 0).to(cost), (b > 0).to(cost)
    entries, running = (a > 0).sum(1).clamp_min(1), torch.ones_like(a[:, :1], dtype=torch.bool)
    for _ in range(steps):
        old = u
        u = torch.where(running, a / ((kernel @ v[..., None])[..., 0] + _TINY), u)
        v = torch.where(running, b / ((u[:, None] @ kernel)[:, 0] + _TINY), v)
        change = eps * ((u + _TINY).log() - (old + _TINY).log()) if in_logs else u - old
        change = change.abs().sum(1) / entries
        running = running & ((change.mean() if together else change[:, None]) >= stop)
        if not bool(running.any()):
            break
    return u[..., None] * kernel * v[:, None]


def cosine_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Compute the cosines of x (B, M, D) with y (B, N, D): (B, M, N)."""
    return F.normalize(x.float(), dim=-1) @ F.normalize(y.float(), dim=-1).transpose(1, 2)
