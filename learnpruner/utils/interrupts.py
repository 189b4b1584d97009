"""SIGTERM and SIGINT end a program with the shell's status for them, 143 and 130, and a training behind the step it is in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_status(number: int) -> int:
    """Tell the exit status of a program that a signal has ended."""
    return 128 + number


def exit_on_signal(number: int, frame: Any = None) -> None:
    """Unwind the program on a signal, so that everything open is closed."""
    write_to_stderr(f"{signal.Signals(number).name}: stopped")
    raise SystemExit(exit_status(number))


def write_to_stderr(line: str) -> None:
    """Write past the streams of Python, which a signal may have met in the middle of a line."""
    os.write(2, f"\n{line}\n".encode())


@contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Send both signals to this handler inside the block; a thread beside the main one leaves them as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
