"""What a pruning method decides: which visual tokens stay, optionally merged how, optionally with a gate to learn from.

Letters of the whole package: B batch (or images), N visual tokens, K kept, L sequence, D width, H heads, T text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Gather along dim 1: x (B, N, ...), index (B, K) -> (B, K, ...); a batch of one in x serves every row of index."""
    if x.shape[0] == 1 and index.shape[0] > 1:
        x = x.expand(index.shape[0], *x.shape[1:])
    shaped = index.reshape(*index.shape, *[1] * (x.dim() - 2))
    return x.gather(1, shaped.expand(*index.shape, *x.shape[2:]))


@dataclass(frozen=True)
class Selection:
    """A decision that applies itself.

    Args:
        index: (B, K) the kept tokens, in the order in which the LLM reads them.
        valid: (B, K) False marks fillers, where rows keep different counts; None means that every entry counts.
        merge: (B, K, N) weight rows where kept tokens absorb others; the result takes the slot of `index`.
        gate: (B, N) in [0, 1], differentiable. It never changes the values of a forward pass, it only carries gradient.
        values: (B, K, D) what the kept tokens become, where no weight rows say it (scaled or noised in training);
            differentiable, and in place of `merge`.
        losses: name -> scalar, what the method adds to the training loss, weighted already.
        unscored: scalar bool, whether the score of a token that it could keep was no number, so that the choice says
            nothing; None where no scores were compared.
    """

    index: Tensor
    valid: Tensor | None = None
    merge: Tensor | None = None
    gate: Tensor | None = None
    values: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    unscored: Tensor | None = None

    @property
    def changes(self) -> bool:
        """Whether kept tokens differ from those whose places they take."""
        return self.merge is not None or self.values is not None

    def mask(self, n: int) -> Tensor:
        """Mark which of the n candidates are kept: (B, n) bool."""
        ones = torch.ones_like(self.index) if self.valid is None else self.valid.to(self.index.dtype)
        return self.index.new_zeros(self.index.shape[0], n).scatter_add(1, self.index, ones) > 0

    def apply(self, tokens: Tensor) -> Tensor:
        """Make the kept tokens, as they go on, of all of them: (B, N, D) -> (B, K, D)."""
        if self.values is not None:
            return self.values.to(tokens.dtype)
        if self.merge is None:
            return gather_tokens(tokens, self.index)
        return (self.merge.float() @ tokens.float()).to(tokens.dtype)

    def among(self, places: Tensor, n: int) -> Selection:
        """Restate the decision for more candidates: its own lie at places (B, N) among n."""
        rows, merge, gate = len(places), self.merge, self.gate
        if merge is not None:
            merge = merge.new_zeros(*merge.shape[:2], n).scatter(2, places[:, None].expand_as(merge), merge)
        if gate is not None:
            gate = gate.new_zeros(rows, n).scatter(1, places, gate)
        return replace(self, index=places.gather(1, self.index), merge=merge, gate=gate)


def top_k_selection(scores: Tensor, keep: Tensor, valid: Tensor | None = None) -> Selection:
    """Keep the best of each row, in reading order.

    Compared in fp32; ties go to the lower index; NaN and invalid tokens come last. Rows that keep fewer than the
    batch's largest count end in fillers.

    Args:
        scores: (B, N), higher stays.
        keep: (B,) int64, tokens to keep; on the CPU by convention, so that nothing waits for a device.
        valid: (B, N) real tokens; others are never kept. None for all.
    """
    n, k = scores.shape[1], int(keep.max()) if keep.numel() else 0
    even = valid is None and bool((keep == k).all())
    unscored = (scores.isnan() if valid is None else scores.isnan() & valid).any()
    scores = scores.float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    if even:
        return Selection(best.sort(dim=1).values, unscored=unscored)
    keep = keep.to(scores.device)[:, None]
    if valid is not None:
        keep = keep.minimum(valid.sum(1, keepdim=True))
    within = torch.arange(best.shape[1], device=scores.device) < keep
    index = best.masked_fill(~within, n).sort(dim=1).values  # fillers (n) move to the end
    kept = index < n
    return Selection(index.clamp(max=n - 1), kept, unscored=unscored)


def from_order(order: Tensor, keep: Tensor, n: int, valid: Tensor | None = None) -> Selection:
    """Keep the tokens that were chosen first.

    Args:
        order: (B, K) tokens in the order in which they were chosen; what comes twice counts once.
        keep: (B,) int64, how many of them to keep.
        n: N, candidates.
        valid: (B, N) real tokens; others are never kept. None for all.
    """
    turn = torch.arange(order.shape[1], 0, -1, dtype=torch.float, device=order.device).expand_as(order)
    return top_k_selection(turn.new_zeros(order.shape[0], n).scatter_reduce(1, order, turn, "amax"), keep, valid)


def merge_rows(parts: Sequence[tuple[Tensor, Selection]], tokens: Tensor) -> Selection:
    """Join selections of some rows each to one of all rows.

    Args:
        parts: row numbers (G,) and what these rows keep. Rows that keep fewer than the others end in fillers, rows of
            no part keep nothing. A loss is the mean of its rows: it counts by their number.
        tokens: (B, N, D) of all rows, among whose N tokens all of them chose.
    """
    n, most = tokens.shape[1], max((chosen.index.shape[1] for _, chosen in parts), default=0)
    index = torch.full((len(tokens), most), n - 1, device=tokens.device)
    valid = torch.zeros_like(index, dtype=torch.bool)
    merge = tokens.new_zeros(*index.shape, n, dtype=torch.float32)
    values = tokens.new_zeros(*index.shape, tokens.shape[2])
    gate = tokens.new_zeros(len(tokens), n, dtype=torch.float32)
    losses: dict[str, Tensor] = {}
    gated = any(chosen.gate is not None for _, chosen in parts)
    valued = any(chosen.values is not None for _, chosen in parts)
    merged = any(chosen.merge is not None for _, chosen in parts) and not valued
    for rows, chosen in parts:
        kept = chosen.index.shape[1]
        index[rows, :kept], valid[rows, :kept] = chosen.index, True if chosen.valid is None else chosen.valid
        if gated:
            gate[rows] = chosen.mask(n).float() if chosen.gate is None else chosen.gate.float()
        if valued:
            values[rows, :kept] = chosen.apply(tokens[rows])
        elif merged:
            own = torch.nn.functional.one_hot(chosen.index, n).float()
            merge[rows, :kept] = own if chosen.merge is None else chosen.merge.float()
        for name, loss in chosen.losses.items():
            losses[name] = losses.get(name, 0.0) + loss * (len(rows) / len(tokens))
    flags = [chosen.unscored for _, chosen in parts if chosen.unscored is not None]
    return Selection(
        index,
        valid,
        merge if merged else None,
        gate if gated else None,
        values if valued else None,
        losses,
        torch.stack(flags).any() if flags else None,
    )


def from_gate(gate: Tensor) -> Selection:
    """Keep what a differentiable gate (B, N) leaves open; no count is read, so nothing waits for the device."""
    index = torch.arange(gate.shape[1], device=gate.device).expand(gate.shape)
    return Selection(index, gate.detach() > 0.5, gate=gate)
