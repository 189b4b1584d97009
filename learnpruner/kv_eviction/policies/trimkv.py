"""Learned retention: a gate says, when a token is written, how fast each head will forget it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.kv_eviction.policy import CacheSlots, ScoreEvictionPolicy
from learnpruner.utils.errors import UserError
from learnpruner.utils.validation import check_int

_OPEN_BIAS = 10.0  # output bias: a new gate forgets next to nothing, log sigmoid(10) = -4.5e-5 a token
DECAY_FORMS = ("logits", "weights")


class TrimKV(ScoreEvictionPolicy):
    """TRIM-KV: each token is written with a retention for each head, and what has decayed the furthest is evicted.

    Paper: https://arxiv.org/abs/2512.03324. The retention beta in (0, 1) decays to beta ** age; slots of the lowest
    age * log beta are evicted.

    Args:
        width: of the gates' hidden layer.
        pool: "head" for one budget a head, "cache" for one over the whole cache.
        shared: all layers and heads end in one projection, which makes their scores comparable; False gives each its
            own.
        form: how training applies the decay, see `retention_attention`. Differs from the authors' code: the gate's
            hidden layer is a GELU (theirs is not published in the paper's text), and ties go to the older slot.
    """

    def __init__(self, width: int = 512, pool: str = "head", shared: bool = False, form: str = "logits") -> None:
        super().__init__()
        check_int("width", width, 1)
        if pool not in ("head", "cache"):
            raise UserError(f"pool={pool!r} is refused: choose 'head' or 'cache'.")
        if form not in DECAY_FORMS:
            raise UserError(f"form={form!r} is refused: choose 'logits' or 'weights'.")
        self.width, self.pool, self.shared, self.form = width, pool, shared, form
        self.sizes: tuple[int, int, int] | None = None
        self.hidden, self.out = nn.ModuleList(), nn.ModuleList()

    def prepare(self, width: int, layers: int, heads: int) -> None:
        if self.sizes is None:
            self._build(width, layers, heads)
        if self.sizes != (width, layers, heads):
            raise UserError(
                f"These gates were trained for a language model of width, layers and heads {self.sizes}; this one has "
                f"{(width, layers, heads)}: train gates for it."
            )

    def _build(self, width: int, layers: int, heads: int) -> None:
        if self.shared and self.width % heads:
            raise UserError(f"width={self.width} is refused: a shared projection needs a multiple of {heads} heads.")
        features, outputs, count = (self.width // heads, 1, 1) if self.shared else (self.width, heads, layers)
        self.hidden.extend(nn.Linear(width, self.width) for _ in range(layers))
        self.out.extend(nn.Linear(features, outputs) for _ in range(count))
        for out in self.out:
            nn.init.constant_(out.bias, _OPEN_BIAS)  # type: ignore[arg-type]
        self.sizes = (width, layers, heads)

    def mark(self, layer: int, hidden: Tensor) -> Tensor:
        """Compute log beta of new tokens: (B, q, D) -> (B, G, q) fp32, at most 0."""
        with torch.autocast(hidden.device.type, enabled=False):
            features = F.gelu(self.hidden[layer](hidden.float()))
            if self.shared:
                assert self.sizes is not None
                gate = self.out[0](features.unflatten(-1, (self.sizes[2], -1))).squeeze(-1)
            else:
                gate = self.out[layer](features)
            return F.logsigmoid(gate).transpose(1, 2)

    def score(self, slots: CacheSlots) -> Tensor:
        assert slots.mark is not None
        return log_retained(slots.mark, slots.age)


class MakeEachTokenCount(TrimKV):
    """Make Each Token Count: retention gates with a shared final projection, and one budget for the whole cache.

    Paper: https://arxiv.org/abs/2605.09649. The projection calibrates scores across layers, heads and modalities.
    Reconstruction: of the paper the abstract alone was at hand.

    Ours: each head has width / heads features of its own and all layers and heads share the one vector that turns them
    into a gate; the decay, the training and the rest are TRIM-KV's. Parameters as `TrimKV`.
    """

    reconstruction = True

    def __init__(self, width: int = 512, form: str = "logits") -> None:
        super().__init__(width, pool="cache", shared=True, form=form)


def log_retained(log_beta: Tensor, age: Tensor) -> Tensor:
    """Compute the log of what is left of a token after `age` tokens."""
    return log_beta.float() * age


def log_decay_matrix(log_beta: Tensor, rows: int | None = None) -> Tensor:
    """Compute the log of what query i has left of key j, (i - j) log beta_j; 0 where j > i.

    For the last `rows` queries (None for all): (B, G, L) -> (B, G, rows, L).
    """
    order = torch.arange(log_beta.shape[-1], device=log_beta.device)
    return log_retained(log_beta[:, :, None], (order[-rows if rows else None :, None] - order).clamp_min(0))


def future_mask(log_decay: Tensor) -> Tensor:
    """Mark which keys lie behind their query: (rows, L) bool; the rows are the last of L."""
    rows, length = log_decay.shape[-2:]
    return torch.ones(rows, length, dtype=torch.bool, device=log_decay.device).triu(length - rows + 1)


def retention_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, scaling: float, form: str = "logits"
) -> tuple[Tensor, Tensor]:
    """Attend causally from the last q of L tokens to keys that fade.

    Args:
        query: (B, H, q, d).
        key: (B, G, L, d).
        value: (B, G, L, d).
        log_decay: (B, G, q, L).
        scaling: of the logits.
        form: "logits" multiplies logits by beta ** (i - j), the paper's equation and what the authors' code computes; a
            token that has faded has logit 0. "weights" adds log decay to the logits, so that attention weights are
            multiplied by it and a faded token is gone, as it is after eviction.

    Returns:
        Output (B, q, H, d), in the order of Hugging Face's attention functions, and weights (B, H, q, L) in fp32.
    """
    groups, later = query.shape[1] // key.shape[1], future_mask(log_decay)
    key, value, log_decay = (x.repeat_interleave(groups, 1) for x in (key, value, log_decay))
    logits = (query @ key.transpose(-1, -2)).float() * scaling
    logits = logits * log_decay.exp() if form == "logits" else logits + log_decay
    weights = logits.masked_fill(later, -torch.inf).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2), weights


def capacity_excess(log_decays: list[Tensor], capacity: int, pool: str = "head") -> Tensor:
    """Measure what the tokens retained exceed the capacity by, as a share of what keeping all would: from 0 to 1.

    The paper penalises the same excess; the scale is ours.

    Args:
        log_decays: (B, G, q, L) a layer. Tokens retained for query i are the sum of beta_j ** (i - j) over j <= i.
        capacity: tokens of a layer and head that cost nothing.
        pool: "head" counts each layer and head, "cache" their mean.
    """
    later, (rows, length) = future_mask(log_decays[0]), log_decays[0].shape[-2:]
    held = torch.stack([one.exp().masked_fill(later, 0).sum(-1) for one in log_decays])  # (layers, B, G, q)
    if pool == "cache":
        held = held.mean((0, 2), keepdim=True)
    most = torch.arange(length - rows + 1, length + 1, device=held.device) - capacity
    return (held - capacity).clamp_min(0).mean((0, 1, 2)).sum() / most.clamp_min(0).sum().clamp_min(1)
