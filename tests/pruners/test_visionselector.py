"""VisionSelector: its scorer, and tokens multiplied by a soft top-k in training."""

import math

import pytest
import torch
from tiny import ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.pruners.visionselector import VisionSelector, binarisation_loss


def spread(pruner):
    """Away from the authors' start near zero, where all scores are alike."""
    for parameter in pruner.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return pruner


@torch.no_grad()
def test_the_score_is_the_mean_scaled_product_with_all_real_keys():
    pruner, tokens = spread(VisionSelector(8, 4)), torch.randn(2, 6, 8)
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    found = pruner.score(View(tokens, valid))
    for row, count in enumerate((6, 4)):
        q, k = pruner.query(tokens[row]), pruner.key(tokens[row])
        for i in range(count):
            products = [float(q[i] @ k[j]) / math.sqrt(4) for j in range(count)]
            assert float(found[row, i]) == pytest.approx(sum(products) / count, abs=1e-5)


def test_it_starts_with_scores_almost_alike():
    assert VisionSelector(64).score(View(torch.randn(1, 9, 64))).abs().max() < 1e-5


def test_in_training_tokens_are_scaled_by_weights_that_sum_to_the_budget():
    pruner, tokens = spread(VisionSelector(8)).train(), torch.randn(2, 10, 8)
    found = pruner(View(tokens), torch.tensor([3, 4]))
    weight = (found.values / tokens)[..., 0]
    torch.testing.assert_close(found.values, weight[..., None] * tokens)
    torch.testing.assert_close(weight.sum(1), torch.tensor([3.0, 4.0]))
    order, scores = weight.argsort(), pruner.score(View(tokens))
    assert torch.equal(order, scores.argsort()) and found.index.tolist() == [list(range(10))] * 2


@pytest.mark.parametrize(("progress", "weight"), [(0, 0.1), (0.5, 1.05), (1, 2.0)])
def test_the_bce_against_the_hard_decision_grows_linearly(progress, weight):
    pruner, tokens = spread(VisionSelector(8)).train(), torch.randn(2, 10, 8)
    pruner.anneal(progress)
    found = pruner(View(tokens), torch.tensor([3, 3]))
    p = (found.values / tokens)[..., 0].tolist()
    total = 0.0
    for row in p:
        kept = sorted(range(10), key=lambda i: -row[i])[:3]
        total += sum(-math.log(row[i] if i in kept else 1 - row[i]) for i in range(10))
    assert found.losses["bce"].item() == pytest.approx(weight * total / 20, rel=1e-4)


def test_absent_tokens_carry_no_bce():
    soft, hard = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.0]])
    assert float(binarisation_loss(soft, hard, torch.tensor([[True, False]]))) == pytest.approx(math.log(2))


def test_at_inference_the_best_stay_and_nothing_is_scaled():
    pruner, tokens = spread(VisionSelector(8)).eval(), torch.randn(2, 10, 8)
    found = pruner(View(tokens), torch.tensor([3, 3]))
    assert torch.equal(found.index, pruner.score(View(tokens)).topk(3).indices.sort().values)
    assert found.values is None and not found.losses


@torch.no_grad()
def test_training_at_a_budget_of_everything_is_the_unpruned_model():
    model, batch = tiny_llava(), inputs([ids(1), ids(1, seed=1)])
    expected = model(**batch).logits
    for ratio, same in ((1.0, True), (0.5, False)):
        plan = Plan([Stage(spread(VisionSelector(64)), 0)], ratio).train()
        with plan.on(model, "masked"):
            assert ((model(**batch).logits - expected).abs().max() < 1e-4) == same
