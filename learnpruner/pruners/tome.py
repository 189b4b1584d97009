"""ToMe after the encoder: tokens merge in pairs of the most similar until few enough are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection, gather_tokens
from learnpruner.core.signals import VISION_KEYS, View


class ToMe(RowwisePruner):
    """Bipartite soft matching on the keys of the layer that the projector reads, head mean; merged tokens are averages.

    Paper: https://arxiv.org/abs/2210.09461, which merges a few tokens in each layer of the tower while it runs. Here,
    as in tables of pruning methods, rounds follow each other after the tower until the budget is met; what is ours in
    that: a round merges as many pairs as it can, at most half of the tokens, a merged token's key is the average of
    its tokens' keys, no attention follows that would count merged tokens by their size, and before each round tokens
    are listed by the first patch that they cover, whose slot they take.
    """

    needs = frozenset({VISION_KEYS})

    def choose(self, view: View, keep: int) -> Selection:
        n = view.tokens.shape[1]
        groups, keys = MergedGroups.alone(len(view.tokens), n, view.tokens.device), view[VISION_KEYS].float().mean(1)
        while (count := groups.count) > keep:
            groups = groups.merge(*bipartite_match(groups.mean(keys), count - keep)).in_order()
        if keep == n:
            return Selection(groups.first)
        return Selection(groups.first, merge=groups.weights)


@dataclass(frozen=True)
class MergedGroups:
    """Tokens that became one: owner (B, N), the group of each token; count, how many groups there are."""

    owner: Tensor
    count: int

    @classmethod
    def alone(cls, rows: int, n: int, device: torch.device) -> MergedGroups:
        return cls(torch.arange(n, device=device).expand(rows, n), n)

    @property
    def members(self) -> Tensor:
        """Which tokens each group holds: (B, count, N), 1 or 0."""
        return F.one_hot(self.owner, self.count).float().transpose(1, 2)

    @property
    def weights(self) -> Tensor:
        """The average over each group's tokens as weight rows: (B, count, N)."""
        members = self.members
        return members / members.sum(-1, keepdim=True)

    @property
    def first(self) -> Tensor:
        """The first token of each group: (B, count)."""
        return self.members.argmax(-1)

    def mean(self, values: Tensor) -> Tensor:
        """Average values (B, N, d) of the tokens in each group: (B, count, d)."""
        return self.weights @ values

    def merge(self, source: Tensor, target: Tensor) -> MergedGroups:
        """Put groups `source` (B, r) into groups `target` (B, r), which are none of these; the others keep their order."""
        into = torch.arange(self.count, device=source.device).repeat(len(source), 1).scatter(1, source, target)
        stays = torch.ones_like(into).scatter(1, source, 0)
        number = (stays.cumsum(1) - 1).gather(1, into)
        return MergedGroups(number.gather(1, self.owner), self.count - source.shape[1])

    def in_order(self) -> MergedGroups:
        """List the same groups by their first token."""
        place = self.first.argsort(1).argsort(1)
        return MergedGroups(place.gather(1, self.owner), self.count)


def bipartite_match(metric: Tensor, remove: int, protected: int = 0) -> tuple[Tensor, Tensor]:
    """Find the most similar pairs of a token at an even place and its nearest at an odd one.

    Args:
        metric: (B, M, d), whose cosine is the similarity.
        remove: r, pairs to find; at most half of the tokens are removed.
        protected: 1 where the first token is [CLS], which stays.

    Returns:
        The even and the odd tokens of the pairs, (B, r) each.
    """
    remove = min(remove, (metric.shape[1] - protected) // 2)
    unit = F.normalize(metric.float(), dim=-1)
    even, odd = unit[:, ::2], unit[:, 1::2]
    similarity, nearest = (even @ odd.transpose(1, 2)).max(-1)
    similarity[:, :protected] = -torch.inf
    source = similarity.sort(dim=1, descending=True, stable=True).indices[:, :remove]
    return 2 * source, 2 * gather_tokens(nearest, source) + 1
