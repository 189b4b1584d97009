"""The Lightning Trainer of a run: progress bar, precision, and how it ends."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed

from learnpruner.training.checkpointing import BestCheckpoint, CheckpointFiles
from learnpruner.training.failures import explain_training_failure
from learnpruner.training.finite_steps import FiniteSteps
from learnpruner.training.lightning_compat import kill_launched
from learnpruner.training.stop_on_signal import StopOnSignal
from learnpruner.training.validation import validates, watched_metric
from learnpruner.utils.errors import LostProcessError, UserError
from learnpruner.utils.interrupts import exit_on_signal, exit_status, handle_signals

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "precision": "auto",
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "profiler": None,
    "val_check_interval": None,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
SILENCED_WARNINGS = (
    ".*does not have many workers.*",
    ".*logs directory .* exists and is not empty.*",  # the run's own folder, which holds its config already
    ".*Checkpoint directory .* exists and is not empty.*",  # a run that goes on in its own
    ".*The dirpath has changed.*",  # a resumed run has its own folder
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    ".*validation_step.* Skipping val loop.*",  # said by trainer.val_check_interval
    ".*callbacks used to create the checkpoint need to be provided.*",  # they are; their settings may differ
)


class ProgressBar(TQDMProgressBar):
    """Loss and realised budget beside the bar.

    Args:
        refresh_rate: steps between lines on a file or pipe; a terminal shows each step.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else refresh_rate)

    def init_validation_tqdm(self) -> Any:
        return Tqdm(disable=True)  # its metrics stand beside the bar

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
    """Run `trainer.fit`; where one of several processes fails, none is left waiting for it.

    The first ends those that it started. When one of them stops, the first loses its connection, or Lightning ends it.
    A signal ends the program behind the step that it meets.

    Args:
        trainer: of the run.
        module: that is trained.
        data: that it is trained on.
        ckpt_path: of the checkpoint to go on from, None to begin.

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
    settings: Mapping[str, Any],
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> L.Trainer:
    """Make a trainer that counts in steps and writes into the run's folder.

    Args:
        settings: arguments of Lightning's Trainer, by its own names, beside those that are made here. `precision` may be
            "auto"; without `val_check_interval` nothing is validated; `profiler` writes into the folder.
        callbacks: beside those that every run has.
        loggers: none for no logs.
        folder: of the run.
        dtype: of the frozen weights.

    Raises:
        UserError: for arguments, or a combination of them, that Lightning refuses.
    """
    given = DEFAULTS | dict(settings)
    if "max_steps" in given:  # a short run logs its last step
        given["log_every_n_steps"] = min(given["log_every_n_steps"], given["max_steps"])
    given["precision"] = resolve_precision(given["precision"], given["accelerator"], dtype)
    if given["profiler"] is not None:
        given["profiler"] = PROFILERS[given["profiler"]](folder, "profile")
    if validates(given):
        if isinstance(given["val_check_interval"], int):  # batches of the whole run
            given["check_val_every_n_epoch"] = None
    else:
        given["limit_val_batches"], given["val_check_interval"] = 0, None
    given["gradient_clip_val"] = given["gradient_clip_val"] or None  # 0 does not clip
    every = [StopOnSignal(), FiniteSteps(), *fitting_callbacks(callbacks, bool(loggers), validates(given))]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for noise in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", noise)
    try:
        return L.Trainer(
            **given,
            max_epochs=-1,
            logger=list(loggers) or False,
            callbacks=every,
            enable_checkpointing=any(isinstance(one, Checkpoint) for one in every),
            enable_progress_bar=any(isinstance(one, LightningProgressBar) for one in every),
            use_distributed_sampler=False,
            default_root_dir=folder,
            plugins=[CheckpointFiles()],
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(
            f"trainer.accelerator={given['accelerator']} with trainer.devices={given['devices']} is refused: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}; trainer=auto takes what is there."
        ) from None


def fitting_callbacks(callbacks: Sequence[Callback], logged: bool, validated: bool) -> list[Callback]:
    """Pick the callbacks that have something to do in this run.

    Args:
        callbacks: of the settings.
        logged: whether the run has a logger.
        validated: whether it validates.

    Raises:
        UserError: where one waits for a validation that never comes, other than the checkpoint of the best one.
    """
    for one in callbacks:
        metric = watched_metric(one)
        if metric is not None and not validated and not isinstance(one, BestCheckpoint):
            raise UserError(
                f"{type(one).__name__} watches {metric}, and this run validates nothing: set "
                "trainer.val_check_interval=0.25, or leave the callback out."
            )
    return [one for one in callbacks if logged or not isinstance(one, LearningRateMonitor)]


def resolve_precision(precision: str, accelerator: str, dtype: torch.dtype) -> str:
    """Choose the precision; auto is bf16-mixed where the hardware computes in bfloat16, else 32-true.

    A backbone in float16 computes in it as it is, which mixes with float16 on a GPU and with nothing on a CPU.

    Args:
        precision: as Lightning names it, or "auto".
        accelerator: as Lightning names it.
        dtype: of the frozen weights.
    """
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if dtype == torch.float16:
        fits = ("auto", "32-true", "16-mixed") if gpu else ("auto", "32-true")
        if precision not in fits:
            raise UserError(
                f"trainer.precision={precision} and backbone.dtype=float16 do not go together"
                f"{'' if gpu else ' on a CPU'}: take trainer.precision=auto, or backbone.dtype=bfloat16."
            )
        return "16-mixed" if gpu and precision != "32-true" else "32-true"
    if precision != "auto":
        return precision
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if native else "32-true"
