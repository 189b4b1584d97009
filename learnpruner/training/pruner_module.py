"""One training step: the unpruned model answers, the pruned one answers, the objective compares; only pruner weights learn.

R rows (one question each), I images, N visual tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from learnpruner.backbones.loading import Backbone
from learnpruner.core.budget import averaged
from learnpruner.core.relaxations import Relaxation
from learnpruner.data.collate import Batch
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.engine.trace import Record
from learnpruner.plan import Plan
from learnpruner.training.forward import shared_prefix_forward, student_forward, teacher_forward
from learnpruner.training.label_search import label_search_loss
from learnpruner.training.losses import AnswerLogits, Objective
from learnpruner.utils.errors import UserError

log = logging.getLogger(__name__)


class PrunerLitModule(L.LightningModule):
    """Distils the unpruned model into its pruned self.

    backbone: frozen; neither moved into the optimizer nor into the checkpoint. plan: its parameters learn, those of its
    adaptation at the learning rate `adapt_lr`; the unpruned model is never adapted.
    relaxation: from scores to a gate with gradient. optimizer: partial that takes the parameters.
    warmup, floor: shares of all steps and of the learning rate. pool: dropped tokens an image that receive gradient
    in a step (None: all); fewer is faster. seed: randomness of a step is a function of it and of the step.
    config: what made this run; `choices`, `facts`, attributes: which configs, and what it is trained on.
    The checkpoint keeps them.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        relaxation: Relaxation,
        objective: Objective,
        optimizer: Callable[[list[Any]], Optimizer],
        warmup: float = 0.05,
        floor: float = 0.02,
        pool: int | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        adapt_lr: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone  # a plain value: its model is no submodule
        self.plan, self.objective, self.optimizer = plan, objective, optimizer
        self.warmup, self.floor, self.pool, self.seed = warmup, floor, pool, seed
        self.config, self.adapt_lr = config, adapt_lr
        self.facts: dict[str, str] = {}
        self.choices: dict[str, Any] = {}
        self.relaxation, self.learners = relaxation, attach_relaxation(plan, relaxation)
        self.train()

    def on_fit_start(self) -> None:
        if not self.backbone.placed:
            self.backbone.model.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        model, hidden = self.backbone.model, self.objective.hidden > 0
        for stage in self.plan.stages:
            stage.pruner.anneal(self._progress())
        with self._step_randomness(), shared_vision(model):
            if any(stage.pruner.searches for stage in self.plan.stages):
                return self._logged(label_search_loss(model, self.plan, batch))
            aim = teacher_forward(model, batch, hidden) if self.objective.needs_teacher else None
            said, record = self._pruned(batch, hidden)
        loss, parts = self.objective(said, aim, self._gates(record, batch))
        for own in (s.losses for s in record.selections if s.losses):
            loss, parts = loss + torch.stack(list(own.values())).sum(), {**parts, **own}
        if not self._keeps_all:
            self.log_dict({"tokens": self._realised(record)}, prog_bar=True, batch_size=1)
        return self._logged(parts, loss)

    def _logged(self, parts: Mapping[str, Tensor], loss: Tensor | None = None) -> Tensor:
        """The loss, by default the sum of its parts, which are logged."""
        loss = torch.stack(list(parts.values())).sum() if loss is None else loss
        self.log_dict({"loss": loss.detach()}, prog_bar=True, batch_size=1)
        self.log_dict({name: part.detach() for name, part in parts.items()}, batch_size=1)
        return loss

    @property
    def _keeps_all(self) -> bool:
        return all(stage.pruner.keeps_all for stage in self.plan.stages)

    def _pruned(self, batch: Batch, hidden: bool) -> tuple[AnswerLogits, Record]:
        """What the pruned model answers, and what its stages decided."""
        model, plan = self.backbone.model, self.plan
        if plan.positions == "original" and self._keeps_all:
            with plan.on(model) as engine:
                said = shared_prefix_forward(model, batch, hidden)
        else:
            with shared_vision(model, batch.image_index), plan.on(model, mode="masked", pool=self.pool) as engine:
                engine.query_rows(batch.prompt_mask)
                said = student_forward(model, batch, hidden)
        assert engine.record is not None
        return said, engine.record

    def _gates(self, record: Record, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Gate (I, N), target share (I,) and visual tokens (I,) of each stage that does not meet its budget by itself.

        Images may differ in size: gates are 0 on what fills up the smaller ones, and each has a budget of its own.
        """
        missed = [] if self.relaxation.meets_budget else self.learners
        if not missed:
            return []
        sizes, layers = record.sizes[batch.first_rows], self.backbone.adapter.layers
        counts = sizes.new_tensor([self.plan.counts(n, layers, least=True) for n in sizes.tolist()])
        gates = [(record.selections[i].gate, counts[:, i] / sizes) for i in missed]
        return [(gate[batch.first_rows], share, sizes) for gate, share in gates if gate is not None]

    def _realised(self, record: Record) -> Tensor:
        """Visual tokens of an image on the average of the language model's layers and of the batch."""
        kept = [torch.ones_like(s.index) if s.valid is None else s.valid for s in record.selections]
        counts = [one.float().sum(1).mean() for one in kept]
        return torch.as_tensor(averaged(counts, record.cuts, record.sizes.float().mean(), record.layers))  # type: ignore[arg-type]  # tensors add like numbers

    def _progress(self) -> float:
        """Share of the training that is done: 0 at the first step, 1 at the last."""
        if self._trainer is None:
            return 0.0
        return self.trainer.global_step / max(1, self.trainer.max_steps - 1)

    @contextmanager
    def _step_randomness(self) -> Iterator[None]:
        """Random numbers that depend on the seed and the batch only, which several processes share out among them.

        So a resumed run draws the same ones, and so do two processes and one that accumulates two batches.
        """
        number = 0
        if self._trainer is not None:
            number = self._trainer.fit_loop.total_batch_idx * self._trainer.world_size + self._trainer.global_rank
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(hash((self.seed, number, 0)) % 2**63)
            yield

    def configure_optimizers(self) -> Any:
        return scheduled(self.make_optimizer(), self.trainer.max_steps, self.warmup, self.floor)

    def make_optimizer(self) -> Optimizer:
        return self.optimizer(param_groups(self.plan, self.adapt_lr))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_machine(checkpoint, self.trainer)


def param_groups(plan: Plan, adapt_lr: float | None) -> list[Any]:
    """What an optimizer takes: the pruners' weights, and those of the adaptation with a learning rate of their own."""
    pruners = [p for p in plan.stages.parameters() if p.requires_grad]  # type: ignore[attr-defined]  # a ModuleList
    adapted = [p for p in plan.adaptation.parameters() if p.requires_grad] if plan.adaptation else []
    if not adapted:
        return pruners
    rate = {} if adapt_lr is None else {"lr": adapt_lr}
    return [{"params": pruners}] * bool(pruners) + [{"params": adapted, **rate}]


def scheduled(optimizer: Optimizer, total: int, warmup: float, floor: float) -> dict[str, Any]:
    """An optimizer with its learning rate, as Lightning takes them."""
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, total, warmup, floor))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def keep(checkpoint: dict[str, Any], module: Any) -> None:
    """What tells whether another run goes on as this one would."""
    trainer = module.trainer
    checkpoint["config"], checkpoint["choices"] = module.config, module.choices
    checkpoint["facts"] = {**module.facts, "processes": trainer.world_size, "precision": trainer.precision}
    checkpoint["machine"] = {"threads": torch.get_num_threads(), "device": module.device.type}
    count_whole_steps(trainer, checkpoint)


