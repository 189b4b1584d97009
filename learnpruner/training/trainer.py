"""The Lightning Trainer of a run: progress bar, precision, and how it ends."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed

from learnpruner.config.training import CallbacksConfig, TrainerConfig
from learnpruner.training.checkpointing import CheckpointFiles, SaveOnExceptionCheckpoint
from learnpruner.training.failures import explain_training_failure
from learnpruner.training.finite_steps import FiniteSteps
from learnpruner.training.lightning_compat import kill_launched
from learnpruner.training.stop_on_signal import StopOnSignal
from learnpruner.utils.errors import LostProcessError, UserError
from learnpruner.utils.interrupts import exit_on_signal, exit_status, handle_signals

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
SILENCED_WARNINGS = (
    ".*does not have many workers.*",
    ".*logs directory .* exists and is not empty.*",  # the run's own folder, which holds its config already
    ".*Checkpoint directory .* exists and is not empty.*",  # a run that goes on in its own
    ".*The dirpath has changed.*",  # a resumed run has its own folder
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # they are; their settings may differ
)


class ProgressBar(TQDMProgressBar):
    """Loss and realised budget beside the bar; on a file or pipe it writes now and then only."""

    def __init__(self, every: int) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else every)

    def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
        super().on_train_batch_start(trainer, *rest)
        self.train_progress_bar.total = trainer.num_training_batches  # Lightning's own total is wrong after a resume
        self.train_progress_bar.set_description("training", refresh=False)

    def get_metrics(self, trainer: Any, module: Any) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, module)
        metrics.pop("v_num", None)
        return metrics


def fit(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, ckpt_path: str | None
) -> int | None:
    """`trainer.fit`; where one of several processes fails, none is left waiting for it.

    The first ends those that it started. When one of them stops, the first loses its connection, or Lightning ends it.
    A signal ends the program behind the step that it meets.

    Returns:
        The signal that came in the last step: the training is done, and the program ends when its weights are exported.
    """
    stop = next(one for one in trainer.callbacks if isinstance(one, StopOnSignal))  # type: ignore[attr-defined]
    try:
        with handle_signals(exit_on_signal):
            trainer.fit(module, data, ckpt_path=ckpt_path)
        return stop.received
    except BaseException as error:
        kill_launched(trainer)
        if stop.received is not None:
            raise SystemExit(exit_status(stop.received)) from error
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and interrupted:  # Lightning exits with 1
            raise SystemExit(exit_status(signal.SIGINT)) from None
        if isinstance(error, distributed.DistError) or (isinstance(error, Exception) and "gloo" in str(error)):
            raise LostProcessError("another process of this run has stopped; its own message says why.") from None
        if (told := explain_training_failure(error, trainer)) is not None:
            raise told from error
        raise


def make_trainer(
    config: TrainerConfig,
    callbacks: CallbacksConfig,
    loggers: list[Logger],
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> L.Trainer:
    """A trainer that counts in steps and writes into the run's folder. dtype: of the frozen weights."""
    precision = resolve_precision(config, dtype)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for noise in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", noise)
    try:
        return L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy=config.strategy,
            precision=precision,  # type: ignore[arg-type]  # checked by TrainerConfig
            max_steps=config.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip or None,
            log_every_n_steps=config.log_every,
            profiler=PROFILERS[config.profiler](folder, "profile") if config.profiler else None,
            logger=loggers or False,
            callbacks=make_callbacks(callbacks, config, folder, bool(loggers)),
            enable_checkpointing=callbacks.checkpoint_every > 0,
            enable_progress_bar=callbacks.progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            plugins=[CheckpointFiles()],
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(
            f"trainer.accelerator={config.accelerator} with trainer.devices={config.devices} is refused: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}; trainer=auto takes what is there."
        ) from None


def resolve_precision(config: TrainerConfig, dtype: torch.dtype) -> str:
    """The precision; auto is bf16-mixed where the hardware computes in bfloat16, else 32-true.

    A backbone in float16 computes in it as it is, which mixes with float16 on a GPU and with nothing on a CPU.
    """
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if dtype == torch.float16:
        fits = ("auto", "32-true", "16-mixed") if gpu else ("auto", "32-true")
        if config.precision not in fits:
            raise UserError(
                f"trainer.precision={config.precision} and backbone.dtype=float16 do not go together"
                f"{'' if gpu else ' on a CPU'}: take trainer.precision=auto, or backbone.dtype=bfloat16."
            )
        return "16-mixed" if gpu and config.precision != "32-true" else "32-true"
    if config.precision != "auto":
        return config.precision
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if native else "32-true"


def make_callbacks(callbacks: CallbacksConfig, trainer: TrainerConfig, folder: Path, logged: bool) -> list[Callback]:
    made: list[Callback] = [StopOnSignal(), FiniteSteps()]
    if callbacks.progress:
        made.append(ProgressBar(trainer.log_every))
    if logged:
        made.append(LearningRateMonitor("step"))
    if callbacks.checkpoint_every:
        made.append(
            SaveOnExceptionCheckpoint(folder / "checkpoints", min(callbacks.checkpoint_every, trainer.max_steps))
        )
    return made
