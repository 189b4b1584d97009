"""SparseVLM: attention of the question words that care about the image, and dropped tokens recycled into clusters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import ENTERED_EMBEDS, ENTERED_MASK, TEXT_EMBEDS, TEXT_MASK, TEXT_ROWS, View
from learnpruner.utils.errors import UserError

_Parts = tuple[int, int, int]  # tokens kept, tokens recycled, clusters made of these


class SparseVLM(Pruner):
    """Ranks visual tokens by the rater words' attention in the layer before the cut; clusters the best of the rest.

    Raters are words of the question that hold a larger share of the image's tokens, by embedding, than the average.
    Paper: https://arxiv.org/abs/2410.04417. Defaults are the code's v1.5: cuts after layers 2, 6 and 15 of 32, on
    renumbered positions. Clusters follow the kept tokens in the sequence, and count in the budget.

    Differs from the authors' code: kept tokens and clusters together meet the plan's budget (the published lists state
    kept tokens alone), clusters are half of it at most; their densities carry no random noise, equal ones go to the
    lower index; a question without raters is all raters; prompts of a batch are treated one by one. v2 (SparseVLM+) is
    recycle=0, head_share=14/32, original positions and other lists (in the config), less one thing that is not built: it
    divides attention by what RoPE alone would give vectors of ones, against the decay with distance. What is known of that
    rule says neither how the divisor is normalised nor what happens where it is near or below zero.

    Args:
        recycle: share of the dropped tokens that is clustered; 0 drops all.
        size: recycled tokens a cluster. head_share: share of heads that count, those that see most of the image.
        rank_scale, rank_bias: where set, as in v1.0, a stage keeps rank x rank_scale + rank_bias tokens by the rank of
            the raters' attention, whatever the budget.
    """

    needs = frozenset({TEXT_ROWS, TEXT_EMBEDS, TEXT_MASK, ENTERED_EMBEDS, ENTERED_MASK})

    def __init__(
        self,
        recycle: float = 0.3,
        size: int = 10,
        head_share: float = 1.0,
        rank_scale: float | None = None,
        rank_bias: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= recycle <= 1 or not 0 < head_share <= 1 or size < 1:
            raise UserError(
                f"recycle={recycle}, head_share={head_share}, size={size} is refused: recycle lies in [0, 1], "
                "head_share in (0, 1], and a cluster takes one token at least."
            )
        self.recycle, self.size, self.head_share = recycle, size, head_share
        self.rank_scale, self.rank_bias = rank_scale, rank_bias
        self.adaptive = rank_scale is not None

    def forward(self, view: View, keep: Tensor) -> Selection:
        asked = rater_words(view[ENTERED_EMBEDS], view[ENTERED_MASK], view[TEXT_EMBEDS], view[TEXT_MASK])
        block = mean_of_attentive_heads(view[TEXT_ROWS], asked, self.head_share)
        scores = rater_scores(block, asked)
        valid = torch.ones_like(scores, dtype=torch.bool) if view.valid is None else view.valid
        sizes = valid.sum(1).tolist()
        if self.rank_scale is None:
            parts = [budgeted_parts(k, n, self.recycle, self.size) for k, n in zip(keep.tolist(), sizes, strict=True)]
        else:
            counts = [
                rank_count(block[b, asked[b]][:, valid[b]], self.rank_scale, self.rank_bias) for b in range(len(sizes))
            ]
            parts = [published_parts(k, n, self.recycle, self.size) for k, n in zip(counts, sizes, strict=True)]
        if not any(clusters for _, _, clusters in parts):
            return top_k_selection(scores, torch.tensor([k for k, _, _ in parts]), view.valid)
        return add_clusters(view.tokens, scores, valid, parts)


def rater_words(visual: Tensor, visual_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
    """Find which words look at the image.

    A word's share is the mean over visual tokens of the softmax over words of their dot products; raters' is above
    the average word's.

    Args:
        visual: (B, M, D) embeddings of the visual tokens.
        visual_mask: (B, M) which of them are real.
        text: (B, T, D) embeddings of the words.
        text_mask: (B, T) which of them are real.

    Returns:
        (B, T) bool.
    """
    visual, text, mask = visual.float(), text.float(), text_mask.to(text.device)
    logits = (visual @ text.transpose(1, 2)).masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    weight = visual_mask.to(text.device).float()[..., None]
    share = (logits.softmax(-1) * weight).sum(1) / weight.sum(1).clamp_min(1)  # (B, T)
    mean = (share * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
    found = (share > mean) & mask
    return torch.where(found.any(1, keepdim=True), found, mask)


def mean_of_attentive_heads(rows: Tensor, asked: Tensor, share: float = 1.0) -> Tensor:
    """Average the heads whose raters see most of the image: rows (B, H, T, N), asked (B, T) -> (B, T, N).

    Args:
        rows: attention of the words.
        asked: which of them are raters.
        share: of the heads; 1 takes all.
    """
    rows, count = rows.float(), max(1, round(share * rows.shape[1]))
    if count == rows.shape[1]:
        return rows.mean(1)
    total = (rows * asked.to(rows.device)[:, None, :, None]).sum((2, 3))  # (B, H)
    best = total.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    return rows.gather(1, best[..., None, None].expand(-1, -1, *rows.shape[2:])).mean(1)


def rater_scores(block: Tensor, asked: Tensor) -> Tensor:
    """Average over the raters asked (B, T) of block (B, T, N): (B, N)."""
    weight = asked.to(block.device).float()
    return (block * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp_min(1)


def rank_count(block: Tensor, scale: float, bias: float) -> int:
    """Count as v1.0 does how many tokens the rank of the raters' attention (R, N) calls for; all where the rank is N."""
    n = block.shape[1]
    rank = int(torch.linalg.matrix_rank(block)) if block.numel() else 0
    return n if rank == n else max(1, min(int(rank * scale + bias), n - 1))


