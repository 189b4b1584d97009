"""What is read from, or written into, Lightning's private parts: here and nowhere else. Written for lightning 2.5 and 2.6.

tests/training/test_lightning_compat.py fails where a new version has moved one of them.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


def count_whole_steps(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Set a checkpoint back to the first batch of its step, where its run was interrupted between two."""
    batches = trainer.global_step * trainer.accumulate_grad_batches
    loop = checkpoint["loops"]["fit_loop"]
    for counted in (loop["epoch_loop.batch_progress"]["current"], loop["epoch_loop.batch_progress"]["total"]):
        counted.update(dict.fromkeys(counted, batches))
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step


def batches_met(trainer: L.Trainer) -> int:
    """Count the batches of this process before the one that runs."""
    return trainer.fit_loop.total_batch_idx


def wait_for_no_other(trainer: Any) -> None:
    """Wait for none of several processes: those that have not failed would never answer this one."""
    trainer.strategy.barrier = lambda *_: None
    trainer.strategy.reduce_boolean_decision = lambda decision, all=True: decision


def kill_launched(trainer: L.Trainer) -> None:
    """End the processes that this one has started."""
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        trainer.strategy.launcher.kill(signal.SIGKILL)


def last_saved(callback: ModelCheckpoint) -> tuple[Path | None, int]:
    """Find the newest checkpoint that is there, None before the first, and the step behind which it was written."""
    path = str(callback._last_checkpoint_saved)
    return (Path(path) if path and Path(path).is_file() else None), callback._last_global_step_saved


def write_with(logger: CSVLogger, writer: ExperimentWriter) -> None:
    """Give the logger its writer, in place of the one that it would make at the first metric."""
    logger._experiment = writer
