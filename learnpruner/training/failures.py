"""What can befall a program from outside, in one sentence: what, where, what is safe, and how to go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from learnpruner.training.checkpointing import SaveOnExceptionCheckpoint
from learnpruner.utils.errors import UserError

WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*?)(?:\.|$)")
SMALLER = "data.images_per_batch or data.questions_per_image, with trainer.accumulate_grad_batches for as many a step, or of grad_tokens_per_image"


def explain_training_failure(error: BaseException, trainer: Any) -> UserError | None:
    """Say in a sentence what befell a training: what, where, what is safe, and how to go on.

    Args:
        error: that ended it.
        trainer: of the run.

    Returns:
        The sentence, or None where the error is nothing from outside: its stack trace then says more.
    """
    if (what := _what(error, trainer)) is None:
        return None
    return UserError(f"step {trainer.global_step}: {what}. {_safe(trainer)}")


def explain_program_failure(error: Exception, folder: Path) -> UserError | None:
    """Say in a sentence what befell a program that trains nothing; None where the error is nothing from outside.

    Args:
        error: that ended it.
        folder: that it writes into.
    """
    if isinstance(error, UserError):
        return None
    if is_memory(error):
        return UserError(
            f"out of memory ({_line(error)}); a smaller benchmark.batch_size, or a shorter question, needs less."
        )
    if isinstance(error, OSError) and not folder.is_dir():
        return UserError(f"the run's folder {folder} is gone, and with it what the run had written: begin it again.")
    return None


def is_memory(error: BaseException) -> bool:
    """Tell whether an error is for want of memory, of whatever kind."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _what(error: BaseException, trainer: Any) -> str | None:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return None
    if is_memory(error):
        return f"out of memory on {trainer.strategy.root_device}; a run with less of {SMALLER} needs less"
    if (found := WORKER.search(text)) is not None:
        return f"a data worker (process {found[1]}) {found[2]}, most often for want of memory; take fewer data.workers"
    if isinstance(error, OSError) and error.errno is not None:
        if not Path(trainer.default_root_dir).is_dir():
            return f"the run's folder {trainer.default_root_dir} is gone"
        where = error.filename or trainer.default_root_dir
        return f"{where} cannot be written or read: {error.strerror}; make room or mend it first"
    return None


def _safe(trainer: Any) -> str:
    saved = next((one for one in trainer.callbacks if isinstance(one, SaveOnExceptionCheckpoint)), None)
    if saved is None or (path := saved.whole) is None:
        return "Nothing of this run was saved: begin it again."
    return f"What was trained is safe up to step {saved.step_saved}; go on with: python train.py ckpt_path={path}"
