"""What is minimised: a weighted sum of terms on the outputs of student (pruned) and teacher (unpruned).

A answer tokens of the whole batch, V words, D width, B images, N visual tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.training.outputs import StepOutputs
from learnpruner.utils.errors import UserError

LOGGED_ALREADY = ("loss", "tokens", "skipped")  # metrics of every step


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute KL(teacher || student), the mean over answer tokens, in nats.

    Args:
        student_logits: (..., V).
        teacher_logits: (..., V).
        mask: (...) bool, where a token counts; None for all.
    """
    if mask is not None:
        student_logits, teacher_logits = student_logits[mask], teacher_logits[mask]
    student = F.log_softmax(student_logits.flatten(0, -2).float(), -1)
    teacher = F.log_softmax(teacher_logits.flatten(0, -2).float(), -1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Average -log p(target) over answer tokens, in nats: logits (..., V), targets (...) with -100 where none counts."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-100)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the squared distance of last hidden states over the teacher's squared norm, the mean over answer tokens.

    The ratio makes one weight fit backbones of any feature scale: 0 is a perfect match, 1 as far off as the zero vector.

    Args:
        student: (..., D).
        teacher: (..., D).
        mask: (...) bool, where a token counts; None for all.
    """
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    student, teacher = student.float(), teacher.float()
    return ((student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp_min(1e-12)).mean()


def budget_penalty(gate: Tensor, share: float | Tensor, sizes: Tensor | None = None) -> Tensor:
    """Average (kept share - target share)^2 over images.

    Args:
        gate: (B, N), 1 where a token is kept.
        share: what to keep, a number or (B,).
        sizes: (B,) visual tokens of each image, where the gate is 0 on padding or an earlier stage has dropped some; N
            without.
    """
    kept = gate.mean(1) if sizes is None else gate.sum(1) / sizes
    return (kept - share).square().mean()


class LossTerm(nn.Module):
    """One term of the loss; subclass it, say what it needs, and name it in a config of conf/loss.

    Args:
        weight: factor of the term in the sum; 0 leaves it out.

    Attributes:
        needs_teacher: the unpruned model answers too, which costs a pass of it.
        needs_hidden: answers hold the last hidden states.
        needs_gates: refused where no stage has a gate, instead of vanishing.
        only_regularizes: says nothing about answers, so that it cannot be the only term.
    """

    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    needs_gates: ClassVar[bool] = False
    only_regularizes: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def applies(self, outputs: StepOutputs) -> bool:
        """Tell whether there is anything to penalise in this step; else the term is neither added nor logged."""
        return True

    def forward(self, outputs: StepOutputs) -> Tensor:
        """Compute the term, a scalar before its weight."""
        raise NotImplementedError


class KLDivergence(LossTerm):
    """Distance to the unpruned model's distribution over the next token, as `kl_divergence`."""

    needs_teacher = True

    def forward(self, outputs: StepOutputs) -> Tensor:
        assert outputs.teacher is not None
        return kl_divergence(outputs.student.logits, outputs.teacher.logits)


class CrossEntropy(LossTerm):
    """-log p of the data's own answers, as `cross_entropy`."""

    def forward(self, outputs: StepOutputs) -> Tensor:
        return cross_entropy(outputs.student.logits, outputs.student.targets)


class HiddenMSE(LossTerm):
    """Relative distance of the last hidden states to the unpruned model's, as `hidden_mse`."""

    needs_teacher = True
    needs_hidden = True

    def forward(self, outputs: StepOutputs) -> Tensor:
        assert outputs.teacher is not None and outputs.student.hidden is not None and outputs.teacher.hidden is not None
        return hidden_mse(outputs.student.hidden, outputs.teacher.hidden)


class BudgetPenalty(LossTerm):
    """Squared miss of the budget, summed over the stages whose relaxation does not meet it by itself."""

    only_regularizes = True

    def applies(self, outputs: StepOutputs) -> bool:
        return not all(one.meets_budget for one in outputs.gates)

    def forward(self, outputs: StepOutputs) -> Tensor:
        missed = [one for one in outputs.gates if not one.meets_budget]
        return torch.stack([budget_penalty(one.gate, one.target_share, one.sizes) for one in missed]).sum()


class DistillationLoss(nn.Module):
    """The weighted sum of terms that a config of conf/loss names.

    Args:
        terms: by the names under which they are logged; those of weight 0 are left out.

    Raises:
        UserError: where a weight is no number of 0 or more, or nothing is left to learn from.
    """

    def __init__(self, terms: Mapping[str, LossTerm]) -> None:
        super().__init__()
        for name, term in terms.items():
            if name in LOGGED_ALREADY:
                raise UserError(f"loss.{name} has the name of a metric of every step; call the term otherwise.")
            if not (math.isfinite(term.weight) and term.weight >= 0):
                raise UserError(f"loss.{name}.weight is {term.weight}; a weight is a finite number, 0 or above.")
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term.weight})
        if all(term.only_regularizes for term in self.active.values()):
            raise UserError(
                f"loss={list(terms)} has no term to learn from; give one, such as kl or cross_entropy, a weight above 0."
            )

    @property
    def active(self) -> dict[str, LossTerm]:
        """The terms of weight above 0, by name."""
        return dict(self.terms.items())  # type: ignore[arg-type]  # a ModuleDict of terms

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.active.values())

    @property
    def needs_hidden(self) -> bool:
        return any(term.needs_hidden for term in self.active.values())

    def forward(self, outputs: StepOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare student and teacher.

        Args:
            outputs: of one step.

        Returns:
            The loss, and its parts before their weights by name.

        Raises:
            UserError: where a term needs gates and no stage has any.
        """
        parts: dict[str, Tensor] = {}
        for name, term in self.active.items():
            if term.needs_gates and not outputs.gates:
                raise UserError(
                    f"loss.{name} needs the gates of a stage, and nothing that is trained here has any: leave it out, or "
                    "train a pruner that learns through a gate, such as pruner=learnpruner."
                )
            if term.applies(outputs):
                parts[name] = term(outputs)
        loss = torch.stack([self.active[name].weight * value for name, value in parts.items()]).sum()
        return loss, parts


def default_loss() -> DistillationLoss:
    """Make the loss of conf/loss/kl.yaml."""
    return DistillationLoss({"kl": KLDivergence(), "budget": BudgetPenalty(100.0)})
