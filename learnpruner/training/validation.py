"""How well the pruned model answers held-out samples while it trains, beside the unpruned one.

R rows (one question each), A answer tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.data.collate import Batch
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan
from learnpruner.training.forward import student_forward, teacher_forward
from learnpruner.training.outputs import AnswerLogits

METRIC = "val/retention"


class HeldOutScores:
    """Counts of right answers under a plan and without it, summed over the batches of a validation.

    An answer is right where each of its tokens is the likeliest one behind those before it: greedy decoding would give it,
    word for word. So one pass tells what generation would, token by token.
    """

    def __init__(self) -> None:
        self.unpruned: dict[int, Tensor] = {}  # by batch; the frozen model answers the same in each validation
        self.sums = torch.zeros(2, 4, dtype=torch.float64)

    def reset(self) -> None:
        """Begin a validation."""
        self.sums = torch.zeros_like(self.sums)

    @torch.no_grad()
    def add(self, model: Any, plan: Plan, batch: Batch, number: int) -> None:
        """Count the answers to one batch.

        Args:
            model: the frozen backbone's.
            plan: in evaluation mode; tokens are dropped, as when it is used.
            batch: of held-out samples.
            number: of the batch, the same in each validation.
        """
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), shared_vision(model):
            torch.manual_seed(number)
            if number not in self.unpruned:
                self.unpruned[number] = answer_counts(teacher_forward(model, batch), batch)
            with shared_vision(model, batch.image_index), plan.on(model) as engine:
                engine.query_rows(batch.prompt_mask)
                pruned = answer_counts(student_forward(model, batch), batch)
        self.sums += torch.stack([pruned, self.unpruned[number]])

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Work out what to log.

        Args:
            sums: (2, 4) of all processes; rows as `answer_counts`, of the pruned and the unpruned model.

        Returns:
            `val/accuracy`, `val/loss` (nats an answer token) and, where the unpruned model has any answer right,
            `val/retention`: accuracy over the unpruned model's.
        """
        (right, rows, loss, tokens), (unpruned, *_) = sums.tolist()
        found = {"val/accuracy": right / max(1, rows), "val/loss": loss / max(1, tokens)}
        return found if unpruned == 0 else {METRIC: right / unpruned, **found}


def answer_counts(out: AnswerLogits, batch: Batch) -> Tensor:
    """Count, in (4,): rows answered right, rows, -log p summed over answer tokens, answer tokens."""
    rows = batch.answers[:, 0]
    wrong = torch.zeros(len(batch.input_ids), device=rows.device).index_add_(
        0, rows, (out.logits.argmax(-1) != out.targets).float()
    )
    asked = torch.bincount(rows, minlength=len(wrong)) > 0
    loss = F.cross_entropy(out.logits.float(), out.targets, reduction="sum")
    counts = [((wrong == 0) & asked).sum(), asked.sum(), loss, torch.tensor(len(rows))]
    return torch.stack([one.double().cpu() for one in counts])


def watched_metric(callback: Any) -> str | None:
    """Find the validation metric that a callback waits for, None where it waits for none."""
    monitor = getattr(callback, "monitor", None)
    return monitor if isinstance(monitor, str) and monitor.startswith("val/") else None


def validates(settings: Mapping[str, Any]) -> bool:
    """Tell whether a trainer of these settings validates."""
    return settings.get("val_check_interval") is not None
