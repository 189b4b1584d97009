"""What every training has in common: a frozen backbone beside it, an optimizer with a schedule, and what a checkpoint keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.training.lightning_compat import batches_met, count_whole_steps
from learnpruner.training.schedules import attach_scheduler, linear_with_warmup
from learnpruner.training.step_seed import step_seed
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)


class FrozenBackboneLitModule(L.LightningModule):
    """Trains weights that act on a backbone which neither the optimizer nor the checkpoint holds.

    Args:
        backbone: frozen.
        optimizer: partial that takes the parameters, or groups of them.
        scheduler: partial that takes the optimizer, as `attach_scheduler`; None is the linear default.
        seed: randomness of a step is a function of it and of the step.
        config: settings of the run, which its checkpoints keep.
    """

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Callable[[list[Any]], Optimizer],
        scheduler: Callable[..., Any] | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone  # a plain value: its model is no submodule
        self.optimizer, self.scheduler = optimizer, scheduler or partial(linear_with_warmup)
        self.seed, self.config = seed, config
        self.facts: dict[str, str] = {}  # digests of what it is trained on
        self.choices: dict[str, Any] = {}  # the config that was chosen of each group

    def trained_parameters(self) -> list[Any]:
        """List what the optimizer takes: parameters, or groups of them."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        if not self.backbone.placed:
            self.backbone.model.to(self.device)

    def make_optimizer(self) -> Optimizer:
        return self.optimizer(self.trained_parameters())

    def configure_optimizers(self) -> Any:
        return attach_scheduler(self.scheduler, self.make_optimizer(), self.trainer.max_steps)

    def log_loss(self, loss: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Log the loss and its parts; return the loss."""
        self.log_dict({"loss": loss.detach()}, prog_bar=True, batch_size=1)
        self.log_dict({name: part.detach() for name, part in parts.items()}, batch_size=1)
        return loss

    @contextmanager
    def step_randomness(self) -> Iterator[None]:
        """Draw random numbers inside the block by the seed and the batch only, which several processes share out among them.

        So a resumed run draws the same ones, and so do two processes and one that accumulates two batches.
        """
        number = 0
        if self._trainer is not None:
            number = batches_met(self._trainer) * self._trainer.world_size + self._trainer.global_rank
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(step_seed(self.seed, number))
            yield

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_run(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_machine(checkpoint, self.trainer)


def keep_run(checkpoint: dict[str, Any], module: Any) -> None:
    """Put into a checkpoint what tells whether another run goes on as this one would."""
    trainer = module.trainer
    checkpoint["config"], checkpoint["choices"] = module.config, module.choices
    checkpoint["facts"] = {**module.facts, "processes": trainer.world_size, "precision": trainer.precision}
    checkpoint["machine"] = {"threads": torch.get_num_threads(), "device": module.device.type}
    count_whole_steps(trainer, checkpoint)


def check_machine(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Refuse another number of processes, or another precision; say where only the rounding differs.

    Args:
        checkpoint: that the run goes on from.
        trainer: of the run.

    Raises:
        UserError: where the losses would differ.
    """
    now = {"processes": trainer.world_size, "precision": trainer.precision}
    for name, setting in (("processes", "trainer.devices"), ("precision", "trainer.precision")):
        was = (checkpoint.get("facts") or {}).get(name, now[name])
        if was != now[name]:
            raise UserError(
                f"the checkpoint's run had {name} {was} and this one has {now[name]}: its losses would be others; set "
                f"{setting} so that it has {was}, or begin anew from its export with plan=."
            )
    here = {"threads": torch.get_num_threads(), "device": trainer.strategy.root_device.type}
    for name, was in (checkpoint.get("machine") or {}).items():
        if was != here.get(name):
            _log.warning("%s %s in place of %s: from here on losses agree to rounding only", name, here.get(name), was)
