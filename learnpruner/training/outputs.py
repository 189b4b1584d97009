"""What a training step hands to the loss: answers of student and teacher, and the gates of the stages.

A answer tokens of the whole batch, V words, D width, I images, N visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class AnswerLogits:
    """What a model says at the positions that predict an answer token, one row a token of the batch.

    Args:
        logits: (A, V).
        targets: (A,) the answer's own tokens.
        hidden: (A, D) last hidden states, None where no term of the loss asks for them.
    """

    logits: Tensor
    targets: Tensor
    hidden: Tensor | None = None


class StageGate(NamedTuple):
    """What a stage keeps, with gradient.

    Args:
        gate: (I, N), 1 where a token is kept going forward, 0 on what fills up an image.
        target_share: (I,) share of an image's visual tokens that the budget asks this stage to keep.
        sizes: (I,) visual tokens of each image.
        meets_budget: whether the relaxation keeps exactly that share by itself.
    """

    gate: Tensor
    target_share: Tensor
    sizes: Tensor
    meets_budget: bool = False


@dataclass(frozen=True)
class StepOutputs:
    """Everything that a term of the loss may look at.

    Args:
        student: the pruned model's answers.
        teacher: the unpruned model's, None where no term asks for them.
        gates: one of each stage that has any.
    """

    student: AnswerLogits
    teacher: AnswerLogits | None = None
    gates: Sequence[StageGate] = ()
