"""VisionZip against a plain loop."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import CLS_ATTENTION, CLS_STATE, VISION_KEYS
from learnpruner.pruners.visionzip import VisionZip

N = 30


def view(rows=3, n=N):
    signals = {
        CLS_ATTENTION: torch.rand(rows, 4, n),
        VISION_KEYS: torch.randn(rows, 4, n, 8),
        CLS_STATE: torch.randn(rows, 6),
    }
    return View(torch.randn(rows, n, 6), signals=signals)


def loop(seen, row, keep, contextual):
    """One image, from the rule: what is read, and the patches that are kept."""
    tokens, keys, n = seen.tokens[row], seen[VISION_KEYS][row].mean(0), seen.tokens.shape[1]
    scores = seen[CLS_ATTENTION][row].sum(0)
    dominant = sorted(sorted(range(n), key=lambda j: (-float(scores[j]), j))[: keep - contextual - 1])
    left = [j for j in range(n) if j not in dominant]
    step = max(1, len(left) // max(1, contextual))
    targets = [left[place * step] for place in range(contextual)]
    assigned = {target: [] for target in targets}
    for j in left:
        if j not in targets and targets:
            alike = [float(torch.cosine_similarity(keys[j], keys[target], dim=0)) for target in targets]
            assigned[targets[alike.index(max(alike))]].append(j)
    read = [seen[CLS_STATE][row], *tokens[dominant]]
    for target, absorbed in assigned.items():
        mean = sum(tokens[j] for j in absorbed) / len(absorbed) if absorbed else 0
        read.append(tokens[target] + mean)
    return torch.stack(read), dominant, targets


@pytest.mark.parametrize("share", [0.0, 0.15625, 0.6])
@pytest.mark.parametrize("keep", [1, 2, 6, 13, 29])
def test_it_equals_a_plain_loop(keep, share):
    seen = view()
    found = VisionZip(share)(seen, torch.tensor([keep] * 3))
    read = found.apply(seen.tokens)
    for row in range(3):
        expected, dominant, targets = loop(seen, row, keep, min(keep - 1, round(keep * share)))
        assert torch.allclose(read[row], expected, atol=1e-5)
        free = min(set(range(N)) - set(dominant) - set(targets))
        assert found.index[row].tolist() == sorted([*dominant, *targets, free])


def test_in_place_each_token_takes_its_own_slot():
    seen = view(1)
    found = VisionZip(0.3, in_place=True)(seen, torch.tensor([10]))
    expected, dominant, targets = loop(seen, 0, 10, 3)
    free = min(set(range(N)) - set(dominant) - set(targets))
    placed = dict(zip([free, *dominant, *targets], expected, strict=True))
    for slot, value in zip(found.index[0].tolist(), found.apply(seen.tokens)[0], strict=True):
        assert torch.allclose(value, placed[slot], atol=1e-5)


def test_cls_counts_in_the_budget_and_keep_all_is_the_identity():
    seen = view()
    found = VisionZip()(seen, torch.tensor([1, 1, 1]))
    assert torch.allclose(found.apply(seen.tokens)[:, 0], seen[CLS_STATE])
    whole = VisionZip()(seen, torch.tensor([N] * 3))
    assert not whole.changes
    assert torch.equal(whole.apply(seen.tokens), seen.tokens)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"contextual={share}"):
        VisionZip(share)
