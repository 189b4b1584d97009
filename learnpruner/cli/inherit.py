"""The settings of a run that goes on: those that its checkpoint holds, and what the command line changes of them."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from learnpruner.cli.command_line import literal
from learnpruner.config.renamed import current_key
from learnpruner.config.train_config import TrainConfig
from learnpruner.training.resume_checks import (
    ABSENT,
    checkpoint_settings,
    read_checkpoint,
    setting_differences,
    unbound_settings,
)
from learnpruner.utils.errors import SettingsError, UserError

_log = logging.getLogger(__name__)

GROUPS = "backbone data pruner adapter kv_eviction relaxation loss optimizer scheduler trainer logger callbacks benchmark".split()  # whose choice a checkpoint keeps
EVERYWHERE = ("experiment", "hparams", "debug")  # groups whose files set anything
SILENT = ("name", "ckpt_path", "logger", "callbacks")  # changes that need no word


def choices_of(words: Sequence[str], conf: Path) -> list[str]:
    """List what the command line leaves out of the choices, and the name, of the run whose checkpoint it names."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    try:
        held = read_checkpoint(given["ckpt_path"].strip("'\""))
        choices = {current_key(group): choice for group, choice in held.get("choices", {}).items()}
        chosen = {**choices, "name": held["config"]["name"]}
        known = {*given, *_set_by(given, conf)}
        found = {key: chosen[key] for key in [*GROUPS, "name"] if isinstance(chosen.get(key), str) and key not in known}
    except (KeyError, TypeError, AttributeError, OSError, UserError):
        return []  # none to read, or one that is refused later
    return [f"{key}={value}" for key, value in found.items() if re.fullmatch(r"[\w./-]+", value)]


def fill(composed: DictConfig) -> None:
    """Take from the checkpoint what must be given, and is not."""
    try:
        held = read_checkpoint(composed.ckpt_path)
    except UserError:
        return  # refused later
    for key in OmegaConf.missing_keys(composed):
        if (value := _get(held.get("config"), key.split("."))) is not ABSENT:
            OmegaConf.update(composed, key, literal(value))


def inherited(
    config: TrainConfig, given: Iterable[str], chosen: Mapping[str, Any], conf: Path, folder: Path
) -> TrainConfig:
    """Lay what is given over the settings of the checkpoint `config.ckpt_path`; what the losses depend on cannot change.

    Args:
        config: composed from conf/ and the command line.
        given: keys and groups on the command line.
        chosen: the config that is chosen of each group.
        conf: the folder of all configs.
        folder: of the run that goes on.

    Raises:
        UserError: where a given setting would change the losses.
    """
    assert config.ckpt_path is not None
    held, now = read_checkpoint(config.ckpt_path), config.to_dict()
    was = checkpoint_settings(held, config.ckpt_path)
    settings = {**{group: now[group] for group in ("callbacks", "logger") if group not in was}, **copy.deepcopy(was)}
    for key in {*given, *_set_by(chosen, conf), "ckpt_path"}:
        _put(settings, key.split("."), _get(now, key.split(".")))
    for name, before, after in setting_differences(was, settings, unbound_settings(held)):
        raise UserError(
            f"ckpt_path={config.ckpt_path} comes from a run with {name}={before}, not {after}: leave {name} out, which takes "
            "the run's own, or begin anew from its export with plan=."
        )
    for name, before, after in setting_differences(was, settings, SILENT):
        _log.warning("going on with %s=%s; the run before had %s", name, after, before)
    if settings.get("data", {}).get("skipped"):
        settings["data"]["skipped"] = str(folder / Path(settings["data"]["skipped"]).name)
    _known_targets(settings, now, conf, config.ckpt_path)
    return _built(settings, config.ckpt_path)


def _set_by(chosen: Mapping[str, Any], conf: Path) -> Iterator[str]:
    """Keys and groups that the files of an experiment set."""
    for group in EVERYWHERE:
        if chosen.get(group):
            file = OmegaConf.load(conf / group / f"{chosen[group]}.yaml")
            assert isinstance(file, DictConfig)
            for entry in file.pop("defaults", []):
                yield from (
                    str(one).removeprefix("override ").lstrip("/") for one in entry if isinstance(entry, DictConfig)
                )
            yield from _leaves(OmegaConf.to_container(file))


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif path:
        yield path


def _get(settings: Any, path: list[str]) -> Any:
    for key in path:
        if not isinstance(settings, Mapping) or key not in settings:
            return ABSENT
        settings = settings[key]
    return settings


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        inner = settings.get(key)
        settings[key] = settings = inner if isinstance(inner, dict) else {}
    if value is ABSENT:
        settings.pop(last, None)
    else:
        settings[last] = copy.deepcopy(value)


def _known_targets(settings: Mapping[str, Any], now: Mapping[str, Any], conf: Path, path: str) -> None:
    """A checkpoint may come from anywhere: it names no code that conf/ or the command line does not."""
    for target in set(_targets(settings)) - _targets_of(conf) - set(_targets(now)):
        raise UserError(
            f"ckpt_path={path} asks for {target!r}, which no file of conf/ names: give the group that names it too, such as "
            "pruner=NAME."
        )


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (str(part) for key, part in value.items() if key == "_target_" and part is not None)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _targets(part)


@cache
def _targets_of(conf: Path) -> set[str]:
    return {one for file in conf.rglob("*.yaml") for one in _targets(OmegaConf.to_container(OmegaConf.load(file)))}


def _built(settings: Mapping[str, Any], path: str) -> TrainConfig:
    """The checked config; settings that have come into being since have their defaults."""
    try:
        return TrainConfig.read(settings)
    except SettingsError as error:
        raise UserError(f"ckpt_path={path} holds settings that this version does not read: {error}") from None
