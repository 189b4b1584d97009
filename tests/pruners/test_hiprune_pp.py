"""HiPrune++ against a plain loop: HiPrune's tokens first, then what the question asks for."""

import math

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import RECEIVED_ATTENTION, TEXT_EMBEDS, TEXT_MASK
from learnpruner.pruners.hiprune import MIDDLE_ATTENTION, HiPrune
from learnpruner.pruners.hiprune_pp import HiPrunePP

SIDE, N = 6, 36


def looks(rows=2, seed=0, words=3):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, words, dtype=torch.bool)
    mask[0, :1] = False  # fillers come first
    signals = {
        MIDDLE_ATTENTION: torch.rand(rows, N, generator=generator),
        RECEIVED_ATTENTION: torch.rand(rows, N, generator=generator),
        TEXT_EMBEDS: torch.randn(rows, words, 8, generator=generator),
        TEXT_MASK: mask,
    }
    return View(torch.randn(rows, N, 8, generator=generator), None, (SIDE, SIDE), signals)


@pytest.mark.parametrize("keep", [1, 2, 9, 20, 36])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_it_equals_a_plain_loop(keep, share):
    view = looks(seed=keep)
    visual = keep - math.floor(keep * share)
    seen = HiPrune(0.3)(view, torch.tensor([visual] * 2))
    found = HiPrunePP(0.3, share)(view, torch.tensor([keep] * 2))
    for row in range(2):
        words = [w / w.norm() for w in view[TEXT_EMBEDS][row][view[TEXT_MASK][row]]]
        alike = [max((token / token.norm() @ w).item() for w in words) for token in view.tokens[row]]
        kept = set(seen.index[row].tolist())
        rest = sorted((i for i in range(N) if i not in kept), key=lambda i: (-alike[i], i))
        assert found.index[row].tolist() == sorted(kept | set(rest[: keep - visual]))


def test_rows_with_different_counts_and_missing_tokens_keep_exactly_those():
    view, valid = looks(3), torch.ones(3, N, dtype=torch.bool)
    valid[2, 10:] = False
    found = HiPrunePP()(View(view.tokens, valid, (SIDE, SIDE), view.signals), torch.tensor([3, 20, 14]))
    assert found.valid.sum(1).tolist() == [3, 20, 10]
    assert found.mask(N)[2].tolist() == valid[2].tolist()


def test_it_needs_all_patches():
    with pytest.raises(ValueError, match="all patches"):
        HiPrunePP()(View(torch.zeros(1, N - 1, 8), None, (SIDE, SIDE)), torch.tensor([3]))


@pytest.mark.parametrize(("alpha", "share"), [(-0.1, 0.5), (0.1, 1.0)])
def test_settings_without_meaning_are_refused(alpha, share):
    with pytest.raises(ValueError, match="refused"):
        HiPrunePP(alpha, share)
