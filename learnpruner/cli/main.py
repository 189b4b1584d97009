"""How train.py and eval.py start: config composed and checked, one clear sentence instead of a stack trace, exit code 2.

HYDRA_FULL_ERROR=1 shows the stack trace.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from learnpruner.cli.command_line import as_typed, literal
from learnpruner.cli.inherit import choices_of, fill, inherited
from learnpruner.cli.run_folder import Refused
from learnpruner.config.schema import SCHEMAS, never_mixed, register
from learnpruner.training.failures import explain_program_failure
from learnpruner.utils.distributed import is_rank_zero
from learnpruner.utils.errors import UserError
from learnpruner.utils.interrupts import exit_on_signal, handle_signals
from learnpruner.utils.moved_names import canonical_target

SWITCHES = {"--reference": "benchmark.reference=true"}  # for what reads better as a switch
CONFIG_SYSTEM = [Path(module.__file__ or "").parent for module in (hydra, omegaconf)]
PACKAGE = Path(__file__).parents[1]
ENVIRONMENT = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}
TRACE = "HYDRA_FULL_ERROR"  # the environment variable; 1 shows stack traces
log = logging.getLogger(__name__)


def program(conf: Path, name: str) -> Callable[[Callable[[Any, Path], None]], Callable[[], None]]:
    """Turns ``task(config, folder)`` into a program: ``config`` is the checked dataclass, ``folder`` the run's own."""

    def decorate(task: Callable[[Any, Path], None]) -> Callable[[], None]:
        failed: list[Exception] = []
        begun: list[bool] = []
        asked: list[str | None] = [None]
        words: list[str] = []
        left_out: list[str] = []

        def job(composed: DictConfig) -> None:
            begun.append(True)
            sys.argv = list(words)  # a trainer's further processes begin as this one did
            try:
                with variable(TRACE, asked[0]):  # as the user set it: a trainer's further processes inherit it
                    task(*started(composed, conf, left_out))
            except Exception as raised:  # a sweep goes on with its other jobs
                error = explain_program_failure(raised, Path(HydraConfig.get().runtime.output_dir)) or raised
                if sentence(error) is None:
                    raise
                failed.append(error.with_traceback(raised.__traceback__))
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    log.error(sentence(error))

        def launch() -> None:
            try:
                try:
                    hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(job)()
                except Refused as refused:
                    raise refused.error from None
            except (AssertionError, AttributeError) as error:
                if begun or "NoneType" not in str(error):
                    raise
                raise UserError(below_null(sys.argv[1:])) from None
            except (UnicodeDecodeError, RecursionError) as error:
                if begun:
                    raise
                raise UserError(f"a config of conf/ or --config-dir= is no valid YAML ({error}).") from None
            except OSError as error:
                if begun or isinstance(error, HydraException):
                    raise
                raise UserError(
                    f"the run's folder {error.filename} cannot be written ({error.strerror}); give another: "
                    "hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER with -m."
                ) from None

        def main() -> None:
            register()
            quiet()
            failed.clear()
            begun.clear()
            asked[0] = os.environ.get(TRACE)
            try:
                words[:] = as_typed(worded(sys.argv), SCHEMAS[name])
                left_out[:] = as_typed([words[0], *choices_of(words, conf)], SCHEMAS[name])[1:]
                sys.argv = words + left_out
                with (
                    variable(TRACE, "1"),
                    handle_signals(exit_on_signal),
                ):  # Hydra then hands its errors over in place of printing them
                    launch()
            except Exception as error:
                if sentence(error) is None:
                    raise
                failed.append(error)
            if failed and asked[0] == "1":
                raise failed[0]
            if failed:
                print(f"error: {sentence(failed[0])}", file=sys.stderr)
                sys.exit(2)

        return main

    return decorate


def worded(argv: list[str]) -> list[str]:
    """The command line as Hydra reads it: switches spelled out, and -m before the settings, where it must stand."""
    sweep = [word for word in argv if word in ("-m", "--multirun")]
    return [argv[0], *sweep, *(SWITCHES.get(word, word) for word in argv[1:] if word not in sweep)]


