"""SIGTERM and SIGINT end a program with the shell's status for them, 143 and 130, and a training behind the step it is in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import Callback

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_status(number: int) -> int:
    """The exit status of a program that a signal has ended."""
    return 128 + number


def exit_on_signal(number: int, frame: Any = None) -> None:
    """A signal's handler: unwinds the program, so that everything open is closed."""
    write_to_stderr(f"{signal.Signals(number).name}: stopped")
    raise SystemExit(exit_status(number))


def write_to_stderr(line: str) -> None:
    """Past the streams of Python, which a signal may have met in the middle of a line."""
    os.write(2, f"\n{line}\n".encode())


@contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Both signals go to this handler inside the block; a thread beside the main one leaves them as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


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
