"""A program in a process of its own, forked off one that has imported everything: as a user starts it, without waiting for imports."""

from __future__ import annotations

import atexit
import contextlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """code: exit code, negative for a signal, None for one that had to be ended."""

    code: int | None
    out: str
    err: str


@dataclass
class Running:
    """A process that leads a group of its own, as those that a shell starts do."""

    pid: int
    out: Path
    err: Path

    def wait(self, limit: float) -> Ended:
        end = time.monotonic() + limit
        status: int | None = None
        while status is None and time.monotonic() < end:
            pid, held = os.waitpid(self.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(held) if pid else None
            if status is None:
                time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # what it has left behind
            os.killpg(self.pid, signal.SIGKILL)
        if status is None:
            os.waitpid(self.pid, 0)
        return Ended(status, self.out.read_text(errors="replace"), self.err.read_text(errors="replace"))

    def until(self, happened: Callable[[], object], limit: float = 120) -> bool:
        """Wait for something to happen while it runs; whether it did."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if happened():
                return True
            if not self.runs():
                return False
            time.sleep(0.005)
        return False

    def runs(self) -> bool:
        """Whether it has not ended: its status is left for `wait`."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def signal(self, number: int, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)


def begin(
    program: str,
    arguments: Sequence[str],
    folder: Path,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] = {},
) -> Running:
    """program: a file of the project, or a module. before: done in the process before the program begins."""
    number = len(list(folder.glob(".said*")))
    out, err = folder / f".said{number}.out", folder / f".said{number}.err"
    out.touch()
    err.touch()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does the same; whoever is first
            os.setpgid(pid, pid)
        return Running(pid, out, err)
    code = 70
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        code = _program(program, arguments, folder, (out, err), before, environment)
    finally:
        os._exit(code)


def _program(
    program: str,
    arguments: Sequence[str],
    folder: Path,
    streams: tuple[Path, Path],
    before: Callable[[], None] | None,
    environment: Mapping[str, str],
) -> int:
    """Runs it in this process, and ends as Python would."""
    atexit._clear()  # what belongs to the process that this one is forked off
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_APPEND), number)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    os.environ.update(environment)
    os.chdir(folder)
    code = 0
    try:
        if before is not None:
            before()
        if program.endswith(".py"):
            sys.argv = [str(ROOT / program), *arguments]
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            sys.argv = [program, *arguments]
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