def quiet() -> None:
    """Hugging Face does not tell of each attempt to connect, nor draws bars into a file or pipe; a log on a full disk is no error."""
    logging.raiseExceptions = False
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bar()


def below_null(words: Iterable[str]) -> str:
    """What OmegaConf means by an assertion without any key."""
    nested = [word for word in words if "." in word.split("=")[0] or "={" in word]
    return (
        f"{' or '.join(nested)} sets a part of what is null; write the whole of it into a config, such as "
        "conf/backbone/mine.yaml, and choose that: backbone=mine."
    )


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable, unset where value is None, inside the block."""
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def started(composed: DictConfig, conf: Path, added: Iterable[str] = ()) -> tuple[Any, Path]:
    """The checked config and the run's folder, which holds it as config.yaml from now on.

    added: overrides that are not the user's.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    given = {
        override.lstrip("+~").split("=")[0].split("@")[0]
        for override in settings.overrides.task
        if override not in added
    }
    if composed.get("ckpt_path"):
        fill(composed)
    config = checked(composed, given)
    check_choices(settings.overrides.task, config)
    if getattr(config, "ckpt_path", None) is not None:
        config = inherited(config, given, settings.runtime.choices, conf, folder)
    if settings.mode == RunMode.MULTIRUN:
        check_sweep(config)
    if is_rank_zero():
        OmegaConf.save(OmegaConf.create(literal(dataclasses.asdict(config))), folder / "config.yaml")
    return config, folder


def checked(composed: DictConfig, given: Iterable[str] = ()) -> Any:
    """The dataclass behind a composed config. ``given``: what the command line sets."""
    for key in sorted(OmegaConf.missing_keys(composed)):  # or a class's own default would be taken in its place
        raise UserError(f"{key} must be given: {key}=...")
    never_mixed(() if OmegaConf.is_missing(composed, "benchmark") else composed.benchmark)
    for path, known in _unknown(composed):
        raise UserError(_no_setting(path, known))
    given = set(given)
    if composed.plan == "":
        raise UserError("plan is empty; give an export's folder or a hub id, or leave plan= out.")
    if composed.plan is not None:
        if "pruner" in given:
            raise UserError(
                f"plan={composed.plan} and pruner= are both given; a run takes an export or a config, not both."
            )
        if "prune_ratio" not in given:
            composed.prune_ratio = None  # the export's own
    return OmegaConf.to_object(composed)


def check_choices(overrides: Iterable[str], config: Any) -> None:
    """Several configs of one group would be laid over each other; only benchmarks run together."""
    for word in overrides:
        group, _, choice = word.partition("=")
        part = getattr(config, group, None)
        if (
            choice.startswith("[")
            and group != "benchmark"
            and (dataclasses.is_dataclass(part) or isinstance(part, dict))
        ):
            raise UserError(
                f"{word} names several configs, of which a run takes one; -m {group}={choice.strip('[]')} runs one after the other."
            )


def check_sweep(config: Any) -> None:
    """A sweep runs its jobs one after the other on one device."""
    if not hasattr(config, "trainer"):
        return
    devices = str(config.trainer.devices)
    count = torch.cuda.device_count() if devices in ("auto", "-1") else len([d for d in devices.split(",") if d])
    if devices.isdigit():
        count = int(devices)
    if count > 1:
        raise UserError(
            f"-m with trainer.devices={devices} is refused: each process would start a sweep of its own; "
            "sweep with trainer.devices=1, or start one run for each value."
        )


def _unknown(node: DictConfig | ListConfig, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that were added with + beside those of the schema, or beside the arguments of the node's `_target_`."""
    known = _known(node, path) if isinstance(node, DictConfig) else None
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        full = f"{path}{key}"
        if known is not None and key not in known:
            yield full, known
        elif not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig | ListConfig):
            yield from _unknown(node[key], f"{full}.")


