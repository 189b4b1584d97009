"""SPpruner against a plain loop written from the rule."""

import math

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK
from learnpruner.pruners.sppruner import SPpruner, scan_tokens

SIDE, N = 5, 25


def looks(rows=2, seed=0, words=4):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, words, dtype=torch.bool)
    mask[0, :1] = False  # fillers come first
    signals = {TEXT_EMBEDS: torch.randn(rows, words, 8, generator=generator), TEXT_MASK: mask}
    return View(torch.randn(rows, N, 8, generator=generator), None, (SIDE, SIDE), signals)


def cos(x, y):
    return (x @ y / x.norm() / y.norm()).item()


def unit(values):
    return [(v - min(values)) / (max(values) - min(values)) for v in values]


def loop(x, words, keep, focus, rings):
    mean = x.mean(0)
    salient = unit([1 - cos(row, mean) for row in x])
    relevant = unit([max(cos(row, word) for word in words) for row in x])
    score = [s * r for s, r in zip(salient, relevant, strict=True)]
    kept = set(sorted(range(N), key=lambda i: (-score[i], i))[: math.ceil(focus * keep)])
    for ring in range(rings):
        more = math.ceil((keep - len(kept)) / (rings - ring))
        before = set(kept)
        beside = {
            i for i in range(N) for j in before if abs(i // SIDE - j // SIDE) <= 1 and abs(i % SIDE - j % SIDE) <= 1
        }
        new = {i: score[i] * (1 - max(cos(x[i], x[j]) for j in before)) for i in range(N) if i not in before}
        kept |= set(sorted(new, key=lambda i: (i not in beside, -new[i], i))[:more])
    return sorted(kept)


@pytest.mark.parametrize("keep", [1, 4, 10, 17, 24])
@pytest.mark.parametrize(("focus", "rings"), [(0.75, 4), (0.25, 3), (1.0, 1)])
def test_it_equals_a_plain_loop(keep, focus, rings):
    view = looks(seed=keep)
    found = SPpruner(focus, rings)(view, torch.tensor([keep, keep]))
    for row in range(2):
        words = view[TEXT_EMBEDS][row][view[TEXT_MASK][row]]
        assert found.index[row].tolist() == loop(view.tokens[row], words, keep, focus, rings)


def test_the_scan_stays_beside_what_is_kept_while_it_can():
    kept = torch.zeros(1, N, dtype=torch.bool)
    kept[0, 12] = True  # the centre has eight neighbours
    found = scan_tokens(kept, torch.rand(1, N), torch.randn(1, N, 8), torch.tensor([9]), (SIDE, SIDE), rings=1)[0].view(
        SIDE, SIDE
    )
    assert found.nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3)]


def test_more_rings_reach_further():
    kept = torch.zeros(1, N, dtype=torch.bool)
    kept[0, 0] = True
    tokens = torch.eye(N)[None]  # all are as new: ties go to the lower index
    near = scan_tokens(kept, torch.ones(1, N), tokens, torch.tensor([4]), (SIDE, SIDE), rings=1)[0]
    far = scan_tokens(kept, torch.ones(1, N), tokens, torch.tensor([4]), (SIDE, SIDE), rings=3)[0]
    assert near.nonzero()[:, 0].tolist() == [0, 1, 5, 6]
    assert far.nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_another_question_keeps_other_tokens():
    view = looks(1)
    other = {TEXT_EMBEDS: -view[TEXT_EMBEDS], TEXT_MASK: view[TEXT_MASK]}
    keep = torch.tensor([6])
    assert not torch.equal(
        SPpruner()(view, keep).index, SPpruner()(View(view.tokens, None, (SIDE, SIDE), other), keep).index
    )


def test_rows_with_different_counts_and_missing_tokens_keep_exactly_those():
    view, valid = looks(3), torch.ones(3, N, dtype=torch.bool)
    valid[2, 10:] = False
    found = SPpruner()(View(view.tokens, valid, (SIDE, SIDE), view.signals), torch.tensor([3, 20, 14]))
    assert found.valid.sum(1).tolist() == [3, 20, 10]
    assert found.mask(N)[2].tolist() == valid[2].tolist()
    alone = SPpruner()(
        View(view.tokens[:1], None, (SIDE, SIDE), {s: v[:1] for s, v in view.signals.items()}), torch.tensor([3])
    )
    assert found.index[0][found.valid[0]].tolist() == alone.index[0].tolist()


def test_it_needs_all_patches():
    view = looks(1)
    with pytest.raises(ValueError, match="all patches"):
        SPpruner()(View(view.tokens[:, 1:], None, (SIDE, SIDE), view.signals), torch.tensor([3]))


@pytest.mark.parametrize(("focus", "rings"), [(0.0, 4), (1.1, 4), (0.5, 0)])
def test_settings_without_meaning_are_refused(focus, rings):
    with pytest.raises(ValueError, match="refused"):
        SPpruner(focus, rings)
