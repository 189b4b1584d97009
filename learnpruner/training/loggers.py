"""Where metrics go: a CSV file always, Weights & Biases online or offline, never a crash for want of a key or a network."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from learnpruner.config.train import TrainConfig
from learnpruner.config.training import LoggerConfig
from learnpruner.training.metrics_file import metrics_logger
from learnpruner.utils.privacy import hide_path_values

_log = logging.getLogger(__name__)


def make_loggers(config: TrainConfig, folder: Path) -> list[Logger]:
    """Loggers that write into the run's folder; what W&B's own variables turn off is off."""
    loggers: list[Logger] = []
    if config.logger.csv:
        loggers.append(metrics_logger(folder, config.trainer.log_every, checkpoint_step(config.ckpt_path)))
    if config.logger.wandb and not wandb_turned_off():
        loggers.append(make_wandb_logger(config.logger, folder, config.name, config.to_dict()))
    return loggers


def wandb_turned_off() -> bool:
    """Whether W&B is told by its own variables to do nothing."""
    return os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1")


def checkpoint_step(ckpt_path: str | None) -> int:
    """Where a run begins: at the step of the checkpoint that it goes on from, or at none."""
    return 0 if ckpt_path is None else torch.load(ckpt_path, map_location="cpu", weights_only=True)["global_step"]


def make_wandb_logger(config: LoggerConfig, folder: Path, name: str, values: dict[str, Any]) -> WandbLogger:
    """A started W&B run that holds the config's values; offline where there is no key, or where going online fails."""
    settings: dict[str, Any] = {
        "project": config.project,
        "entity": config.entity,
        "group": config.group,
        "name": name,
        "save_dir": folder,
        "config": hide_path_values(values),
        "settings": quiet_settings(),
    }
    allowed = os.environ.get("WANDB_MODE", "online") == "online" and has_wandb_key()
    if config.mode == "online" or (config.mode == "auto" and allowed):
        online = WandbLogger(**settings)
        try:
            _ = online.experiment
            return online
        except Exception as error:  # W&B raises many kinds; none of them is worth the run
            _log.warning("W&B cannot go online (%s); this run is logged offline.", " ".join(str(error).split())[:200])
            wandb.teardown()
    offline = WandbLogger(offline=True, **settings)
    _ = offline.experiment
    if getattr(rank_zero_only, "rank", 0) == 0:
        _log.info("W&B is offline; upload this run with: wandb sync %s", folder / "wandb" / "offline-run-*")
    return offline


def quiet_settings() -> wandb.Settings:
    """No chatter, and nothing that says whose machine this is or where things lie on it."""
    settings = wandb.Settings(silent=True, console="off", init_timeout=30)
    settings.update_from_dict({"x_disable_meta": True, "disable_git": True, "disable_code": True, "host": ""})
    return settings


def has_wandb_key() -> bool:
    """Whether W&B would find a key: in its environment variable or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
