"""HAWK: what the question's words match in the LLM's first projections, heads weighted by their importance."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import TEXT_MASK, TEXT_QUERIES, TOKEN_KEYS, View
from learnpruner.utils.errors import UserError
from learnpruner.utils.project import find_checkpoint

_NORMS = ("l2", "minmax", "softmax")
_COMMAND = "`python eval.py plan=none benchmark=heads benchmark.out=FILE`"
_log = logging.getLogger(__name__)


class HAWK(ScorePruner):
    """Ranks tokens at the LLM's input by the mean match of the question's queries, in layer 0, without RoPE.

    A head's matches are normalised over the tokens, then added by the heads' weights, measured once for a backbone.
    Paper: https://arxiv.org/abs/2604.07812, original positions, for Qwen2.5-VL with 28 published weights, which are not
    repeated here. The authors' procedure for making weights is not public as code, ours is `learnpruner/evaluation/head_importance.py`: a
    head weighs what the right answers lose when the ranking goes on without it. On the embedded backbone this is
    another order than silencing a head in the model itself gives.

    Args:
        weights: one a head, or a file with them; None, or no such file, weighs all alike.
        norm: over the tokens, "l2", "minmax" or "softmax".
    """

    needs = frozenset({TEXT_QUERIES, TOKEN_KEYS, TEXT_MASK})

    def __init__(self, weights: Sequence[float] | str | None = None, norm: str = "l2") -> None:
        super().__init__()
        if norm not in _NORMS:
            raise UserError(f"norm={norm!r} is refused: choose one of {', '.join(_NORMS)}.")
        self.weights = (
            read_head_weights(weights) if isinstance(weights, str) else weights and [float(w) for w in weights]
        )
        self.norm = norm
        self.fallback = "" if self.weights else "no head weights were measured on this backbone, all heads count alike"

    def score(self, view: View) -> Tensor:
        heads = view[TEXT_QUERIES].shape[1]
        if self.weights is not None and len(self.weights) != heads:
            raise UserError(
                f"HAWK has weights for {len(self.weights)} heads and this language model has {heads}: measure them with "
                f"{_COMMAND}, or set weights=null to weigh all alike."
            )
        weights = torch.tensor(self.weights or [1 / heads] * heads, device=view[TEXT_QUERIES].device)
        return weigh_heads(
            query_key_match(view[TEXT_QUERIES], view[TOKEN_KEYS], view[TEXT_MASK]), weights, self.norm, view.valid
        )


def query_key_match(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Average the scaled dot products of a token's key with the question's queries.

    Args:
        queries: (B, H, T, d).
        keys: (B, H, N, d).
        mask: (B, T) which of the queries are real.

    Returns:
        (B, H, N).
    """
    words = mask.to(queries.device).float()[:, None, :, None]
    mean = (queries.float() * words).sum(2) / words.sum(2).clamp_min(1)  # (B, H, d)
    scaling: float = queries.shape[-1] ** -0.5
    return (keys.float() @ mean[..., None])[..., 0] * scaling


def weigh_heads(found: Tensor, weights: Tensor, norm: str, valid: Tensor | None = None) -> Tensor:
    """Add matches of the heads, normalised over the valid tokens, by weights.

    Args:
        found: (B, H, N) matches.
        weights: (H,).
        norm: "l2", "minmax", or "softmax".
        valid: (B, N) real tokens; None for all.

    Returns:
        (B, N).
    """
    real = torch.ones_like(found, dtype=torch.bool) if valid is None else valid[:, None].expand_as(found)
    if norm == "l2":
        found = found / found.masked_fill(~real, 0.0).norm(dim=-1, keepdim=True).clamp_min(1e-6)
    elif norm == "minmax":
        low = found.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
        high = found.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        found = (found - low) / (high - low).clamp_min(1e-6)
    else:
        found = found.masked_fill(~real, -torch.inf).softmax(-1)
    return (found * weights[:, None]).sum(1)


def read_head_weights(path: str) -> list[float] | None:
    """Read the weights in a file that `benchmark=heads` wrote; None, with a warning, where there is no such file."""
    file = find_checkpoint(path)
    if not file.exists():
        _log.warning("HAWK weighs all heads alike: there is no %s; %s measures them.", path, _COMMAND)
        return None
    try:
        return [float(weight) for weight in json.loads(file.read_text(encoding="utf-8"))["weights"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"weights={path!r} holds no head weights ({error}): write it anew with {_COMMAND}.") from None
