"""How train.py and eval.py start: config composed and checked, clear sentences instead of a stack trace, exit code 2.

HYDRA_FULL_ERROR=1 shows the stack trace.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from learnpruner.cli.command_line import as_typed
from learnpruner.cli.config_store import SCHEMAS, register
from learnpruner.cli.errors import below_null, format_user_error
from learnpruner.cli.run_folder import Refused
from learnpruner.cli.start import prepare_run
from learnpruner.config.renamed import current_key, renamed_sentence
from learnpruner.utils.errors import UserError
from learnpruner.utils.interrupts import exit_on_signal, handle_signals

SWITCHES = {"--reference": "benchmark.reference=true"}  # for what reads better as a switch
TRACE = "HYDRA_FULL_ERROR"  # the environment variable; 1 shows stack traces
_log = logging.getLogger(__name__)

ProgramTask = Callable[[Any, Path], float | None]  # what it returns is for a sweeper that searches


def hydra_main(conf: Path, name: str) -> Callable[[ProgramTask], HydraProgram]:
    """Turn ``task(config, folder)`` into a program: ``config`` is the checked one, ``folder`` the run's own.

    Args:
        conf: folder of the configs.
        name: of the program's config and schema.
    """
    return lambda task: HydraProgram(task, conf, name)


class HydraProgram:
    """A program that reads the command line, and says what is wrong in sentences.

    Args:
        task: what it does for each job of a sweep, or once.
        conf: folder of the configs.
        name: of the program's config and schema.
    """

    def __init__(self, task: ProgramTask, conf: Path, name: str) -> None:
        self.task, self.conf, self.name, self.schema = task, conf, name, SCHEMAS[name]
        self.words: list[str] = []  # the command line as Hydra reads it
        self.added: list[str] = []  # what a checkpoint adds to it
        self.trace: str | None = None  # the user's wish for stack traces
        self.begun = False
        self.failed: list[Exception] = []

    def __call__(self) -> None:
        """Run the program for `sys.argv`; exits with 2 where something is refused."""
        register()
        quiet_libraries()
        self.failed, self.begun, self.trace = [], False, os.environ.get(TRACE)
        try:
            self._read(sys.argv)
            with (
                variable(TRACE, "1"),
                handle_signals(exit_on_signal),
            ):  # Hydra then hands its errors over in place of printing them
                self._compose()
        except Exception as error:
            if format_user_error(error) is None:
                raise
            self.failed.append(error)
        if self.failed and self.trace == "1":
            raise self.failed[0]
        if self.failed:
            for sentence in format_user_error(self.failed[0]) or ():
                print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)

    def _read(self, argv: list[str]) -> None:
        self.words = as_typed(normalise_argv(argv), self.schema)
        for word in self.words[1:]:
            key = word.lstrip("+~").split("=")[0].split("@")[0]
            if (now := current_key(key)) != key:
                raise UserError(renamed_sentence(key, now))
        self.added = []
        if any(word.startswith("ckpt_path=") for word in self.words):
            from learnpruner.cli.inherit import choices_of

            self.added = as_typed([self.words[0], *choices_of(self.words, self.conf)], self.schema)[1:]
        sys.argv = self.words + self.added

    def _compose(self) -> None:
        """Have Hydra compose the config, and run the job or jobs."""
        try:
            self._run_jobs()
        except (AssertionError, AttributeError) as error:
            if self.begun or "NoneType" not in str(error):
                raise
            raise UserError(below_null(sys.argv[1:])) from None
        except (UnicodeDecodeError, RecursionError) as error:
            if self.begun:
                raise
            raise UserError(f"a config of conf/ or --config-dir= is no valid YAML ({error}).") from None
        except OSError as error:
            if self.begun or isinstance(error, HydraException):
                raise
            raise UserError(
                f"the run's folder {error.filename} cannot be written ({error.strerror}); give another: "
                "hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER with -m."
            ) from None

    def _run_jobs(self) -> None:
        try:
            hydra.main(version_base="1.3", config_path=str(self.conf), config_name=self.name)(self._job)()
        except Refused as refused:
            raise refused.error from None

    def _job(self, composed: DictConfig) -> float | None:
        self.begun = True
        sys.argv = list(self.words)  # a trainer's further processes begin as this one did
        try:
            with variable(TRACE, self.trace):  # as the user set it: a trainer's further processes inherit it
                config, folder = prepare_run(composed, self.schema, self.conf, self.added)
                hide_progress_bars()
                return self.task(config, folder)
        except Exception as raised:  # a sweep goes on with its other jobs
            error = _explained(raised)
            if (sentences := format_user_error(error)) is None:
                raise
            self.failed.append(error.with_traceback(raised.__traceback__))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _log.error(" ".join(sentences))
            return math.nan  # a sweeper that searches counts the job as failed, and goes on


def _explained(raised: Exception) -> Exception:
    """What befell the program from outside, in a sentence; any other error as it is."""
    if isinstance(raised, UserError):
        return raised
    from learnpruner.training.failures import explain_program_failure

    return explain_program_failure(raised, Path(HydraConfig.get().runtime.output_dir)) or raised


def normalise_argv(argv: list[str]) -> list[str]:
    """Spell the command line as Hydra reads it: switches in full, and -m before the settings, where it must stand."""
    sweep = [word for word in argv if word in ("-m", "--multirun")]
    return [argv[0], *sweep, *(SWITCHES.get(word, word) for word in argv[1:] if word not in sweep)]


def quiet_libraries() -> None:
    """Keep Hugging Face from telling of each attempt to connect; a log on a full disk is no error."""
    logging.raiseExceptions = False
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)


def hide_progress_bars() -> None:
    """Keep Hugging Face from drawing bars into a file or pipe."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable inside the block, unset where value is None."""
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
