"""Weights & Biases, online or offline: never a crash for want of a key or a network."""

from __future__ import annotations

import logging
import netrc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from learnpruner.utils.errors import UserError
from learnpruner.utils.privacy import hide_path_values

if TYPE_CHECKING:  # loads for a second, which runs that log elsewhere do not wait for
    import wandb

_log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline")


def wandb_turned_off() -> bool:
    """Tell whether W&B is told by its own variables to do nothing."""
    return os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1")


def checkpoint_step(ckpt_path: str | None) -> int:
    """Tell where a run begins: at the step of the checkpoint that it goes on from, or at none."""
    return 0 if ckpt_path is None else torch.load(ckpt_path, map_location="cpu", weights_only=True)["global_step"]


def make_wandb_logger(
    save_dir: str | Path,
    run_name: str | None = None,
    run_config: dict[str, Any] | None = None,
    project: str = "learnpruner",
    entity: str | None = None,
    group: str | None = None,
    mode: str = "auto",
    log_model: bool = True,
) -> WandbLogger | None:
    """Start a W&B run; offline where there is no key, or where going online fails.

    Args:
        save_dir: the run's folder.
        run_name: as W&B shows it.
        run_config: settings of the run, logged without what is private.
        project: where W&B files the run.
        entity: likewise, the user or team.
        group: likewise, the runs that it belongs to.
        mode: "auto" is online when a key is found, else offline; "online"; "offline".
        log_model: whether the export becomes an artifact of the run.

    Returns:
        The logger, None where W&B is told by its own variables to do nothing.

    Raises:
        UserError: for another mode.
    """
    if mode not in MODES:
        raise UserError(f"logger.wandb.mode is {mode!r}; it must be one of {', '.join(MODES)}.")
    if wandb_turned_off():
        return None
    import wandb

    settings: dict[str, Any] = {
        "project": project,
        "entity": entity,
        "group": group,
        "name": run_name,
        "save_dir": save_dir,
        "config": hide_path_values(run_config or {}),
        "settings": quiet_settings(),
    }
    allowed = os.environ.get("WANDB_MODE", "online") == "online" and has_wandb_key()
    if mode == "online" or (mode == "auto" and allowed):
        online = WandbLogger(**settings)
        try:
            _ = online.experiment
            return _keeping(online, log_model)
        except Exception as error:  # W&B raises many kinds; none of them is worth the run
            _log.warning("W&B cannot go online (%s); this run is logged offline.", " ".join(str(error).split())[:200])
            wandb.teardown()
    offline = WandbLogger(offline=True, **settings)
    _ = offline.experiment
    if getattr(rank_zero_only, "rank", 0) == 0:
        _log.info("W&B is offline; upload this run with: wandb sync %s", Path(save_dir) / "wandb" / "offline-run-*")
    return _keeping(offline, log_model)


def _keeping(logger: WandbLogger, model: bool) -> WandbLogger:
    """The logger, which says whether the run's export is to be kept in it."""
    logger.keeps_export = model  # type: ignore[attr-defined]  # WandbLogger's own log_model is of checkpoints
    return logger


def finish_wandb() -> None:
    """End the W&B run of this process; one that logs elsewhere has not loaded W&B."""
    if (loaded := sys.modules.get("wandb")) is not None:
        loaded.finish()


def quiet_settings() -> wandb.Settings:
    """Make W&B settings without chatter, and without whose machine this is or where things lie on it."""
    import wandb

    settings = wandb.Settings(silent=True, console="off", init_timeout=30)
    settings.update_from_dict({"x_disable_meta": True, "disable_git": True, "disable_code": True, "host": ""})
    return settings


def has_wandb_key() -> bool:
    """Tell whether W&B would find a key: in its environment variable or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
