"""When a run is saved, and how: whole files with finite values only, and a word on how to go on."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from learnpruner.training.lightning_compat import last_saved, wait_for_no_other
from learnpruner.utils.errors import UserError
from learnpruner.utils.finite import check_finite
from learnpruner.utils.io import atomic_write

_log = logging.getLogger(__name__)


class CheckpointFiles(TorchCheckpointIO):
    """A kill while one is written leaves the one before; weights or moments that are not finite are never written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        check_finite_checkpoint(checkpoint, f"{path} is not written")
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(exist_ok=True)  # the run's folder itself is not made again
        with atomic_write(Path(path)) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        held: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return held


def check_finite_checkpoint(checkpoint: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint whose weights or optimizer hold values that are not finite.

    Args:
        checkpoint: as Lightning writes it.
        what: begins the sentence, as of `check_finite`.

    Raises:
        UserError: where they do.
    """
    check_finite(checkpoint["state_dict"], what)
    for optimizer in checkpoint.get("optimizer_states", ()):
        for number, moments in optimizer["state"].items():
            check_finite({f"optimizer state {number} {name}": value for name, value in moments.items()}, what)


class SaveOnExceptionCheckpoint(ModelCheckpoint):
    """Saves on the way out too, and says how to go on. Of several processes the first saves, without waiting for the others.

    What is left in the middle of an optimizer's step is not saved: a part of the weights may have moved.

    Args:
        every_n_train_steps: steps between checkpoints; the last step and a failure are saved as well.
        dirpath: the folder.
        total_steps: of the run; a shorter one is saved at its end.
    """

    def __init__(
        self, every_n_train_steps: int = 50, dirpath: str | Path | None = None, total_steps: int | None = None
    ) -> None:
        if every_n_train_steps < 1:
            raise UserError(
                f"callbacks.checkpoint.every_n_train_steps is {every_n_train_steps}; it must be 1 or more; "
                "callbacks.checkpoint=false saves none."
            )
        super().__init__(
            dirpath,
            filename="step_{step}",
            auto_insert_metric_name=False,  # it would write step=100, and a setting is KEY=VALUE
            every_n_train_steps=min(every_n_train_steps, total_steps or every_n_train_steps),
            save_last=True,
            save_on_train_epoch_end=True,  # whether the run validates or not
            save_on_exception=True,
            enable_version_counter=False,  # a run that goes on in its folder goes on with last.ckpt
        )
        self.moving = False

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.moving = True

    def on_train_batch_end(self, *args: Any) -> None:
        self.moving = False
        super().on_train_batch_end(*args)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.world_size > 1:
            wait_for_no_other(trainer)
        if not self.moving:
            try:
                super().on_exception(trainer, pl_module, exception)
            except Exception as error:  # what is being left already is what counts
                _log.warning("step %d could not be saved: %s", trainer.global_step, " ".join(str(error).split()))
        if (path := self.whole) is not None:
            done, saved = trainer.global_step, self.step_saved
            between = "" if saved == done else f" and saved after step {saved}"
            _log.warning("stopped after step %d%s; go on with ckpt_path=%s", done, between, path)

    @property
    def step_saved(self) -> int:
        """The step behind which `whole` was written."""
        return last_saved(self)[1]

    @property
    def whole(self) -> str | None:
        """The checkpoint to go on from, None where there is none yet."""
        path = last_saved(self)[0]
        return None if path is None else str(path)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation so far, best.ckpt; none where the run does not validate.

    Args:
        monitor: the metric, as it is logged.
        mode: "max" where more is better.
        dirpath: the folder.
    """

    def __init__(self, monitor: str = "val/retention", mode: str = "max", dirpath: str | Path | None = None) -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # the best of a run that goes on takes the place of the one before
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)


def best_checkpoint(trainer: L.Trainer) -> BestCheckpoint:
    """The callback that keeps the weights of the best validation.

    Raises:
        UserError: where the run has none.
    """
    for one in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(one, BestCheckpoint):
            return one
    raise UserError(
        "export_checkpoint=best needs callbacks.best, which keeps them: leave callbacks=default, or take last."
    )


def restore_best(best: BestCheckpoint, module: L.LightningModule) -> dict[str, float] | None:
    """Give the module the weights of the best validation.

    Returns:
        Their step and score; None, and the module as it is, where no validation had a score.
    """
    if not best.best_model_path:
        _log.warning("no validation gave %s: the last weights are exported in place of the best", best.monitor)
        return None
    held = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(held["state_dict"])
    score = held["callbacks"][best.state_key]["best_model_score"]
    return {"steps": held["global_step"], str(best.monitor): float(score)}
