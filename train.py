"""Trains a pruner, or gates of KV-cache eviction, on a frozen backbone, exports it and evaluates the export; conf/train.yaml says what can be set."""

from __future__ import annotations

from pathlib import Path

from learnpruner.cli.main import hydra_main
from learnpruner.config.train_config import TrainConfig
from learnpruner.utils.project import CONF


@hydra_main(CONF, "train")
def main(config: TrainConfig, folder: Path) -> float | None:
    from learnpruner.cli.train_run import run_train  # loads the heavy libraries, which refused settings do not need

    return run_train(config, folder)


if __name__ == "__main__":
    main()
