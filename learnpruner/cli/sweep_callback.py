"""When a sweep's table is written: after each of its jobs, so that a failure later on loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepSummaryCallback(Callback):
    """Writes sweep.md and sweep.json beside the jobs' folders, and sweep.png over budgets; told to Hydra in conf/train.yaml."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            from learnpruner.cli.sweep_table import write_sweep_table  # heavy libraries load where they are used

            write_sweep_table(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from learnpruner.cli.sweep_table import sweep_summary

        if summary := sweep_summary(Path(config.hydra.sweep.dir)):
            print(f"\n{summary}")
