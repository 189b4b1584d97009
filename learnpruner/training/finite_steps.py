"""A step whose loss or gradient is not finite never reaches the weights."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

IN_A_ROW = 3  # steps left out one after the other that stop the run


class FiniteSteps(Callback):
    """Leaves such a step out, counts it (`skipped` among the metrics), and stops the run at the third in a row.

    All processes decide alike, by one number a step that is read from the device. Under 16-mixed a gradient beyond what
    float16 holds only lowers the scaler's factor: such steps are counted, and stop the run where there is nothing to lower.
    """

    def __init__(self) -> None:
        self.skipped, self.in_a_row = 0, 0
        self.losses: list[Tensor] = []
        self.names: list[str] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.names.append(f"batch {batch_idx} ({', '.join(dict.fromkeys(batch.ids)) or 'unnamed'})")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        loss, norm = torch.stack(self.losses).sum(), get_total_norm([p.grad for p in learned])
        names, self.names, self.losses = self.names, [], []
        if trainer.strategy.reduce_boolean_decision(bool(loss.isfinite() & norm.isfinite())):
            self.in_a_row = 0
        else:
            for parameter in learned:
                parameter.grad = None  # an optimizer leaves weights without gradient alone
            self._left_out(trainer, bool(loss.isfinite()), names)
        pl_module.log("skipped", float(self.skipped), batch_size=1)

    def _left_out(self, trainer: L.Trainer, finite: bool, names: list[str]) -> None:
        self.skipped += 1
        finite, names = gather_faults(finite, names)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if finite and scaler is not None and scaler.get_scale() > 1:
            return
        self.in_a_row += 1
        what, where = "gradient" if finite else "loss", "; ".join(names)
        if self.in_a_row < IN_A_ROW:
            _log.warning("step %d is left out: its %s is not finite, at %s", trainer.global_step, what, where)
            return
        raise UserError(
            f"the {what} is not finite at step {trainer.global_step}, for {self.in_a_row} steps in a row, at {where}: these "
            "steps are left out and the weights are those before them. Look at the samples, or train with a lower "
            "optimizer.lr, or with trainer.gradient_clip_val=1."
        )

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def gather_faults(finite: bool, names: list[str]) -> tuple[bool, list[str]]:
    """Gather what is not finite in any process.

    Args:
        finite: whether the loss of this process is.
        names: of its batches.

    Returns:
        Whether every process's loss is finite, and the batches of those whose is not (of all where all are).
    """
    told: list[Any] = [(finite, names)]
    if distributed.is_initialized():
        told *= distributed.get_world_size()
        distributed.all_gather_object(told, (finite, names))
    bad = [names for one, names in told if not one]
    return not bad, [name for names in bad or [names for _, names in told] for name in names]
