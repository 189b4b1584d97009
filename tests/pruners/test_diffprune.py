"""DiffPrune: tokens blended with noise by their importance."""

import math

import pytest
import torch
from tiny import ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.pruners.diffprune import DiffPrune, noise_tokens


def test_throttling_equals_the_rule_token_by_token():
    tokens, noise, weight = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.rand(2, 4)
    found = noise_tokens(tokens, noise, weight)
    for b in range(2):
        for i in range(4):
            w = float(weight[b, i])
            torch.testing.assert_close(found[b, i], math.sqrt(w) * tokens[b, i] + math.sqrt(1 - w) * noise[b, i])


def test_noise_has_the_mean_and_variance_of_all_real_tokens_seen_in_training():
    pruner = DiffPrune(3).train()
    seen = []
    for step, size in enumerate((400, 300, 500)):
        tokens = (1 + step) * torch.randn(2, size, 3) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 5.0, -step])
        valid = torch.arange(size) < torch.tensor([[size], [size - 100]])
        pruner(View(tokens, valid), torch.tensor([9, 9]))
        seen += [tokens[0], tokens[1, : size - 100]]
        torch.testing.assert_close(pruner.mean, torch.cat(seen).mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pruner.variance, torch.cat(seen).var(0, correction=0), atol=1e-3, rtol=1e-3)
    torch.nn.init.zeros_(pruner.net[-1].weight)
    nothing = pruner(View(tokens), torch.tensor([0, 0])).values.flatten(0, 1)  # w is 0: noise alone
    torch.testing.assert_close(nothing.mean(0), pruner.mean, atol=0.5, rtol=0)
    torch.testing.assert_close(nothing.std(0), pruner.variance.sqrt(), atol=0.1, rtol=0.1)
    assert abs(float(torch.corrcoef(torch.stack([nothing[:, 0], tokens.flatten(0, 1)[:, 0]])).detach()[0, 1])) < 0.15


def test_an_image_s_own_mean_is_hidden_among_those_of_other_images():
    pruner = DiffPrune(3).train()
    means = torch.randn(50, 1, 3)
    for mean in means:
        pruner(View(0.1 * torch.randn(1, 64, 3) + mean), torch.tensor([1]))
    torch.testing.assert_close(pruner.mean, means.mean((0, 1)), atol=0.05, rtol=0)


def test_a_loaded_run_goes_on_with_the_statistics():
    pruner, other, tokens = DiffPrune(3).train(), DiffPrune(3).train(), torch.randn(1, 30, 3)
    pruner(View(tokens), torch.tensor([4]))
    other.load_state_dict(pruner.state_dict())
    found = []
    for one in (pruner, other):
        torch.manual_seed(1)
        found.append(one(View(tokens + 1), torch.tensor([4])).values)
    assert torch.equal(*found) and torch.equal(pruner.variance, other.variance)


@pytest.mark.parametrize(("progress", "temperature"), [(0, 2.0), (0.5, math.sqrt(0.2)), (1, 0.1)])
def test_weights_sum_to_the_budget_at_every_temperature(progress, temperature, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    pruner, tokens = DiffPrune(8).train(), torch.randn(2, 10, 8)
    tokens = tokens - tokens.mean((0, 1))  # no noise, no mean: what is left is sqrt(w) x
    pruner.anneal(progress)
    found = pruner(View(tokens), torch.tensor([3, 4]))
    weight = (found.values / tokens)[..., 0].square()
    torch.testing.assert_close(weight.sum(1), torch.tensor([3.0, 4.0]), atol=1e-3, rtol=0)
    scores = pruner.score(View(tokens))
    logits = weight.logit() * temperature  # equal to the scores up to an offset
    torch.testing.assert_close(logits - logits.mean(1, True), scores - scores.mean(1, True), atol=1e-2, rtol=1e-2)


def test_the_gradient_is_finite_even_where_weights_are_zero_or_one():
    pruner = DiffPrune(8).train()
    pruner.anneal(1.0)
    torch.nn.init.normal_(pruner.net[-1].weight, std=100.0)
    pruner(View(torch.randn(2, 10, 8)), torch.tensor([3, 4])).values.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in pruner.parameters())


def test_at_inference_the_best_stay_and_nothing_is_noised():
    pruner, tokens = DiffPrune(8).eval(), torch.randn(2, 10, 8)
    found = pruner(View(tokens), torch.tensor([3, 3]))
    assert torch.equal(found.index, pruner.score(View(tokens)).topk(3).indices.sort().values)
    assert found.values is None


@torch.no_grad()
def test_training_at_a_budget_of_everything_is_the_unpruned_model():
    model, batch = tiny_llava(), inputs([ids(1), ids(1, seed=1)])
    expected = model(**batch).logits
    for ratio, same in ((1.0, True), (0.5, False)):
        plan = Plan([Stage(DiffPrune(64), 0)], ratio).train()
        with plan.on(model, "masked"):
            assert ((model(**batch).logits - expected).abs().max() < 1e-4) == same


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperatures are above 0"):
        DiffPrune(end=0.0)