def _known(node: DictConfig, path: str) -> list[str] | None:
    """The keys that a node may have; None where it may have any."""
    kind, target = OmegaConf.get_type(node), None
    if not OmegaConf.is_missing(node, "_target_") and node.get("_target_") is not None:
        if (now := canonical_target(node._target_)) != node._target_:
            raise UserError(f"{path}_target_ is {node._target_!r}, which is {now} now: name that.")
        try:
            target = get_object(node._target_)
        except Exception as error:  # whatever importing a module of that name raises
            raise UserError(f"{path}_target_ is {node._target_!r}, which cannot be imported ({error}).") from None
    if dataclasses.is_dataclass(kind):
        return [f.name for f in dataclasses.fields(kind)]
    arguments = {} if target is None else inspect.signature(target).parameters
    if target is None or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments.values()):
        return None
    return [*arguments, "_target_", "_partial_", "_convert_", "_recursive_", "_args_"]


def _no_setting(path: str, known: Iterable[str]) -> str:
    parent, _, key = path.rpartition(".")
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean {parent + '.' if parent else ''}{near[0]}?" if near else "--help lists them."
    return f"{path} is no setting; {hint}"


def sentence(error: BaseException) -> str | None:
    """The one line that tells a user what to change, or None where the error is not theirs to mend."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            group, _, choice = cause.missing_cfg_file.rpartition("/")
            options = f"; choose one of {', '.join(cause.options)}." if cause.options else "."
            return f"{group or 'config'}={choice} does not exist{options}"
    for cause in chain:
        if "Config group override must be" in str(cause):
            return "a group of configs takes a name, as in pruner=learnpruner, not null; --help lists the names."
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} must be given: {cause.full_key}=..."
        if isinstance(cause, yaml.YAMLError):
            mark = getattr(cause, "problem_mark", None)
            place = f"{mark.name}, line {mark.line + 1}" if mark else getattr(cause, "name", "a config")
            return _line(f"{place}: no valid YAML ({getattr(cause, 'problem', None) or cause}).")
        if isinstance(cause, OmegaConfBaseException):
            return _from_omegaconf(cause)
        if isinstance(cause, OverrideParseException):
            return f"{cause.override} cannot be read; write settings as key=value, and lists as key=[1,2]."
    last = chain[-1]
    if isinstance(last, HydraException):
        return _line(str(last))
    for cause in chain:
        if isinstance(cause, UserError) or (isinstance(cause, ValueError) and _worded(cause)):
            return _line(_message(cause))
        if isinstance(cause, OSError) and cause.errno in ENVIRONMENT:
            return f"{cause.filename or 'a file'} cannot be written or read: {cause.strerror}; make room or choose another place."
    if isinstance(last, (ValueError, OSError, TypeError)) and isinstance(chain[0], HydraException) and not _ours(last):
        return _line(str(last))  # what a class that a config names says of the values it is given
    return None


def _from_omegaconf(error: OmegaConfBaseException) -> str:
    first = str(error).splitlines()[0]
    parent = error.parent_node
    if "not in" in first and isinstance(parent, DictConfig):
        kind = OmegaConf.get_type(parent)
        known = (
            [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else [str(k) for k in parent]
        )
        return _no_setting(str(error.full_key), known)
    if "is not a ListConfig" in first:
        return f"{error.full_key} takes a list: {error.full_key}=[...]."
    return f"{error.full_key}: {first[0].lower()}{first[1:]}." if error.full_key else _line(first)


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _message(error: BaseException) -> str:
    """What it says; of an error that a data worker hands over, without the worker's stack trace around it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2] if "Original Traceback" in text else text


def _frames(error: BaseException) -> list[Path]:
    return [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]


def _worded(error: BaseException) -> bool:
    """Raised by the config system, which words its errors for the user."""
    frames = _frames(error)
    return bool(frames) and any(folder in frames[-1].parents for folder in CONFIG_SYSTEM)


def _ours(error: BaseException) -> bool:
    """Raised while code of this package ran, which words what is the user's to mend as a `UserError`."""
    return any(PACKAGE in path.parents for path in _frames(error))


def _line(text: str) -> str:
    return " ".join(text.split())
