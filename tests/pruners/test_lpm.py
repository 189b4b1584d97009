"""The learnable pruning module."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.relaxations import GumbelStraightThrough, SoftTopK
from learnpruner.pruners.learnpruner import LearnedPruner, diverse_top_k


def loop(scores, tokens, keep, share):
    """One image, from the rule: the best first, then always the token least like those chosen; lower index on ties."""
    extra = int(torch.tensor(keep * share, dtype=torch.float64).round())
    order = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
    kept = order[: keep - extra]
    unit = [t / t.norm().clamp_min(1e-12) for t in tokens]
    for _ in range(extra):
        rest = [i for i in range(len(scores)) if i not in kept]
        alike = {i: max((float(unit[i] @ unit[j]) for j in kept), default=-2.0) for i in rest}
        kept.append(min(rest, key=lambda i: (alike[i], i)))
    return sorted(kept)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 4, 5, 15, 40])
def test_diverse_top_equals_the_plain_loop(share, keep):
    generator = torch.Generator().manual_seed(keep)
    scores, tokens = torch.randn(3, 40, generator=generator), torch.randn(3, 40, 6, generator=generator)
    found = diverse_top_k(scores, tokens, torch.tensor([keep] * 3), share)
    assert [row.tolist() for row in found.index] == [
        loop(s, t, keep, share) for s, t in zip(scores, tokens, strict=True)
    ]


def test_rows_may_keep_different_counts_and_have_invalid_tokens():
    scores, tokens = torch.randn(2, 30), torch.randn(2, 30, 6)
    valid = torch.arange(30) < torch.tensor([[30], [12]])
    found = diverse_top_k(scores, tokens, torch.tensor([20, 7]), 0.3, valid).mask(30)
    assert found[0].nonzero()[:, 0].tolist() == loop(scores[0], tokens[0], 20, 0.3)
    assert found[1].nonzero()[:, 0].tolist() == loop(scores[1, :12], tokens[1, :12], 7, 0.3)


def test_copies_of_a_chosen_token_come_last():
    tokens = torch.eye(8)[[0, 0, 0, 0, 1, 2, 3, 4]][None]
    scores = torch.arange(8.0, 0.0, -1)[None]
    assert diverse_top_k(scores, tokens, torch.tensor([5]), 0.8).index.tolist() == [[0, 4, 5, 6, 7]]


def test_the_number_of_parameters_at_the_width_of_clip_large():
    assert sum(p.numel() for p in LearnedPruner(1024).parameters()) == 527_874


def test_it_is_built_for_the_width_that_it_meets():
    pruner = LearnedPruner()
    pruner.prepare(32)
    weights = pruner.state_dict()
    pruner.prepare(32)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), pruner.state_dict().values(), strict=True))
    assert pruner.arguments() == {"width": 32, "diversity": 0.1, "diversity_in_training": False}
    with pytest.raises(ValueError, match="width 32, the backbone has 64"):
        pruner.prepare(64)


@pytest.mark.parametrize("diversity", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(diversity):
    with pytest.raises(ValueError, match="diversity="):
        LearnedPruner(32, diversity)


def test_scores_are_fp32_under_autocast_and_from_16_bit_features():
    pruner = LearnedPruner(32)
    tokens = torch.randn(2, 9, 32).bfloat16()
    expected = pruner.logits(tokens.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pruner.logits(tokens), expected)


def test_without_diversity_it_is_the_top_of_the_keep_probability():
    pruner, tokens = LearnedPruner(32, diversity=0.0).eval(), torch.randn(2, 20, 32)
    probability = pruner.net(tokens).softmax(-1)[..., 1]
    found = pruner(View(tokens), torch.tensor([6, 6]))
    assert torch.equal(found.index, probability.topk(6).indices.sort().values)


def test_in_training_the_relaxation_decides():
    pruner, tokens = LearnedPruner(32).train(), torch.randn(2, 20, 32)
    seen = {}

    def relaxation(logits, keep, valid):
        seen.update(logits=logits, keep=keep, valid=valid)
        return (logits > logits.mean()).float() + logits.sigmoid() - logits.sigmoid().detach()

    pruner.relaxation = relaxation
    found = pruner(View(tokens), torch.tensor([6, 5]))
    assert torch.equal(found.mask(20), found.gate > 0.5)
    assert seen["keep"].tolist() == [6, 5]
    found.gate.sum().backward()
    assert all(p.grad is not None for p in pruner.parameters())
    assert pruner.eval()(View(tokens), torch.tensor([6, 6])).gate is None


def test_the_relaxation_is_no_part_of_the_export():
    pruner = LearnedPruner(32)
    pruner.relaxation = lambda logits, keep, valid: logits.sigmoid()
    assert set(pruner.state_dict()) == set(LearnedPruner(32).state_dict())


def test_diversity_in_training_chooses_as_at_inference_with_the_relaxations_gradient():
    torch.manual_seed(0)
    tokens, keep = torch.randn(2, 20, 8), torch.tensor([5, 7])
    plain, diverse = LearnedPruner(8, 0.4), LearnedPruner(8, 0.4, diversity_in_training=True)
    diverse.load_state_dict(plain.state_dict())
    weight = torch.randn(2, 20)
    for pruner in (plain, diverse):
        pruner.relaxation = SoftTopK()
        chosen = pruner.train()(View(tokens), keep)
        (chosen.gate * weight).sum().backward()
    assert torch.equal(chosen.gate > 0.5, diverse.eval()(View(tokens), keep).mask(20))
    assert not torch.equal(chosen.gate > 0.5, plain.train()(View(tokens), keep).gate > 0.5)
    for one, other in zip(plain.parameters(), diverse.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_diversity_in_training_needs_an_exact_budget():
    pruner = LearnedPruner(8, 0.4, diversity_in_training=True)
    pruner.relaxation = GumbelStraightThrough()
    with pytest.raises(ValueError, match="relaxation=soft_topk"):
        pruner.train()(View(torch.randn(1, 20, 8)), torch.tensor([5]))
