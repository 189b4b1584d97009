"""EvoComp: a transformer over image and question, taught which tokens to keep by an evolutionary search."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.core.learned_scorer import LearnedScorer
from learnpruner.core.pruner import MaskedAnswerLoss
from learnpruner.core.relaxations import hard_top_k
from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK, View
from learnpruner.utils.errors import UserError

_HEADS, _LEAST, _MOST = 8, 64, 256  # heads; bounds of the scorer's width
_BINS = 10  # of GHM-C


class EvoComp(LearnedScorer):
    """Reconstruction. Scores projected tokens by one bidirectional transformer layer over [visual; question], in fp32.

    In training, for `searches` questions a step, a genetic algorithm looks for the kept sets on which the frozen model's
    answers cost least; the scorer learns from these by GHM-C, and by a term that pulls kept and dropped tokens apart.
    Paper: https://arxiv.org/abs/2604.17087, of which no code is public. From it: the scorer's shape at the LLM's input, the
    search over kept sets with at most one token a group of equal nearest word, its constants, both losses. Ours: candidates
    as random keys, decoded to any budget (a group gives a second token when there are fewer groups than tokens to keep);
    parents survive; labels are the share of the last parents that keep a token, not the best set alone; labels are made on
    the fly, for few questions; the form and the weight of the second loss; sinusoidal positions, widths and pre-norm.

    Args:
        width: D of the tokens; None waits for the backbone.
        searches: questions a step.
        population, parents, generations, crossover, mutation: of the search, with population + generations x
            (population - parents) forwards a question; crossover is the share of children with two parents, mutation
            the share of keys drawn anew.
        apart: weight of the second loss, higher trusts the labels less.
    """

    needs = frozenset({TEXT_EMBEDS, TEXT_MASK})
    reconstruction = True

    def __init__(
        self,
        width: int | None = None,
        searches: int = 1,
        population: int = 48,
        parents: int = 12,
        generations: int = 10,
        crossover: float = 0.9,
        mutation: float = 0.2,
        apart: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 < parents < population or searches < 1 or generations < 0:
            raise UserError(
                f"searches={searches}, population={population}, parents={parents}, generations={generations} is refused: "
                "one search or more, fewer parents than population, no generation or more."
            )
        self.searches, self.population, self.parents = searches, population, parents
        self.generations, self.crossover, self.mutation, self.apart = generations, crossover, mutation, apart
        self.enter, self.block, self.leave = nn.Sequential(), nn.ModuleList(), nn.Sequential()
        self.settle(width)

    def build(self, width: int) -> None:
        h = max(_LEAST, min(_MOST, width // _HEADS * _HEADS))
        self.kind = nn.Parameter(0.02 * torch.randn(2, h))  # visual, text
        self.enter.extend([nn.LayerNorm(width), nn.Linear(width, h)])
        self.block.append(nn.TransformerEncoderLayer(h, _HEADS, 4 * h, 0.0, "gelu", batch_first=True, norm_first=True))
        self.leave.extend([nn.LayerNorm(h), nn.Linear(h, 1)])

    def score(self, view: View) -> Tensor:
        """Compute each token's logit of being kept: (B, N) fp32."""
        n, words = view.tokens.shape[1], view[TEXT_EMBEDS]
        if words.shape[-1] != self.width:
            raise UserError(
                f"EvoComp reads tokens and words of one width, not {self.width} and {words.shape[-1]}: at: 0."
            )
        visual = torch.ones_like(view.tokens[..., 0], dtype=torch.bool) if view.valid is None else view.valid
        with torch.autocast(view.tokens.device.type, enabled=False):
            image, text = self.enter(view.tokens.float()), self.enter(words.float())
            image = image + sinusoidal_positions(image) + self.kind[0]
            text = text + sinusoidal_positions(text).flip(0) + self.kind[1]  # counted from its end: fillers come first
            absent = ~torch.cat([visual, view[TEXT_MASK]], 1)
            padding = absent if bool(absent.any()) else None  # a mask that masks nothing costs half as much again
            x = self.block[0](torch.cat([image, text], 1), src_key_padding_mask=padding)
            logits: Tensor = self.leave(x[:, :n])[..., 0]
        return logits

    def search_loss(self, view: View, keep: Tensor, cost: MaskedAnswerLoss, words: Tensor) -> Mapping[str, Tensor]:
        device, tokens = view.tokens.device, view.tokens.float()
        exact = functools.partial(
            torch.autocast, device.type, enabled=False
        )  # the model's own passes may be in 16 bits
        with exact():
            groups = nearest_words(tokens, words)
        labels = self._search(groups, keep.to(device), cost, view.valid).float().mean(1)
        logits = self.score(view)
        with exact():
            separation = self.apart * kept_dropped_similarity(tokens, logits.sigmoid(), view.valid)
            return {"ghm": ghm_c_loss(logits, labels, view.valid), "apart": separation}

    @torch.no_grad()
    def _search(self, groups: Tensor, keep: Tensor, cost: MaskedAnswerLoss, valid: Tensor | None) -> Tensor:
        """The kept sets of the last parents: (B, parents, N) bool."""
        keys = torch.rand(len(groups), self.population, groups.shape[1], device=groups.device)
        sets = decode_keys(keys, groups, keep, valid)
        costs = cost(sets)
        for _ in range(self.generations):
            keys, sets, costs = fittest_members(self.parents, costs, keys, sets)
            young = breed_children(keys, self.population - self.parents, self.crossover, self.mutation)
            born = decode_keys(young, groups, keep, valid)
            keys, sets, costs = (
                torch.cat([keys, young], 1),
                torch.cat([sets, born], 1),
                torch.cat([costs, cost(born)], 1),
            )
        return fittest_members(self.parents, costs, keys, sets)[1]


