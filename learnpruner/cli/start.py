"""What happens between Hydra's composing and a program's work: the config is checked, and kept with the run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from learnpruner.cli.command_line import literal
from learnpruner.cli.targets import check_targets
from learnpruner.config.data import DataConfig
from learnpruner.config.key_names import parts
from learnpruner.config.renamed import renamed_keys, renamed_sentence
from learnpruner.config.settings import Settings
from learnpruner.utils.distributed import is_rank_zero
from learnpruner.utils.errors import SettingsError, UserError


def prepare_run(composed: DictConfig, schema: type[Settings], conf: Path, added: Iterable[str]) -> tuple[Any, Path]:
    """Check the config, go on with a checkpoint's where one is given, and write it into the run's folder.

    Args:
        composed: by Hydra.
        schema: of the program's config.
        conf: the folder of all configs.
        added: overrides that are not the user's.

    Returns:
        The checked config and the run's folder.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    given = overridden_keys(hydra.overrides.task, added)
    if composed.get("ckpt_path"):
        from learnpruner.cli.inherit import fill

        fill(composed)
    check_choices(hydra.overrides.task, schema)
    config: Any = validate_config(composed, schema, given)
    if getattr(config, "ckpt_path", None) is not None:
        from learnpruner.cli.inherit import inherited

        config = inherited(config, given, hydra.runtime.choices, conf, folder)
    if hydra.mode == RunMode.MULTIRUN and hasattr(config, "trainer"):
        check_sweep(str(config.trainer.devices))
    if is_rank_zero():
        OmegaConf.save(OmegaConf.create(literal(config.to_dict())), folder / "config.yaml")
    return config, folder


def overridden_keys(words: Iterable[str], added: Iterable[str]) -> set[str]:
    """List keys and groups that the command line sets; added: overrides that are not the user's."""
    left_out = set(added)
    return {word.lstrip("+~").split("=")[0].split("@")[0] for word in words if word not in left_out}


def validate_config(composed: DictConfig, schema: type[Settings], given: set[str]) -> Settings:
    """Check a composed config against its schema.

    Args:
        composed: by Hydra; of the program's keys alone.
        schema: what it must fit.
        given: keys and groups that the command line sets.

    Raises:
        UserError: with a sentence for everything that is refused.
    """
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise SettingsError(*(f"{key} must be given: {key}=..." for key in missing))
    if composed.plan and "pruner" in given:
        raise UserError(
            f"plan={composed.plan} and pruner= are both given; a run takes an export or a config, not both."
        )
    if composed.plan and "prune_ratio" not in given:
        composed.prune_ratio = None  # the export's own
    settings = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(settings, dict)
    if old := list(renamed_keys(settings)):  # type: ignore[arg-type]  # keys are texts
        raise SettingsError(*(renamed_sentence(*names) for names in old))
    config = schema.read(settings)  # type: ignore[arg-type]
    check_targets(settings, {"data": set(DataConfig.model_fields), "adapter": {"lr"}})
    return config


def check_choices(overrides: Iterable[str], schema: type[Settings]) -> None:
    """Refuse a group without a config, and one with several, which would be laid over each other; benchmarks run together."""
    for word in overrides:
        group, _, choice = word.lstrip("~").partition("=")
        if word.startswith("~") and group in parts(schema, required=True):
            raise UserError(f"{group} must be given: {group}=...")
        if group not in parts(schema):
            continue
        if choice.startswith("{"):
            raise UserError(f"{word} is no name: write it into a config, such as conf/{group}/mine.yaml: {group}=mine.")
        if choice.startswith("[") and group != "benchmark":
            raise UserError(
                f"{word} names several configs, of which a run takes one; -m {group}={choice.strip('[]')} runs one after the other."
            )


def check_sweep(devices: str) -> None:
    """Refuse a sweep over several devices: it runs its jobs one after the other on one.

    Args:
        devices: `trainer.devices`, as the command line has it.

    Raises:
        UserError: where there are several.
    """
    if devices.isdigit():
        count = int(devices)
    elif devices in ("auto", "-1"):
        import torch

        count = torch.cuda.device_count()
    else:
        count = len([one for one in devices.split(",") if one])
    if count > 1:
        raise UserError(
            f"-m with trainer.devices={devices} is refused: each process would start a sweep of its own; "
            "sweep with trainer.devices=1, or start one run for each value."
        )
