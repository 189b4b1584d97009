"""LLaVA-Instruct JSON over a folder of images: the format of LLaVA-1.5's 665 K instruction records and 558 K captions.

A record is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from learnpruner.data.indexed import Indexed, chosen
from learnpruner.data.records import Turns, image_of, picture, turns_of
from learnpruner.data.sample import Sample
from learnpruner.errors import MissingFileError, UserError

log = logging.getLogger(__name__)


class LlavaJson(Indexed):
    """json: the records. images: folder that their ``image`` paths start from, the JSON's own folder by default.

    root: folder that both of these start from. share: of the records with an image, chosen by the seed; lower is a
    smaller epoch. questions, group_by_length: as `Indexed`. skipped: a file that lists the records left out.
    """

    def __init__(
        self,
        json: str | Path,
        images: str | Path | None = None,
        questions: int = 8,
        seed: int = 0,
        skipped: str | Path | None = None,
        root: str | Path = ".",
        share: float = 1.0,
        group_by_length: bool = False,
    ) -> None:
        path = Path(root).expanduser() / json
        self.images = path.parent if images is None else Path(root).expanduser() / images
        records = _read(path)
        if not self.images.is_dir():
            raise MissingFileError(
                f"{self.images} is no folder; data.images must be the folder that the records' image paths start from."
            )
        # what is no record at all counts as broken, not as text
        shown = [i for i, one in enumerate(records) if not isinstance(one, dict) or image_of(one) is not None]
        if len(shown) < len(records):
            log.info(
                "%d of %d records have no image, or several, and are left out", len(records) - len(shown), len(records)
            )
        self.imageless = len(records) - len(shown)
        taken = chosen(np.asarray(shown, np.int64), share, seed)
        super().__init__(len(taken), questions, seed, group_by_length, skipped)
        self.turns: dict[int, Turns] = {}
        for number in taken.tolist():
            self._check(number, records[number])
        if not self.items:
            raise UserError(f"{path} has no record with an image and an answer; there is nothing to train on.")

    def open(self, item: int) -> Sample:
        number, name, path, first = self.items[item]
        return Sample(picture(str(path), Path()), self.turns[number][first : first + self.questions], name)

    def _check(self, number: int, record: Any) -> None:
        name = str(record.get("id", f"record {number}")) if isinstance(record, dict) else f"record {number}"
        turns = turns_of(record)
        if turns is None:
            self.skips.add(str(number), name, "no question with an answer")
        elif not isinstance(image := image_of(record), str):
            self.skips.add(str(number), name, f"image {image!r} is no path")
        elif not (path := self.images / image).is_file():
            self.skips.add(str(number), name, f"image {path} is missing")
        else:
            self.turns[number] = turns
            self._add(number, name, path, turns)


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; data.json must be a JSON file in LLaVA-Instruct format.")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(records, list) or not records:
        raise UserError(
            f"{path} must hold a list of records; it holds {'an empty list' if records == [] else type(records).__name__}."
        )
    return records
