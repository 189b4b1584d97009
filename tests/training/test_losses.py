"""Loss terms against plain loops written from their definitions."""

import math

import pytest
import torch

from learnpruner.training.losses import (
    BudgetPenalty,
    CrossEntropy,
    DistillationLoss,
    HiddenMSE,
    KLDivergence,
    LossTerm,
    budget_penalty,
    cross_entropy,
    hidden_mse,
    kl_divergence,
)
from learnpruner.training.outputs import AnswerLogits, StageGate, StepOutputs
from learnpruner.utils.errors import UserError


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


def outputs(gates=()):
    student = AnswerLogits(logits(0, 6, 9).requires_grad_(), torch.arange(6), logits(2, 6, 4))
    return StepOutputs(student, AnswerLogits(logits(1, 6, 9), torch.arange(6), logits(3, 6, 4)), gates)


def gate(kept, target, meets_budget=False):
    return StageGate(torch.tensor([kept]), torch.tensor([target]), torch.tensor([len(kept)]), meets_budget)


def test_the_loss_adds_weighted_terms_and_pulls_towards_the_teacher():
    loss = DistillationLoss(
        {
            "kl": KLDivergence(2.0),
            "cross_entropy": CrossEntropy(0.5),
            "hidden": HiddenMSE(0.1),
            "budget": BudgetPenalty(10),
        }
    )
    given = outputs([gate([1.0, 0, 0, 0], 0.5)])
    total, parts = loss(given)
    expected = 2 * parts["kl"] + 0.5 * parts["cross_entropy"] + 0.1 * parts["hidden"] + 10 * parts["budget"]
    torch.testing.assert_close(total, expected)
    assert list(parts) == ["kl", "cross_entropy", "hidden", "budget"] and float(parts["budget"]) == 0.25**2
    total.backward()
    student, teacher = given.student.logits, given.teacher.logits
    with torch.no_grad():
        assert kl_divergence(student - 0.1 * student.grad, teacher) < kl_divergence(student, teacher)


def test_the_budget_term_counts_each_stage_that_misses_its_budget():
    missed, met = gate([1.0, 0, 0, 0], 0.5), gate([1.0, 1, 1, 1], 0.5, meets_budget=True)
    loss = DistillationLoss({"cross_entropy": CrossEntropy(), "budget": BudgetPenalty()})
    assert float(loss(outputs([missed, met, missed]))[1]["budget"]) == 2 * 0.25**2
    assert "budget" not in loss(outputs([met]))[1] and "budget" not in loss(outputs())[1]


def test_terms_without_weight_are_left_out_and_need_no_teacher():
    loss = DistillationLoss({"kl": KLDivergence(0.0), "cross_entropy": CrossEntropy()})
    assert not loss.needs_teacher and not loss.needs_hidden
    total, parts = loss(StepOutputs(AnswerLogits(logits(0, 6, 9), torch.arange(6))))
    assert set(parts) == {"cross_entropy"} and total == parts["cross_entropy"]


@pytest.mark.parametrize(
    ("term", "needs"),
    [(KLDivergence, (True, False)), (HiddenMSE, (True, True)), (CrossEntropy, (False, False))],
)
def test_a_term_says_what_it_needs(term, needs):
    loss = DistillationLoss({"one": term()})
    assert (loss.needs_teacher, loss.needs_hidden) == needs
    assert float(loss(outputs())[0]) > 0


class Sparsity(LossTerm):
    """A term of somebody else's."""

    needs_gates = True

    def forward(self, outputs):
        return torch.stack([one.gate.mean() for one in outputs.gates]).mean()


def test_a_term_that_needs_gates_is_refused_where_there_are_none_and_sees_those_that_meet_their_budget():
    loss = DistillationLoss({"cross_entropy": CrossEntropy(), "sparsity": Sparsity()})
    assert float(loss(outputs([gate([1.0, 0, 0, 0], 0.25, meets_budget=True)]))[1]["sparsity"]) == 0.25
    with pytest.raises(UserError, match="sparsity needs the gates of a stage"):
        loss(outputs())


@pytest.mark.parametrize(
    "terms",
    [
        {"kl": KLDivergence(-1.0)},
        {"kl": KLDivergence(), "budget": BudgetPenalty(float("nan"))},
        {"kl": KLDivergence(0.0)},
        {"budget": BudgetPenalty()},
        {"loss": KLDivergence()},
        {},
    ],
    ids=str,
)
def test_bad_weights_are_refused_with_a_sentence(terms):
    with pytest.raises(UserError, match="loss"):
        DistillationLoss(terms)