def check_machine(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Refuse another number of processes, or another precision; say where only the rounding differs."""
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
            log.warning("%s %s in place of %s: from here on losses agree to rounding only", name, here.get(name), was)


def count_whole_steps(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """A run that was interrupted between two batches of a step resumes at the step's first."""
    batches = trainer.global_step * trainer.accumulate_grad_batches
    loop = checkpoint["loops"]["fit_loop"]
    for counted in (loop["epoch_loop.batch_progress"]["current"], loop["epoch_loop.batch_progress"]["total"]):
        counted.update(dict.fromkeys(counted, batches))
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step


def learning_rate(step: int, total: int, warmup: float, floor: float) -> float:
    """Share of the full learning rate at a step: linear up over ``warmup`` of all steps, linear down to ``floor``."""
    rising = max(1, round(warmup * total))
    falling = (total - 1 - step) / max(1, total - 1 - rising)
    return min((step + 1) / rising, floor + (1 - floor) * min(1.0, max(0.0, falling)))


def attach_relaxation(plan: Plan, relaxation: Relaxation) -> list[int]:
    """Gives the relaxation to the stages that learn through a gate; returns which they are."""
    if not any(p.requires_grad for p in plan.parameters()):
        raise UserError("the plan has no weights to train; choose a pruner that learns, such as pruner=learnpruner.")
    pruners: list[Any] = [stage.pruner for stage in plan.stages]
    if plan.adaptation is not None and any(pruner.searches for pruner in pruners):
        raise UserError(
            "a method that searches for labels sends no gradient through the model: train it with adapt=none."
        )
    learners = [i for i, pruner in enumerate(pruners) if hasattr(pruner, "relaxation")]
    for i in learners:
        pruners[i].relaxation = relaxation
    return learners
