"""Training objectives: functions of the outputs of student (pruned) and teacher (unpruned).

A answer tokens of the whole batch, V words, D width, B images, N visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.config.schema import ObjectiveConfig


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(teacher || student), mean over answer tokens: logits (..., V) and where a token counts (...) or None for all."""
    if mask is not None:
        student_logits, teacher_logits = student_logits[mask], teacher_logits[mask]
    student = F.log_softmax(student_logits.flatten(0, -2).float(), -1)
    teacher = F.log_softmax(teacher_logits.flatten(0, -2).float(), -1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over answer tokens of -log p(target): logits (..., V), targets (...) with -100 where a token does not count."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-100)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance of last hidden states (..., D) over the teacher's squared norm, mean over answer tokens.

    The ratio makes one weight fit backbones of any feature scale: 0 is a perfect match, 1 as far off as the zero vector.
    """
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    student, teacher = student.float(), teacher.float()
    return ((student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp_min(1e-12)).mean()


def budget_penalty(gate: Tensor, share: float | Tensor, sizes: Tensor | None = None) -> Tensor:
    """Mean over images of (kept share - target share)^2: gate (B, N), share a number or (B,).

    sizes: (B,) visual tokens of each image, where the gate is 0 on padding or an earlier stage has dropped some; N without.
    """
    kept = gate.mean(1) if sizes is None else gate.sum(1) / sizes
    return (kept - share).square().mean()


@dataclass(frozen=True)
class AnswerLogits:
    """What the model says at the positions that predict an answer token, one row a token of the batch.

    logits: (A, V); targets: (A,) the answer's own tokens; hidden: (A, D) last hidden states, where the objective asks for them.
    """

    logits: Tensor
    targets: Tensor
    hidden: Tensor | None = None


class Objective(ObjectiveConfig):
    """The weighted sum that conf/objective describes."""

    def __call__(
        self,
        student: AnswerLogits,
        teacher: AnswerLogits | None,
        gates: Sequence[tuple[Tensor, Tensor | float] | tuple[Tensor, Tensor | float, Tensor]] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its unweighted parts. ``gates``: what `budget` takes, of each stage that needs a budget term."""
        parts: dict[str, Tensor] = {}
        if self.kl:
            assert teacher is not None
            parts["kl"] = kl_divergence(student.logits, teacher.logits)
        if self.cross_entropy:
            parts["cross_entropy"] = cross_entropy(student.logits, student.targets)
        if self.hidden:
            assert teacher is not None and student.hidden is not None and teacher.hidden is not None
            parts["hidden"] = hidden_mse(student.hidden, teacher.hidden)
        if self.budget and gates:
            parts["budget"] = torch.stack([budget_penalty(*gate) for gate in gates]).sum()
        loss = torch.stack([getattr(self, name) * value for name, value in parts.items()]).sum()
        return loss, parts

    @property
    def needs_teacher(self) -> bool:
        return self.kl > 0 or self.hidden > 0
