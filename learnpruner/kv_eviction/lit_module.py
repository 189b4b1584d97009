"""One training step of retention gates: the unmodified model answers, the forgetting one answers, only gates learn.

I images, A answer tokens of all their conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.kv_eviction.conversation_data import TranscriptBatch
from learnpruner.kv_eviction.eviction import Eviction
from learnpruner.kv_eviction.fading_attention import fading_attention
from learnpruner.kv_eviction.policies.trimkv import TrimKV, capacity_excess
from learnpruner.training.base_module import FrozenBackboneLitModule
from learnpruner.training.forward import forward_logits, teacher_forward
from learnpruner.training.losses import DistillationLoss
from learnpruner.training.outputs import AnswerLogits, StepOutputs
from learnpruner.utils.errors import UserError

_TEACHERS = ("turn", "transcript")


class KVGateLitModule(FrozenBackboneLitModule):
    """Distils the unmodified model into itself with gates that forget, on conversations longer than the budget.

    Args:
        backbone: frozen, neither in the optimizer nor in the checkpoint.
        eviction: its policy's gates learn; its budget is the capacity that they are trained for.
        loss: terms and their weights; none may need gates of a pruner.
        optimizer: partial that takes the parameters.
        capacity_weight: weight of what the gates retain beyond the budget; higher forgets more.
        teacher: "transcript" answers with the whole conversation before it, as TRIM-KV trains; "turn" answers each question
            alone, for backbones that were taught single turns and are disturbed by earlier ones.
        scheduler: partial that takes the optimizer.
        config: settings of the run, which its checkpoints keep.
    """

    def __init__(
        self,
        backbone: Backbone,
        eviction: Eviction,
        loss: DistillationLoss,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        capacity_weight: float = 1.0,
        teacher: str = "transcript",
        scheduler: Callable[..., Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, scheduler, config=config)
        if teacher not in _TEACHERS:
            raise UserError(f"teacher={teacher!r} is refused: choose 'turn' or 'transcript'.")
        if not isinstance(eviction.policy, TrimKV):
            raise UserError(f"{type(eviction.policy).__name__} has no gates to train: choose kv_eviction=trimkv.")
        self.eviction, self.loss = eviction.train(), loss
        self.capacity_weight, self.taught_by = capacity_weight, teacher

    @property
    def policy(self) -> TrimKV:
        assert isinstance(self.eviction.policy, TrimKV)
        return self.eviction.policy

    def trained_parameters(self) -> list[Any]:
        return [p for part in (self.policy, self.loss) for p in part.parameters() if p.requires_grad]

    def training_step(self, batch: TranscriptBatch, batch_idx: int) -> Tensor:
        model, hidden = self.backbone.model, self.loss.needs_hidden
        with shared_vision(model):
            teacher_out = self.teacher_forward(batch) if self.loss.needs_teacher else None
            with fading_attention(self.backbone.family, self.policy) as log_decays:
                student_out = conversation_forward(model, batch, hidden)
        loss, parts = self.loss(StepOutputs(student_out, teacher_out))
        parts["overfull"] = capacity_excess(log_decays, self.eviction.budget, self.policy.pool)
        loss = loss + self.capacity_weight * parts["overfull"]
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}}, prog_bar=True, batch_size=1)
        return loss

    @torch.no_grad()
    def teacher_forward(self, batch: TranscriptBatch) -> AnswerLogits:
        """Run the unmodified model, as `teacher` says."""
        model, hidden = self.backbone.model, self.loss.needs_hidden
        answer = teacher_forward if self.taught_by == "turn" else conversation_forward
        return answer(model, batch, hidden)


def conversation_forward(model: Any, batch: TranscriptBatch, hidden: bool = False) -> AnswerLogits:
    """Run the model on all questions of an image in one conversation, (A, V), each on the answers before it.

    The part that ends with the image is read first, without gradient: nothing in it depends on a gate.
    """
    start, inputs = batch.prefix, {"pixel_values": batch.pixel_values, "use_cache": False}
    if start:
        with torch.no_grad():
            prompt = model(input_ids=batch.whole[:, :start], **{**inputs, "use_cache": True}, logits_to_keep=1)
        inputs = {"past_key_values": prompt.past_key_values, "use_cache": True}
    inputs |= {"input_ids": batch.whole[:, start:], "attention_mask": batch.present}
    logits, states = forward_logits(model, hidden, **inputs, logits_to_keep=batch.last)
    rows, columns = batch.predicts.unbind(1)
    targets, columns = batch.whole[rows, columns + 1], columns - (batch.whole.shape[1] - batch.last)
    return AnswerLogits(logits[rows, columns], targets, None if states is None else states[rows, columns])
