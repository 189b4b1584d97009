"""ToMe against a plain loop."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import VISION_KEYS
from learnpruner.pruners.tome import ToMe, bipartite_match


def loop(keys, keep):
    """One image, from the rule: lists of the patches that became one."""
    groups = [[j] for j in range(len(keys))]
    while len(groups) > keep:
        mean = [keys[group].double().mean(0) for group in groups]
        even, odd = range(0, len(groups), 2), range(1, len(groups), 2)
        best = {}
        for i in even:
            alike = [float(torch.cosine_similarity(mean[i], mean[j], dim=0)) for j in odd]
            best[i] = (max(alike), odd[alike.index(max(alike))])
        remove = min(len(groups) // 2, len(groups) - keep)
        for i in sorted(even, key=lambda i: -best[i][0])[:remove]:
            groups[best[i][1]] = groups[best[i][1]] + groups[i]
            groups[i] = []
        groups = sorted((sorted(group) for group in groups if group), key=min)
    return groups


@pytest.mark.parametrize("keep", [1, 2, 5, 14, 15, 16, 29, 30, 31])
def test_it_equals_a_plain_loop(keep):
    tokens, keys = torch.randn(3, 31, 4), torch.randn(3, 2, 31, 6)
    found = ToMe()(View(tokens, signals={VISION_KEYS: keys}), torch.tensor([keep] * 3))
    for row in range(3):
        groups = loop(keys[row].mean(0), keep)
        assert found.index[row].tolist() == [group[0] for group in groups]
        expected = torch.stack([tokens[row, group].mean(0) for group in groups])
        assert torch.allclose(found.apply(tokens)[row], expected, atol=1e-6)


def test_copies_merge_first():
    keys = torch.eye(8)[[0, 0, 1, 1, 2, 3, 4, 5]].view(1, 1, 8, 8)
    tokens = torch.arange(8.0).view(1, 8, 1)
    found = ToMe()(View(tokens, signals={VISION_KEYS: keys}), torch.tensor([6]))
    assert found.apply(tokens)[0, :, 0].tolist() == [0.5, 2.5, 4, 5, 6, 7]


def test_cls_is_protected():
    metric = torch.ones(1, 9, 3)
    assert (bipartite_match(metric, 4)[0] == 0).any()
    source, _ = bipartite_match(metric, 4, protected=1)
    assert source.shape == (1, 4)
    assert not (source == 0).any()


def test_keep_all_is_the_identity():
    tokens = torch.randn(2, 12, 4)
    found = ToMe()(View(tokens, signals={VISION_KEYS: torch.randn(2, 2, 12, 6)}), torch.tensor([12, 12]))
    assert torch.equal(found.apply(tokens), tokens)