def sinusoidal_positions(x: Tensor) -> Tensor:
    """Make sinusoidal positions for x (B, L, h): (L, h)."""
    length, width = x.shape[1:]
    speed = 10_000 ** -torch.linspace(0, 1, width // 2, device=x.device)
    angle = torch.arange(length, device=x.device)[:, None] * speed
    return torch.cat([angle.sin(), angle.cos()], 1)


def nearest_words(tokens: Tensor, words: Tensor) -> Tensor:
    """Find the word of largest cosine similarity to each token: tokens (B, N, D), words (V, D) -> (B, N) int64."""
    similarity = F.normalize(tokens.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T
    return similarity.argmax(-1)


def decode_keys(keys: Tensor, groups: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
    """Turn keys into kept sets: the best token of every group by key, then every second best, and so on.

    Args:
        keys: (B, P, N) in [0, 1), higher stays.
        groups: (B, N) the group of each token.
        keep: (B,) tokens to keep.
        valid: (B, N) real tokens; None for all.

    Returns:
        (B, P, N) bool, min(keep, valid tokens) tokens each.
    """
    b, p, n = keys.shape
    keys, groups = keys.flatten(0, 1), groups.repeat_interleave(p, 0)
    real = None if valid is None else valid.repeat_interleave(p, 0)
    if real is not None:
        keys = keys.masked_fill(~real, -1.0)
    by_key = keys.argsort(dim=1, descending=True, stable=True)
    order = by_key.gather(1, groups.gather(1, by_key).argsort(dim=1, stable=True))  # by group, then by key
    ranked = groups.gather(1, order)
    place = torch.arange(n, device=keys.device).expand_as(order)
    starts = F.pad(ranked[:, 1:] != ranked[:, :-1], (1, 0))
    rank = torch.empty_like(order).scatter_(1, order, place - (place * starts).cummax(1).values)
    return hard_top_k(keys - rank, keep.repeat_interleave(p), real).view(b, p, n) > 0


def fittest_members(count: int, costs: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Pick the `count` of least cost (B, P): their entries in others (B, P, ...), and their costs."""
    best = costs.argsort(dim=1, stable=True)[:, :count]
    rows = torch.arange(len(costs), device=costs.device)[:, None]
    return (*(other[rows, best] for other in others), costs[rows, best])


def breed_children(keys: Tensor, count: int, crossover: float, mutation: float) -> Tensor:
    """Breed children of the parents' keys; each key comes from one of two parents, or is new.

    Args:
        keys: (B, P, N) of the parents.
        count: children to breed.
        crossover: share of the children that have two parents.
        mutation: share of the keys that are new.

    Returns:
        (B, count, N).
    """
    b, p, _ = keys.shape
    rows = torch.arange(b, device=keys.device)[:, None]
    one, other = (keys[rows, torch.randint(p, (b, count), device=keys.device)] for _ in range(2))
    crossed = torch.rand(b, count, 1, device=keys.device) < crossover
    child = torch.where(crossed & (torch.rand_like(one) < 0.5), other, one)
    return torch.where(torch.rand_like(child) < mutation, torch.rand_like(child), child)


def ghm_c_loss(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute a BCE whose terms weigh such that every filled bin of g = |p - label| counts alike.

    Li et al., 2019, https://arxiv.org/abs/1811.05181.

    Args:
        logits: (B, N).
        labels: (B, N), 0 or 1.
        valid: (B, N) real tokens; None for all.
    """
    if valid is not None:
        logits, labels = logits[valid], labels[valid]
    distance = (logits.detach().sigmoid() - labels).abs().flatten()
    bins = (distance * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.bincount(bins, minlength=_BINS)
    weight = 1 / (counts[bins] * (counts > 0).sum())
    return (weight * F.binary_cross_entropy_with_logits(logits, labels, reduction="none").flatten()).sum()


def kept_dropped_similarity(tokens: Tensor, probability: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the cosine similarity of what is kept and what is dropped, by weighted means.

    Args:
        tokens: (B, N, D).
        probability: (B, N) of being kept.
        valid: (B, N) real tokens; None for all.

    Returns:
        The batch's mean, a scalar.
    """
    kept, dropped = probability, 1 - probability
    if valid is not None:
        kept, dropped = kept * valid, dropped * valid
    both = torch.einsum("kbn,bnd->kbd", torch.stack([kept, dropped]), F.normalize(tokens, dim=-1))
    return F.cosine_similarity(both[0], both[1]).mean()
