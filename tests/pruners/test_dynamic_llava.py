"""Dynamic-LLaVA's predictor."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.relaxations import GumbelStraightThrough, StraightThroughArgmax
from learnpruner.pruners.dynamic_llava import DynamicLLaVA, distinct_rows, mix_global_half


def test_half_of_the_channels_become_their_mean_over_real_tokens():
    x, valid = torch.randn(2, 5, 6), torch.arange(5) < torch.tensor([[5], [3]])
    found = mix_global_half(x, valid)
    for row, count in enumerate((5, 3)):
        mean = [sum(float(x[row, i, c]) for i in range(count)) / count for c in (3, 4, 5)]
        for i in range(5):
            torch.testing.assert_close(found[row, i], torch.tensor([*x[row, i, :3], *mean]))


def test_a_token_s_score_depends_on_the_other_tokens_but_not_on_absent_ones():
    pruner, tokens = DynamicLLaVA(32).eval(), torch.randn(1, 12, 32)
    valid = torch.arange(12)[None] < 9
    score = pruner.score(View(tokens, valid))
    other = tokens.clone()
    other[:, 9:] = torch.randn(1, 3, 32)
    torch.testing.assert_close(pruner.score(View(other, valid))[:, :9], score[:, :9])
    torch.testing.assert_close(pruner.score(View(tokens[:, :9])), score[:, :9])
    other[:, 8] = torch.randn(1, 32)
    assert (pruner.score(View(other, valid))[:, :8] - score[:, :8]).abs().min() > 1e-6


def test_the_most_probable_tokens_stay():
    pruner, tokens = DynamicLLaVA(32).eval(), torch.randn(2, 20, 32)
    probability = pruner.score(View(tokens)).sigmoid()
    found = pruner(View(tokens), torch.tensor([6, 6]))
    assert torch.equal(found.index, probability.topk(6).indices.sort().values) and found.gate is None


@pytest.mark.parametrize(("progress", "factor"), [(0, 1.0), (0.5, 0.1**0.5), (1, 0.1)])
def test_the_relaxation_cools_exponentially_and_its_own_temperature_still_counts(progress, factor):
    pruner, tokens = DynamicLLaVA(32).train(), torch.randn(2, 20, 32)
    pruner.relaxation = StraightThroughArgmax(temperature=3.0)
    pruner.anneal(progress)
    gate = pruner(View(tokens), torch.tensor([6, 6])).gate
    score = pruner.score(View(tokens))
    expected = StraightThroughArgmax(3.0 * factor)(score, torch.tensor([6, 6]))
    assert torch.equal(gate, expected)
    grads = [torch.autograd.grad(one.sum(), list(pruner.decide.parameters())) for one in (gate, expected)]
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))
    assert pruner.relaxation.temperature == 3.0


def test_a_colder_sample_is_the_same_sample():
    pruner, tokens = DynamicLLaVA(32).train(), torch.randn(2, 20, 32)
    pruner.relaxation = GumbelStraightThrough()
    gates = []
    for progress in (0, 1):
        torch.manual_seed(5)
        pruner.anneal(progress)
        gates.append(pruner(View(tokens), torch.tensor([6, 6])).gate)
    assert torch.equal(gates[0].round(), gates[1].round())


def test_the_predictor_has_the_authors_widths_at_their_width():
    pruner = DynamicLLaVA()
    with torch.device("meta"):
        pruner.prepare(4096)
    assert [tuple(m.weight.shape) for m in pruner.decide if hasattr(m, "weight")] == [(256, 512), (128, 256), (2, 128)]
    assert pruner.enter[1].weight.shape == (512, 4096)
    assert [block.linear1.out_features for block in pruner.blocks] == [2048, 2048]
    assert {block.self_attn.num_heads for block in pruner.blocks} == {8}


def test_another_width_and_no_temperature_are_refused():
    with pytest.raises(ValueError, match="width 32, the backbone has 64"):
        DynamicLLaVA(32).prepare(64)
    with pytest.raises(ValueError, match="temperatures are above 0"):
        DynamicLLaVA(end=0.0)


def test_questions_of_one_image_share_its_scores_and_their_gradient():
    pruner, images = DynamicLLaVA(32), torch.randn(3, 12, 32)
    valid = torch.arange(12) < torch.tensor([[12], [12], [9]])
    of_image = torch.tensor([0, 0, 1, 2, 2, 2])
    runs = []
    pruner.enter.register_forward_hook(lambda module, args, out: runs.append(len(out)))
    shared = pruner.score(View(images[of_image], valid[of_image]))
    apart = torch.cat([pruner.score(View(images[i : i + 1], valid[i : i + 1])) for i in of_image.tolist()])
    real = valid[of_image]
    torch.testing.assert_close(shared[real], apart[real])
    assert runs[0] == 3
    grads = [torch.autograd.grad(s[real].square().sum(), list(pruner.parameters())) for s in (shared, apart)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_that_differ_in_padding_alone_are_scored_apart():
    tokens = torch.randn(1, 12, 32).expand(2, -1, -1)
    first, image = distinct_rows(tokens, torch.arange(12) < torch.tensor([[12], [9]]))
    assert first.tolist() == [0, 1] and image.tolist() == [0, 1]
