"""The table over a sweep, rewritten after each of its jobs: a failure later on loses nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from learnpruner.evaluation import tables as report
from learnpruner.evaluation.plots import draw_sweep, drawn
from learnpruner.evaluation.reports import sweep_table
from learnpruner.utils.io import write_text_atomically
from learnpruner.utils.privacy import command_line

_log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Writes sweep.md and sweep.json beside the jobs' folders, and sweep.png over budgets; told to Hydra in conf/train.yaml."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if (cells := write(folder)) is not None:
            print(f"\n{report.text_table(cells)}\nsweep: {folder / 'sweep.md'}")


def write(folder: Path) -> report.Table | None:
    """The table of all jobs of a sweep that have results, by the settings that made them; None where there is none."""
    found = sorted(folder.glob("*/results.json"), key=lambda path: int(path.parent.name))
    if not found:
        return None
    results = [json.loads(path.read_text()) for path in found]
    names = [command_line(OmegaConf.load(path.parent / ".hydra" / "overrides.yaml")) for path in found]
    rows = [sweep_table([result]) for result in results]
    cells = [["job", *rows[0][0]]] + [[name, *row[1]] for name, row in zip(names, rows, strict=True)]
    (folder / "sweep.md").write_text(f"# Sweep\n\n{report.markdown_table(cells)}\n", encoding="utf-8")
    jobs = [
        {"job": name, "folder": path.parent.name, **result}
        for name, path, result in zip(names, found, results, strict=True)
    ]
    write_text_atomically(folder / "sweep.json", json.dumps(jobs, indent=2) + "\n")
    if len({result["tokens"]["averaged"] for result in results}) == len(results) > 1:
        drawn(lambda: draw_sweep(results, folder / "sweep.png"))
    return cells
