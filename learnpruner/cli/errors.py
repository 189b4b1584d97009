"""Errors as a user reads them: sentences in place of a stack trace, where the error is theirs to mend."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import hydra
import omegaconf
import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from learnpruner.cli.config_store import every_key
from learnpruner.config.sentences import no_setting
from learnpruner.utils.errors import UserError

CONFIG_SYSTEM = [Path(module.__file__ or "").parent for module in (hydra, omegaconf)]
PACKAGE = Path(__file__).parents[1]
ENVIRONMENT = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


def format_user_error(error: BaseException) -> list[str] | None:
    """Say what a user has to change.

    Returns:
        A sentence for each thing that is wrong, or None where the error is not theirs to mend.
    """
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return [_line(_without_trace(one, cause)) for one in cause.sentences]
    for cause in chain:
        if (said := _of_config_system(cause)) is not None:
            return [_line(said)]
    last = chain[-1]
    if isinstance(last, HydraException):
        return [_line(str(last))]
    for cause in chain:
        if isinstance(cause, ValueError) and _worded(cause):
            return [_line(_without_trace(str(cause), cause))]
        if isinstance(cause, OSError) and cause.errno in ENVIRONMENT:
            where = cause.filename or "a file"
            return [f"{where} cannot be written or read: {cause.strerror}; make room or choose another place."]
    if isinstance(last, (ValueError, OSError, TypeError)) and isinstance(chain[0], HydraException) and not _ours(last):
        return [_line(str(last))]  # what a class that a config names says of the values it is given
    return None


def below_null(words: Iterable[str]) -> str:
    """Word what OmegaConf means by an assertion without any key; words: of the command line."""
    words = list(words)
    nested = [word for word in words if "." in word.split("=")[0] or "={" in word]
    group = nested[0].lstrip("+~").split(".")[0]
    if f"~{group}" in words:
        return f"{group} must be given: {group}=..."
    return (
        f"{' or '.join(nested)} sets a part of what is null; write the whole of it into a config, such as "
        f"conf/{group}/mine.yaml, and choose that: {group}=mine."
    )


def _of_config_system(error: BaseException) -> str | None:
    """What Hydra, OmegaConf and YAML say, in words for the user."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = f"; choose one of {', '.join(error.options)}." if error.options else "."
        return f"{group or 'config'}={choice} does not exist{options}"
    if "Config group override must be" in str(error):
        return "a group of configs takes a name, as in pruner=learnpruner, not null; --help lists the names."
    if "Cannot merge DictConfig with ListConfig" in str(error):
        return f"{str(error).partition(':')[0]}: a config is a mapping of settings, not a list."
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: {error.full_key}=..."
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark else getattr(error, "name", "a config")
        return f"{place}: no valid YAML ({getattr(error, 'problem', None) or error})."
    if isinstance(error, OmegaConfBaseException):
        return _of_omegaconf(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; write settings as key=value, and lists as key=[1,2]."
    return None


def _of_omegaconf(error: OmegaConfBaseException) -> str:
    first = str(error).splitlines()[0]
    parent, key = error.parent_node, str(error.full_key)
    if "not in" in first and isinstance(parent, DictConfig):
        if not parent and key.rpartition(".")[0] in every_key():
            return below_null([key, *(word for word in sys.argv if word.startswith("~"))])
        return no_setting(key, [str(one) for one in parent], every_key())
    if "is not a ListConfig" in first:
        return f"{key} takes a list: {key}=[...]."
    return f"{key}: {first[0].lower()}{first[1:]}." if error.full_key else first


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _without_trace(text: str, error: BaseException) -> str:
    """What it says; of an error that a data worker hands over, without the worker's stack trace around it."""
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
