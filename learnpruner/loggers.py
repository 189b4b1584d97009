"""Where metrics go: a CSV file always, Weights & Biases online or offline, never a crash for want of a key or a network."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from learnpruner.config import LoggerConfig

log = logging.getLogger(__name__)


def make_loggers(config: LoggerConfig, folder: Path, name: str, flush_every: int) -> list[Logger]:
    """Loggers that write into the run's folder."""
    loggers: list[Logger] = []
    if config.csv:
        loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=flush_every))
    if config.wandb:
        loggers.append(weights_and_biases(config, folder, name))
    return loggers


def weights_and_biases(config: LoggerConfig, folder: Path, name: str) -> WandbLogger:
    """A started W&B run; offline where there is no key, or where going online fails."""
    settings: dict[str, Any] = {
        "project": config.project,
        "entity": config.entity,
        "group": config.group,
        "name": name,
        "save_dir": folder,
        "settings": wandb.Settings(silent=True, console="off", init_timeout=30),
    }
    allowed = os.environ.get("WANDB_MODE", "online") == "online" and has_key()
    if config.mode == "online" or (config.mode == "auto" and allowed):
        online = WandbLogger(**settings)
        try:
            _ = online.experiment
            return online
        except Exception as error:  # W&B raises many kinds; none of them is worth the run
            log.warning("W&B cannot go online (%s); this run is logged offline.", " ".join(str(error).split())[:200])
            wandb.teardown()
    offline = WandbLogger(offline=True, **settings)
    _ = offline.experiment
    log.info("W&B is offline; upload this run with: wandb sync %s", folder / "wandb" / "offline-run-*")
    return offline


def has_key() -> bool:
    """Whether W&B would find a key: in its environment variable or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
