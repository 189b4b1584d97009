"""VisPruner against a plain loop."""

import pytest
import torch

from learnpruner.pruners.vispruner import VisPruner, remove_redundant, vispruner_index


def cosine(a, b):
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def loop(scores, tokens, keep, ratio):
    """One image, from the rule: lists, pairs, and nothing else."""
    order = sorted(range(len(scores)), key=lambda j: (-float(scores[j]), j))
    important, left = order[: int(keep * ratio)], order[int(keep * ratio) :]
    want = keep - len(important)
    while want and len(left) > want:
        even, odd = left[0::2], left[1::2]
        closest = [max(cosine(tokens[i], tokens[j]) for j in odd) for i in even]
        ranked = sorted(range(len(even)), key=lambda place: -closest[place])
        left = [even[place] for place in ranked[min(8, len(left) - want) :]] + odd
    return sorted(important + (left if want else []))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("keep", [1, 2, 7, 16, 33, 40])
def test_it_equals_a_plain_loop(keep, ratio):
    scores, tokens = torch.rand(3, 41), torch.randn(3, 41, 8)
    found = vispruner_index(scores, tokens, keep, ratio)
    assert found.tolist() == [loop(s, t, keep, ratio) for s, t in zip(scores, tokens, strict=True)]


def test_copies_go_first():
    tokens = torch.eye(12)[[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]][None]
    assert remove_redundant(torch.arange(12)[None], tokens, 6).sort().values.tolist() == [[1, 3, 5, 7, 9, 11]]


@pytest.mark.parametrize(("match", "settings"), [("ratio=1.5", {"ratio": 1.5}), ("saliency='x'", {"saliency": "x"})])
def test_settings_that_are_none_are_refused(match, settings):
    with pytest.raises(ValueError, match=match):
        VisPruner(**settings)


def test_towers_without_cls_read_received_attention():
    (signal,) = VisPruner(saliency="received").needs
    assert (signal.name, signal.layer) == ("received_attention", -1)
