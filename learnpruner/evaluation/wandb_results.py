"""What an evaluation found, in the W&B run of the training before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from learnpruner.evaluation.tables import read_markdown_table
from learnpruner.training.loggers import _log


def log_results(loggers: Sequence[Logger], folder: Path) -> None:
    """What the evaluation left in the run's folder, in the W&B run: each number of results.json, the table, the pictures."""
    for run in (logger.experiment for logger in loggers if isinstance(logger, WandbLogger)):
        try:
            run.summary.update(dict(numbers(json.loads((folder / "results.json").read_text(encoding="utf-8")))))
            run.log({f"pictures/{picture.stem}": wandb.Image(str(picture)) for picture in sorted(folder.glob("*.png"))})
            if (page := folder / "report.md").is_file():
                head, *rows = read_markdown_table(page.read_text(encoding="utf-8"))
                run.log({"results": wandb.Table(columns=[*head], data=rows)})
        except Exception as error:  # the results are in the folder
            _log.warning("the results could not be added to the W&B run: %s", " ".join(str(error).split())[:200])


def numbers(value: Any, path: str = "results") -> Iterator[tuple[str, float]]:
    """Dotted names and values of the numbers in nested mappings."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from numbers(part, f"{path}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
