"""LLaVA-Instruct JSON over a folder of images: the format of LLaVA-1.5's 665 K instruction records and 558 K captions.

The records are one list, or in a file ending in .jsonl one a line.

A record is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from learnpruner.data.conversation_records import Turns, image_of, turns_of
from learnpruner.data.image import UnreadableImage, open_image
from learnpruner.data.paths import resolve_within
from learnpruner.data.sample import Sample
from learnpruner.data.shuffled import ShuffledSource, sample_records
from learnpruner.utils.errors import MissingFileError, UserError

_log = logging.getLogger(__name__)


class LlavaJson(ShuffledSource):
    """Records of one JSON or JSONL file in the shape of LLaVA-Instruct.

    Args:
        json: the records.
        images: folder that their ``image`` paths start from, the JSON's own folder by default.
        root: folder that both of these start from.
        fraction: of the records with an image, chosen by the seed; lower is a smaller epoch.
        questions, group_by_length: as `ShuffledSource`.
        skipped: a file that lists the records left out.
        outside: as `within`.
    """

    def __init__(
        self,
        json: str | Path,
        images: str | Path | None = None,
        questions: int = 8,
        seed: int = 0,
        skipped: str | Path | None = None,
        root: str | Path = ".",
        fraction: float = 1.0,
        group_by_length: bool = False,
        outside: bool = False,
    ) -> None:
        path = Path(root).expanduser() / json
        self.images = path.parent if images is None else Path(root).expanduser() / images
        self.outside = outside
        records = _read(path)
        if not self.images.is_dir():
            raise MissingFileError(
                f"{self.images} is no folder; data.images must be the folder that the records' image paths start from."
            )
        # what is no record at all counts as broken, not as text
        shown = [i for i, one in enumerate(records) if not isinstance(one, dict) or image_of(one) is not None]
        if len(shown) < len(records):
            _log.info(
                "%d of %d records have no image, or several, and are left out", len(records) - len(shown), len(records)
            )
        self.imageless = len(records) - len(shown)
        taken = sample_records(np.asarray(shown, np.int64), fraction, seed)
        super().__init__(len(taken), questions, seed, group_by_length, skipped)
        self.turns: dict[int, Turns] = {}
        for number in taken.tolist():
            self._check(number, records[number])
        if not self.items:
            raise UserError(f"{path} has no record with an image and an answer; there is nothing to train on.")

    def open(self, item: int) -> Sample:
        number, name, path, first = self.items[item]
        return Sample(open_image(path), self.turns[number][first : first + self.questions], name)

    def _check(self, number: int, record: Any) -> None:
        name = str(record.get("id", f"record {number}")) if isinstance(record, dict) else f"record {number}"
        turns = turns_of(record)
        if turns is None:
            self.skips.add(str(number), name, "no question with an answer")
            return
        try:
            path = self._path(image_of(record))
        except UnreadableImage as error:
            self.skips.add(str(number), name, f"image {error}")
            return
        self.turns[number] = turns
        self._add(number, name, path, turns)

    def _path(self, image: Any) -> Path:
        if not isinstance(image, str):
            raise UnreadableImage(f"{image!r} is no path")
        path = resolve_within(self.images, image, self.outside)
        if not _is_file(path):
            raise UnreadableImage(f"{path} is missing")
        return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _read(path: Path) -> list[Any]:
    if path.is_dir():
        raise UserError(f"{path} is a folder; data.json must be a JSON file in LLaVA-Instruct format.")
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; data.json must be a JSON file in LLaVA-Instruct format.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark in front
        records = _lines(text) if path.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; it must hold a list of records.") from None
    if not isinstance(records, list) or not records:
        raise UserError(
            f"{path} must hold a list of records; it holds {'an empty list' if records == [] else type(records).__name__}."
        )
    return records


def _lines(text: str) -> list[Any]:
    """One record a line."""
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            records += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(f"line {number}: {error}") from None
    return records