def published_parts(kept: int, n: int, share: float, size: int) -> _Parts:
    """Divide by the authors' rule: of the dropped, int(share x dropped) + 1 are recycled, a cluster for each `size` of them."""
    dropped = n - kept
    recycled = min(int(share * dropped) + 1, dropped) if share else 0
    return kept, recycled, min(int(recycled / size) + 1, recycled)


def budgeted_parts(total: int, n: int, share: float, size: int) -> _Parts:
    """Find the most kept tokens that leave room for their clusters in `total` of n tokens; clusters are half at most."""
    total = min(total, n)
    for kept in range(total, 0, -1):
        _, recycled, clusters = published_parts(kept, n, share, size)
        if kept + min(clusters, total // 2) <= total:
            return (kept, recycled, total - kept) if kept < total else (kept, 0, 0)
    return 0, 0, 0


def add_clusters(tokens: Tensor, scores: Tensor, valid: Tensor, parts: list[_Parts]) -> Selection:
    """Keep tokens in reading order, then clusters.

    A cluster needs a slot in the sequence: those of the last dropped tokens, so that most kept tokens stay where they
    are and, on renumbered positions, the sequence is the authors'.

    Args:
        tokens: (B, N, D).
        scores: (B, N), higher stays.
        valid: (B, N) real tokens.
        parts: of each row, how many are kept, recycled and clusters.
    """
    batch, n = scores.shape
    most = max(kept + clusters for kept, _, clusters in parts)
    index = torch.full((batch, most), n - 1, device=scores.device)
    real = torch.zeros(batch, most, dtype=torch.bool, device=scores.device)
    merge = torch.zeros(batch, most, n, device=scores.device)
    for b, part in enumerate(parts):
        places = valid[b].nonzero()[:, 0]
        slots, weights = _row(tokens[b, places], scores[b, places], part)
        count = len(slots)
        index[b, :count], real[b, :count] = places[slots], True
        merge[b, :count, places] = weights
    even = all(sum(part[::2]) == most for part in parts)
    return Selection(index, None if even else real, merge)


def _row(tokens: Tensor, scores: Tensor, part: _Parts) -> tuple[Tensor, Tensor]:
    """Slots (K,) and weights (K, n) of one prompt's tokens (n, D)."""
    kept, recycled, clusters = part
    order = scores.float().nan_to_num(nan=-torch.inf).sort(descending=True, stable=True).indices
    stay, again = order[:kept].sort().values, order[kept : kept + recycled]
    eye = torch.eye(len(scores), device=scores.device)
    if not clusters:
        return stay, eye[stay]
    member = F.one_hot(dpc_knn(tokens[again], clusters), clusters).float()  # (M, C)
    free = order[kept:].sort().values[-clusters:]
    weights = (member / member.sum(0)).T @ eye[again]
    return torch.cat([stay, free]).sort().values, torch.cat([eye[stay], weights])


def dpc_knn(tokens: Tensor, count: int, noise: Tensor | None = None) -> Tensor:
    """Cluster tokens by DPC-kNN; centres are in order of their score.

    Dense tokens far from denser ones are centres: density is exp(-mean squared distance to the `count` nearest, itself
    included), distances are L2 over sqrt(D).

    Args:
        tokens: (M, D).
        count: clusters.
        noise: (M,) added to densities, as the authors do against ties.

    Returns:
        (M,) the cluster of each token.
    """
    x = tokens.float()
    distance: Tensor = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-(distance.sort(dim=1).values[:, :count] ** 2).mean(1)).exp()
    density = density if noise is None else density + noise
    number = torch.arange(len(x), device=x.device)
    denser = (density > density[:, None]) | ((density == density[:, None]) & (number < number[:, None]))
    apart = torch.where(denser, distance, torch.inf).amin(1)
    apart = torch.where(apart.isinf(), distance.max(), apart)
    centres = (density * apart).sort(descending=True, stable=True).indices[:count]
    nearest = distance[:, centres].argmin(1)
    return nearest.scatter(0, centres, number[:count])
