"""LLaVA-Instruct JSON over a folder of images: the format of LLaVA-1.5's 665 K instruction records.

A record is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``. Every human turn with the answer that follows
becomes one question. Records without an image are text-only and left out.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from learnpruner.data.sample import Sample

log = logging.getLogger(__name__)

TOLERATED = 0.01  # share of records; one bad record is tolerated in a folder of any size


class LlavaJson:
    """json: the records. images: folder that their ``image`` paths start from, the JSON's own folder by default.

    questions: at most so many turns of a record at a time, a longer record is met several times an epoch.
    skipped: a file that lists the records left out, one JSON object a line. Images are opened when their turn comes.
    """

    def __init__(
        self,
        json: str | Path,
        images: str | Path | None = None,
        questions: int = 8,
        seed: int = 0,
        skipped: str | Path | None = None,
    ) -> None:
        path = Path(json)
        self.images = Path(images) if images is not None else path.parent
        records = _read(path)
        if not self.images.is_dir():
            raise FileNotFoundError(
                f"{self.images} is no folder; data.images must be the folder that the records' image paths start from."
            )
        self.seed = seed
        self.broken: set[Path] = set()
        self.skips = Skips(len(records), Path(skipped) if skipped is not None else None)
        self.items: list[tuple[str, Path, list[tuple[str, str]]]] = []
        for number, record in enumerate(records):
            self._add(number, record, questions)
        if not self.items:
            raise ValueError(f"{path} has no record with an image and an answer; there is nothing to train on.")

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """Number ``index`` of an endless stream of shuffled epochs; the next readable record takes a broken one's place."""
        epoch, place = divmod(index, len(self))
        order = _permutation(len(self), self.seed, epoch)
        for step in range(len(self)):
            name, path, turns = self.items[order[(place + step) % len(self)]]
            if path in self.broken:
                continue
            try:
                with Image.open(path) as image:
                    return Sample(image.convert("RGB"), turns, name)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.broken.add(path)
                self.skips.add(name, f"image {path} cannot be read: {error}")
        raise ValueError(f"no image under {self.images} can be read; there is nothing to train on.")

    def _add(self, number: int, record: Any, questions: int) -> None:
        name = str(record.get("id", f"record {number}")) if isinstance(record, dict) else f"record {number}"
        if isinstance(record, dict) and not record.get("image"):
            return
        turns = _turns(record)
        if turns is None:
            self.skips.add(name, "no question with an answer")
        elif not (path := self.images / record["image"]).is_file():
            self.skips.add(name, f"image {path} is missing")
        else:
            self.items += [(name, path, turns[i : i + questions]) for i in range(0, len(turns), questions)]


class Skips:
    """Counts the records left out and lists them; more than TOLERATED of them stop the run."""

    def __init__(self, total: int, path: Path | None) -> None:
        self.total, self.path, self.count = total, path, 0

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"id": name, "reason": reason}) + "\n")
        log.warning("skipped record %s (%d of %d so far): %s", name, self.count, self.total, reason)
        if self.count > max(1, TOLERATED * self.total):
            listed = f"; all of them are listed in {self.path}" if self.path is not None else ""
            raise ValueError(
                f"{self.count} of {self.total} records cannot be used, more than {TOLERATED:.0%}; the last one is {name}: {reason}{listed}."
            )


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; data.json must be a JSON file in LLaVA-Instruct format.")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(records, list) or not records:
        raise ValueError(
            f"{path} must hold a list of records; it holds {'an empty list' if records == [] else type(records).__name__}."
        )
    return records


def _turns(record: Any) -> list[tuple[str, str]] | None:
    """(question, answer) pairs of a record, or None where there is none."""
    try:
        said = [(turn["from"], turn["value"].replace("<image>", "").strip()) for turn in record["conversations"]]
    except (TypeError, KeyError, AttributeError):
        return None
    turns = [
        (human[1], gpt[1])
        for human, gpt in pairwise(said)
        if (human[0], gpt[0]) == ("human", "gpt") and human[1] and gpt[1]
    ]
    return turns or None


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
