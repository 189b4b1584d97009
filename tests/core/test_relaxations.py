"""Relaxations against closed forms, finite differences and their own claims."""

import pytest
import torch

from learnpruner.core.relaxations import GumbelStraightThrough, SoftTopK, StraightThroughArgmax, hard_top_k, soft_top_k

KEEP = torch.tensor([3, 7, 1])


def scores(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3


@pytest.mark.parametrize("relaxation", [StraightThroughArgmax(), GumbelStraightThrough(), SoftTopK(), SoftTopK(0.3)])
def test_gate_is_hard_forward_and_reaches_every_score_backward(relaxation):
    logits = scores().requires_grad_()
    gate = relaxation(logits, KEEP)
    assert set(gate.detach().unique().tolist()) <= {0.0, 1.0}
    (gate * torch.randn_like(gate)).sum().backward()
    assert (logits.grad != 0).all()


def test_argmax_keeps_where_probability_exceeds_half_with_sigmoid_gradient():
    logits, weight = scores().requires_grad_(), torch.randn(3, 12, dtype=torch.float64)
    gate = StraightThroughArgmax()(logits, KEEP)
    assert torch.equal(gate, (torch.softmax(torch.stack([logits, torch.zeros_like(logits)]), 0)[0] > 0.5).double())
    (gate * weight).sum().backward()
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, weight * p * (1 - p))


def test_gumbel_keeps_with_the_keep_probability_and_repeats_with_the_seed():
    logits = torch.tensor([[-1.0, 0.0, 2.0]]).repeat(20_000, 1)
    torch.manual_seed(1)
    gate = GumbelStraightThrough()(logits, KEEP)
    torch.testing.assert_close(gate.mean(0), torch.sigmoid(logits[0]), atol=0.015, rtol=0)
    torch.manual_seed(1)
    assert torch.equal(gate, GumbelStraightThrough()(logits, KEEP))


def test_soft_top_sums_to_the_budget_and_is_monotone():
    p = soft_top_k(scores(), KEEP)
    torch.testing.assert_close(p.sum(1), KEEP.double())
    order = scores().argsort(1)
    assert (p.gather(1, order).diff(dim=1) >= 0).all()


def test_soft_top_jacobian_equals_finite_differences():
    logits = scores().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, KEEP), (logits,), eps=1e-6, atol=1e-6)
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[0, 8:] = False
    valid[2, 4:] = False
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, KEEP, valid), (logits,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_top_survives_large_scores_and_full_budgets(dtype):
    logits = (scores(dtype) * 100).requires_grad_()
    p = soft_top_k(logits, torch.tensor([12, 0, 5]))
    torch.testing.assert_close(p.sum(1), torch.tensor([12, 0, 5], dtype=dtype), atol=1e-4, rtol=0)
    p.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_top_keeps_exactly_the_budget_among_valid_tokens():
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[:, ::2] = False
    for keep in (KEEP, torch.tensor([6, 6, 6])):
        gate = SoftTopK()(scores(), keep, valid)
        assert torch.equal(gate.sum(1), keep.clamp_max(6).double())
        assert not gate[~valid].any()
    best = scores().masked_fill(~valid, -1e9).topk(3).indices[0].sort().values
    assert torch.equal(hard_top_k(scores(), torch.tensor([3, 3, 3]), valid)[0].nonzero()[:, 0], best)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_colder_top_has_the_gradient_of_sharper_scores(temperature):
    logits, weight = scores().requires_grad_(), torch.randn(3, 12, dtype=torch.float64)
    (SoftTopK(temperature)(logits, KEEP) * weight).sum().backward()
    sharper = (scores() / temperature).requires_grad_()
    (soft_top_k(sharper, KEEP) * weight).sum().backward()
    torch.testing.assert_close(logits.grad, sharper.grad / temperature)


@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_a_colder_gumbel_has_a_steeper_gradient_and_keeps_the_same(temperature):
    def drawn(relaxation):
        torch.manual_seed(4)
        logits = scores().requires_grad_()
        gate = relaxation(logits, KEEP)
        gate.sum().backward()
        return gate.detach(), logits.grad

    (kept, grad), (same, _) = drawn(GumbelStraightThrough(temperature)), drawn(GumbelStraightThrough(1.0))
    assert torch.equal(kept, same)
    torch.manual_seed(4)
    soft = torch.sigmoid((scores() + torch.logit(torch.rand_like(scores()))) / temperature)
    torch.testing.assert_close(grad, soft * (1 - soft) / temperature)


def test_top_gives_ties_to_the_lower_index():
    assert hard_top_k(torch.zeros(1, 50), torch.tensor([3])).nonzero()[:, 1].tolist() == [0, 1, 2]


def test_budget_promise_is_told():
    assert SoftTopK.meets_budget and not StraightThroughArgmax.meets_budget and not GumbelStraightThrough.meets_budget


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_bad_temperature_is_refused_with_a_sentence(temperature):
    with pytest.raises(ValueError, match="above 0"):
        SoftTopK(temperature)


@pytest.mark.parametrize("kind", [StraightThroughArgmax, GumbelStraightThrough, SoftTopK])
def test_a_cooled_relaxation_is_the_same_at_another_temperature(kind):
    first = kind(2.0)
    other = first.cooled(0.25)
    assert type(other) is kind and (first.temperature, other.temperature) == (2.0, 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_divides_the_slope_of_the_argmax(temperature):
    scores = torch.zeros(1, 5, requires_grad=True)
    StraightThroughArgmax(temperature)(scores, torch.tensor([2])).sum().backward()
    torch.testing.assert_close(scores.grad, torch.full((1, 5), 0.25 / temperature))
