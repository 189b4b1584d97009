"""What an evaluation found, in the W&B run of the training before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from learnpruner.evaluation.optimized_metric import numbers
from learnpruner.evaluation.table_format import read_markdown_table
from learnpruner.training.loggers import _log


def log_results(loggers: Sequence[Logger], folder: Path, export: Path | None = None) -> None:
    """Add to the W&B run, where there is one, each number of results.json, the table, the pictures and the export.

    Args:
        loggers: of the training.
        folder: of the run, where the evaluation has left its files.
        export: what was trained, an artifact of the run where the logger keeps it.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        try:
            _add(logger, folder, export)
        except Exception as error:  # the results are in the folder
            _log.warning("the results could not be added to the W&B run: %s", " ".join(str(error).split())[:200])


def _add(logger: WandbLogger, folder: Path, export: Path | None) -> None:
    import wandb

    run = logger.experiment
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    run.summary.update(dict(numbers(results, "results")))
    run.log({f"pictures/{picture.stem}": wandb.Image(str(picture)) for picture in sorted(folder.glob("*.png"))})
    if (page := folder / "report.md").is_file():
        head, *rows = read_markdown_table(page.read_text(encoding="utf-8"))
        run.log({"results": wandb.Table(columns=[*head], data=rows)})
    if export is not None and getattr(logger, "keeps_export", False):
        artifact = wandb.Artifact(f"export-{run.id}", "model")
        artifact.add_dir(str(export))
        run.log_artifact(artifact)
