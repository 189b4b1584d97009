"""HiPrune against a plain loop."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import RECEIVED_ATTENTION
from learnpruner.pruners.hiprune import MIDDLE_ATTENTION, HiPrune, hiprune_selection


def loop(middle, deep, keep, alpha, width):
    """One image, from the rule; where anchors and neighbours are too many, anchors stay first, then by the deep score."""
    n = len(middle)
    by_middle = sorted(range(n), key=lambda j: (-float(middle[j]), j))
    by_deep = sorted(range(n), key=lambda j: (-float(deep[j]), j))
    anchors = by_middle[: round(keep * alpha / 5)]
    near = {min(max(a + step, 0), n - 1) for a in anchors for step in (-1, 1, -width, width)} - set(anchors)
    ranked = [j for j in by_deep if j in anchors] + [j for j in by_deep if j in near]
    ranked += [j for j in by_deep if j not in ranked]
    return sorted(ranked[:keep])


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 3, 8, 20, 41, 48])
def test_it_equals_a_plain_loop(keep, alpha):
    middle, deep = torch.rand(4, 48).softmax(-1), torch.rand(4, 48).softmax(-1)
    found = hiprune_selection(middle, deep, torch.tensor([keep] * 4), alpha, 8)
    assert found.index.tolist() == [loop(m, d, keep, alpha, 8) for m, d in zip(middle, deep, strict=True)]


def test_rows_may_have_budgets_and_tokens_of_their_own():
    middle, deep = torch.rand(2, 48), torch.rand(2, 48)
    valid = torch.arange(48) < torch.tensor([[48], [30]])
    found = hiprune_selection(middle, deep, torch.tensor([24, 9]), 1.0, 8, valid).mask(48)
    assert found[0].nonzero()[:, 0].tolist() == loop(middle[0], deep[0], 24, 1.0, 8)
    assert found[1].sum() == 9
    assert not found[1, 30:].any()


def test_too_many_anchors_still_give_the_right_count():
    """Eight anchors in a checkerboard have more neighbours than the budget leaves room for."""
    middle = torch.zeros(1, 64)
    middle[0, [9, 11, 13, 25, 27, 29, 41, 43]] = 1
    found = hiprune_selection(middle, torch.rand(1, 64), torch.tensor([38]), 1.0, 8)
    assert found.index.shape == (1, 38)
    assert set(found.index[0].tolist()) >= {9, 11, 13, 25, 27, 29, 41, 43}


def test_it_needs_all_patches():
    view = View(
        torch.zeros(1, 30, 4),
        grid=(6, 6),
        signals={MIDDLE_ATTENTION: torch.rand(1, 30), RECEIVED_ATTENTION: torch.rand(1, 30)},
    )
    with pytest.raises(ValueError, match="needs all patches"):
        HiPrune()(view, torch.tensor([5]))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"alpha=2\.0 is refused"):
        HiPrune(2.0)
