"""metrics.csv of a run. Lightning's logger deletes the file that it finds; a run that goes on keeps what it had logged."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from learnpruner.training.lightning_compat import write_with
from learnpruner.utils.distributed import is_rank_zero


class MetricsFile(ExperimentWriter):
    """Appends to the file that is there.

    Args:
        step: where the run goes on; rows from there on are about to come again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(str(folder))
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            kept = [row for row in reader if (row["step"] or "").isdigit() and int(row["step"]) < step]
            self.metrics_keys = list(reader.fieldnames or [])
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
        partial.replace(path)

    def _check_log_dir_exists(self) -> None: ...


def make_metrics_logger(save_dir: str | Path, first_step: int = 0) -> CSVLogger:
    """Make the logger that writes metrics.csv.

    Args:
        save_dir: its folder.
        first_step: of the checkpoint that the run goes on from, 0 for a run that begins.
    """
    logger = CSVLogger(save_dir, name="", version="", flush_logs_every_n_steps=1)
    if is_rank_zero():  # of several processes the first writes
        write_with(logger, MetricsFile(Path(save_dir), first_step))
    return logger
