"""One training step of retention gates: the unmodified model answers, the forgetting one answers, only gates learn.

I images, A answer tokens of all their conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.kv_eviction.conversation_data import Transcripts
from learnpruner.kv_eviction.eviction import Eviction
from learnpruner.kv_eviction.fading_attention import gated
from learnpruner.kv_eviction.policies.trimkv import Retention, overfull
from learnpruner.training.forward import forward_logits, teacher_forward
from learnpruner.training.losses import AnswerLogits, Objective
from learnpruner.training.pruner_module import check_machine, keep, scheduled
from learnpruner.utils.errors import UserError

TEACHERS = ("turn", "transcript")


class KVGateLitModule(L.LightningModule):
    """Distils the unmodified model into itself with gates that forget, on conversations longer than the budget.

    backbone: frozen, neither in the optimizer nor in the checkpoint. eviction: its policy's gates learn; its budget is the
    capacity that they are trained for. capacity: weight of what they retain beyond it; higher forgets more.
    teacher: "transcript" answers with the whole conversation before it, as TRIM-KV trains; "turn" answers each question
    alone, for backbones that were taught single turns and are disturbed by earlier ones. warmup, floor: as `PrunerLitModule`.
    """

    def __init__(
        self,
        backbone: Backbone,
        eviction: Eviction,
        objective: Objective,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        capacity: float = 1.0,
        teacher: str = "transcript",
        warmup: float = 0.05,
        floor: float = 0.02,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if teacher not in TEACHERS:
            raise UserError(f"teacher={teacher!r} is refused: choose 'turn' or 'transcript'.")
        if not isinstance(eviction.policy, Retention):
            raise UserError(f"{type(eviction.policy).__name__} has no gates to train: choose kv=trimkv.")
        self.backbone = backbone  # a plain value: its model is no submodule
        self.eviction, self.objective, self.optimizer = eviction.train(), objective, optimizer
        self.capacity, self.taught_by = capacity, teacher
        self.warmup, self.floor, self.config = warmup, floor, config
        self.facts: dict[str, str] = {}
        self.choices: dict[str, Any] = {}

    @property
    def policy(self) -> Retention:
        assert isinstance(self.eviction.policy, Retention)
        return self.eviction.policy

    def on_fit_start(self) -> None:
        self.backbone.model.to(self.device)

    def training_step(self, batch: Transcripts, batch_idx: int) -> Tensor:
        model, hidden = self.backbone.model, self.objective.hidden > 0
        with shared_vision(model):
            aim = self._aim(batch, hidden) if self.objective.needs_teacher else None
            with gated(self.backbone.adapter, self.policy) as log_decays:
                said = conversation_forward(model, batch, hidden)
        loss, parts = self.objective(said, aim)
        parts["overfull"] = overfull(log_decays, self.eviction.budget, self.policy.pool)
        loss = loss + self.capacity * parts["overfull"]
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}}, prog_bar=True, batch_size=1)
        return loss

    @torch.no_grad()
    def _aim(self, batch: Transcripts, hidden: bool) -> AnswerLogits:
        model = self.backbone.model
        return (
            teacher_forward(model, batch, hidden)
            if self.taught_by == "turn"
            else conversation_forward(model, batch, hidden)
        )

    def configure_optimizers(self) -> Any:
        return scheduled(self.make_optimizer(), self.trainer.max_steps, self.warmup, self.floor)

    def make_optimizer(self) -> Optimizer:
        return self.optimizer([p for p in self.policy.parameters() if p.requires_grad])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_machine(checkpoint, self.trainer)


def conversation_forward(model: Any, batch: Transcripts, hidden: bool = False) -> AnswerLogits:
    """What the model says to all questions of an image in one conversation, (A, V), each on the answers before it.

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
