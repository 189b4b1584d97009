"""Writes scenes: ``python -m learnpruner.data.scenes OUT --split train --count 1000``."""

from __future__ import annotations

import argparse
from pathlib import Path

from learnpruner.data.scenes.folder import write_folder
from learnpruner.data.scenes.parts import SPLITS
from learnpruner.utils.argtypes import non_negative_int, positive_int


def main() -> None:
    """Write scenes into a folder, as the command line says."""
    parser = argparse.ArgumentParser(description="Write procedural scenes as a folder in LLaVA-Instruct JSON format.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--count", type=positive_int, default=1000)
    parser.add_argument("--seed", type=non_negative_int, default=0)
    parser.add_argument("--questions", type=positive_int, default=8, help="questions a scene")
    options = parser.parse_args()
    try:
        path = write_folder(options.out, options.split, options.count, options.seed, options.questions)
    except OSError as error:
        parser.error(f"{options.out} cannot be written: {error}; OUT must be a folder of yours, or a new one.")
    print(f"wrote {options.count} scenes of split {options.split} to {path}")


if __name__ == "__main__":
    main()
