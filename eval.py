"""Evaluates an exported plan, a pruner's config or the unpruned model; conf/eval.yaml says what can be asked."""

from __future__ import annotations

from pathlib import Path

from learnpruner.cli.main import hydra_main
from learnpruner.config.eval_config import EvalConfig
from learnpruner.utils.project import CONF


@hydra_main(CONF, "eval")
def main(config: EvalConfig, folder: Path) -> None:
    from learnpruner.cli.eval_run import run_eval  # loads the heavy libraries, which refused settings do not need

    run_eval(config, folder)


if __name__ == "__main__":
    main()
