"""Objective terms against plain loops written from their definitions."""

import math

import pytest
import torch

from learnpruner.training.losses import (
    AnswerLogits,
    Objective,
    budget_penalty,
    cross_entropy,
    hidden_mse,
    kl_divergence,
)


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_the_mean_over_answer_tokens_of_the_divergence_from_teacher_to_student():
    student, teacher, mask = logits(0, 2, 5, 7), logits(1, 2, 5, 7), torch.rand(2, 5) > 0.4
    expected = []
    for row, column in mask.nonzero().tolist():
        p, q = teacher[row, column].softmax(0), student[row, column].softmax(0)
        expected.append(sum(float(p[v]) * math.log(float(p[v] / q[v])) for v in range(7)))
    assert float(kl_divergence(student, teacher, mask)) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert float(kl_divergence(teacher, teacher, mask)) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_counts_marked_tokens_only():
    values, targets = logits(0, 2, 3, 5), torch.tensor([[1, -100, 4], [-100, -100, 0]])
    expected = [-values[r, c].log_softmax(0)[targets[r, c]] for r, c in (targets >= 0).nonzero().tolist()]
    assert float(cross_entropy(values, targets)) == pytest.approx(float(sum(expected) / 3), rel=1e-5)


def test_hidden_distance_is_relative_to_the_teacher():
    teacher = logits(0, 4, 6)
    assert float(hidden_mse(teacher, teacher)) == 0
    assert float(hidden_mse(torch.zeros_like(teacher), teacher)) == pytest.approx(1)
    assert float(hidden_mse(3 * teacher, teacher)) == pytest.approx(4, rel=1e-5)


def test_budget_is_the_mean_over_images_of_the_squared_gap():
    gate = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    assert float(budget_penalty(gate, 0.5)) == pytest.approx((0.25**2 + 0.25**2) / 2)
    assert float(budget_penalty(gate, torch.tensor([0.25, 0.75]))) == 0
    assert float(budget_penalty(gate, 0.5, torch.tensor([2, 4]))) == pytest.approx(
        0.25**2 / 2
    )  # two columns are padding


def test_objective_adds_weighted_parts_and_pulls_towards_the_teacher():
    student = AnswerLogits(logits(0, 6, 9).requires_grad_(), torch.arange(6), logits(2, 6, 4))
    teacher = AnswerLogits(logits(1, 6, 9), torch.arange(6), logits(3, 6, 4))
    gate = torch.tensor([[1.0, 0, 0, 0]])
    objective = Objective(kl=2.0, cross_entropy=0.5, hidden=0.1, budget=10.0)
    loss, parts = objective(student, teacher, [(gate, 0.5)])
    assert set(parts) == {"kl", "cross_entropy", "hidden", "budget"}
    expected = 2 * parts["kl"] + 0.5 * parts["cross_entropy"] + 0.1 * parts["hidden"] + 10 * parts["budget"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    before = kl_divergence(student.logits, teacher.logits)
    with torch.no_grad():
        assert kl_divergence(student.logits - 0.1 * student.logits.grad, teacher.logits) < before


def test_terms_without_weight_are_left_out_and_need_no_teacher():
    student = AnswerLogits(logits(0, 6, 9), torch.arange(6))
    objective = Objective(kl=0.0, cross_entropy=1.0)
    assert not objective.needs_teacher
    loss, parts = objective(student, None)
    assert set(parts) == {"cross_entropy"} and loss == parts["cross_entropy"]


@pytest.mark.parametrize(("weights", "needs"), [({}, True), ({"hidden": 1.0}, True), ({"cross_entropy": 1.0}, False)])
def test_what_is_compared_with_the_unpruned_model_needs_it(weights, needs):
    objective = Objective(**{"kl": 0.0 if weights else 1.0, "budget": 0.0} | weights)
    assert objective.needs_teacher == needs
    student, teacher = (AnswerLogits(logits(seed, 6, 9), torch.arange(6), logits(seed + 2, 6, 4)) for seed in (0, 1))
    loss, parts = objective(student, teacher if needs else None)
    assert list(parts) == (list(weights) or ["kl"]) and loss > 0


@pytest.mark.parametrize("weights", [{"kl": -1.0}, {"budget": float("nan")}, {"kl": 0.0}, {"hidden": float("inf")}])
def test_bad_weights_are_refused_with_a_sentence(weights):
    with pytest.raises(ValueError, match="objective"):
        Objective(**weights)
