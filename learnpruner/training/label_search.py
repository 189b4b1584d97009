"""Training without gradient through the model: a method searches for labels, and the frozen model says what they cost."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import Signal, View
from learnpruner.data.collate import Batch
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan, Stage
from learnpruner.training.forward import student_forward
from learnpruner.utils.errors import UserError


class FixedSelection(Pruner):
    """Keeps the sets (B, N) that it is told, all tokens without; remembers what it saw."""

    together = True

    def __init__(self, needs: frozenset[Signal] = frozenset(), sets: Tensor | None = None) -> None:
        super().__init__()
        self.needs, self.sets = needs, sets
        self.seen: View | None = None

    def forward(self, view: View, keep: Tensor) -> Selection:
        self.seen = view
        sets = torch.ones_like(view.tokens[..., 0]) if self.sets is None else self.sets.float()
        return top_k_selection(sets, sets.sum(1).long().cpu(), view.valid)


def label_search_loss(model: Any, plan: Plan, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of a method that searches, on some questions of the batch.

    Args:
        model: the frozen backbone's.
        plan: of one stage, whose pruner says how many questions it `searches`.
        batch: images and their questions with answers.

    Returns:
        The terms of the loss by name, weighted already.

    Raises:
        UserError: where the plan has other stages.
    """
    if len(plan.stages) != 1:
        raise UserError(
            f"A method that searches for labels is trained as the only stage, not as one of {len(plan.stages)}."
        )
    stage = plan.stages[0]
    chosen = torch.randperm(len(batch.input_ids))[: stage.pruner.searches].sort().values
    few = batch.pick(chosen.to(batch.input_ids.device))
    view, keep = observe_stage(model, plan, few)
    words = model.get_input_embeddings().weight

    def cost(sets: Tensor) -> Tensor:
        rows = torch.arange(len(sets), device=sets.device).repeat_interleave(sets.shape[1])
        return loss_of_kept_sets(model, stage.at, few.pick(rows), sets.flatten(0, 1)).view(sets.shape[:2])

    return dict(stage.pruner.search_loss(view, keep, cost, words))


@torch.no_grad()
def observe_stage(model: Any, plan: Plan, batch: Batch) -> tuple[View, Tensor]:
    """Look at what the plan's stage sees of a batch, one row a question, and its budget (B,)."""
    stage = plan.stages[0]
    told = FixedSelection(stage.pruner.needs)
    with shared_vision(model, batch.image_index), Plan([Stage(told, stage.at)]).on(model, "masked") as engine:
        engine.query_rows(batch.prompt_mask)
        student_forward(model, batch)
    view, layers = told.seen, plan.backbone["layers"]
    assert view is not None
    rows, n = view.tokens.shape[:2]
    sizes = [n] * rows if view.valid is None else view.valid.sum(1).tolist()
    return view, torch.tensor([plan.counts(size, layers)[0] for size in sizes])


@torch.no_grad()
def loss_of_kept_sets(model: Any, at: int | str, batch: Batch, sets: Tensor) -> Tensor:
    """Average the loss of the data's answer tokens of each row, where the model reads some tokens only.

    Args:
        model: the frozen backbone's.
        at: the place of the stage.
        batch: R rows, one question each.
        sets: (R, N) bool, the tokens that it reads.

    Returns:
        (R,) nats an answer token.
    """
    with shared_vision(model, batch.image_index), Plan([Stage(FixedSelection(sets=sets), at)]).on(model):
        said = student_forward(model, batch)
    each = F.cross_entropy(said.logits.float(), said.targets, reduction="none")
    rows = batch.answers[:, 0]
    total = each.new_zeros(len(sets)).index_add(0, rows, each)
    return total / torch.bincount(rows, minlength=len(sets))
