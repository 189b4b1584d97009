"""A training ends behind the step that a signal meets."""

from __future__ import annotations

import signal
import threading
from typing import Any

from lightning.pytorch.callbacks import Callback

from learnpruner.utils.interrupts import STOP_SIGNALS, exit_on_signal, write_to_stderr


class StopOnSignal(Callback):
    """Ends the training behind the step that a signal meets; a second signal ends it where it is.

    Attributes:
        received: the signal's number. Of several processes the first decides, and ends those that it started.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Takes the place of Lightning's handler for SIGTERM, which talks to other processes in the middle of anything."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self.note if trainer.is_global_zero else signal.SIG_IGN)

    def note(self, number: int, frame: Any = None) -> None:
        if self.received is not None:
            exit_on_signal(number)
        self.received = number
        write_to_stderr(f"{signal.Signals(number).name}: ending behind this step; once more ends at once")

    def on_train_batch_start(self, *_: Any) -> None:
        if self.received is not None:
            exit_on_signal(self.received)
