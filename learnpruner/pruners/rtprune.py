"""RTPrune: tokens that the question's words point at stay, and absorb the others by optimal transport."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, gather_tokens, top_k_selection
from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK, View


class RTPrune(Pruner):
    """Ranks projected tokens by their mean dot product with the question's embeddings; merges the dropped ones.

    Each kept token gains alpha x the dropped tokens that a transport plan sends to it: entropic, of cosine similarity,
    with a dustbin that takes what fits nowhere.
    Paper: https://arxiv.org/abs/2605.00392; this is the released code's rule for the score (the paper speaks of token
    norms first), made for DeepSeek-OCR, at the LLM's input, original positions. The released code keeps 75 % of the tokens
    (prune_ratio=0.75); the paper's share follows the tokens' similarity and the density of edges by a formula that is in
    neither its abstract nor the code, and there is no such option here: the plan's budget rules. Separators and the
    newline tokens behind rows never leave in our engine, so that none need protection; the authors also make one of
    newlines that come to stand side by side, here each stays.

    Args:
        alpha: how much of the transported tokens is added.
        dustbin: similarity of the dustbin; higher transports less.
        iterations: of Sinkhorn's algorithm.
    """

    needs = frozenset({TEXT_EMBEDS, TEXT_MASK})

    def __init__(self, alpha: float = 0.1, dustbin: float = 1.0, iterations: int = 100) -> None:
        super().__init__()
        self.alpha, self.dustbin, self.iterations = alpha, dustbin, iterations

    def forward(self, view: View, keep: Tensor) -> Selection:
        chosen = top_k_selection(
            text_relevance(view.tokens, view[TEXT_EMBEDS], view[TEXT_MASK], view.valid), keep, view.valid
        )
        n = view.tokens.shape[1]
        dropped = ~chosen.mask(n) if view.valid is None else ~chosen.mask(n) & view.valid
        if not bool(dropped.any()):
            return chosen
        return absorb_dropped(view.tokens, chosen, dropped, self.alpha, self.dustbin, self.iterations)


def text_relevance(tokens: Tensor, text: Tensor, mask: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average the dot products of tokens (B, N, D) with the words (B, T, D) under mask (B, T), min-max to [0, 1]: (B, N)."""
    words = mask.float()
    mean = (text.float() * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp_min(1)
    scores = (tokens.float() @ mean.to(tokens.device)[..., None])[..., 0]
    real = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def absorb_dropped(
    tokens: Tensor, chosen: Selection, dropped: Tensor, alpha: float, dustbin: float, iterations: int
) -> Selection:
    """Add to the chosen tokens alpha x what is transported to them of the dropped.

    Args:
        tokens: (B, N, D).
        chosen: K of them.
        dropped: (B, N) bool.
        alpha: how much is added.
        dustbin: similarity of the dustbin; higher transports less.
        iterations: of Sinkhorn.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    similarity = gather_tokens(unit, chosen.index) @ unit.transpose(1, 2)  # (B, K, N)
    kept = torch.ones_like(chosen.index, dtype=torch.bool) if chosen.valid is None else chosen.valid
    plan = dustbin_transport(similarity, kept, dropped, dustbin, iterations)
    own = F.one_hot(chosen.index, tokens.shape[1]).float() * kept[..., None]
    return Selection(chosen.index, chosen.valid, own + alpha * plan)


def dustbin_transport(similarity: Tensor, rows: Tensor, columns: Tensor, dustbin: float, iterations: int) -> Tensor:
    """Solve entropic optimal transport with a dustbin row and column, as in SuperGlue.

    The dustbin row can hold all columns and the dustbin column all rows. Cosines are small enough for Sinkhorn's scaling
    form, which is the log-domain form's iteration and faster.

    Args:
        similarity: (B, K, N).
        rows: (B, K) which of them take part, each with mass 1.
        columns: (B, N) likewise.
        dustbin: similarity of the dustbin; higher transports less.
        iterations: of Sinkhorn.

    Returns:
        The plan without dustbins, (B, K, N).
    """
    kernel = F.pad(similarity.float(), (0, 1, 0, 1), value=dustbin).exp()
    left, right = rows.float(), columns.float()
    left, right = _with_dustbin(left, right), _with_dustbin(right, left)
    u, v = torch.zeros_like(left), torch.ones_like(right)
    for _ in range(iterations):
        u = left / (kernel @ v[..., None])[..., 0]
        v = right / (u[:, None] @ kernel)[:, 0]
    return (u[..., None] * kernel * v[:, None])[:, :-1, :-1]


def _with_dustbin(mass: Tensor, other: Tensor) -> Tensor:
    """Mass (B, K), and for the dustbin as much as the other side (B, N) weighs: (B, K + 1)."""
    return torch.cat([mass, other.sum(1, keepdim=True)], 1)
