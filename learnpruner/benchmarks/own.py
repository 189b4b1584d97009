"""One's own questions: a CSV or JSON file with a folder of pictures."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learnpruner.benchmarks.base import Benchmark, Example, normalise_answer
from learnpruner.data.image import UnreadableImage, open_image
from learnpruner.data.paths import resolve_within
from learnpruner.utils.errors import MissingFileError, UserError

OWN_COLUMNS = ("image", "question", "answer")
SEPARATOR = "|"  # between the right answers of a cell
Scoring = Callable[[str, Sequence[str]], float]


class OwnQuestions(Benchmark):
    """Questions from a file with the columns image, question and answer.

    Args:
        file: a CSV with a header, a JSON list of objects, or one JSON object a line in a .jsonl. An answer is a text or, in
            JSON, a list of texts; in a CSV several right answers stand in one cell with ``|`` between them.
        images: folder that the images' paths start from; None is the file's own.
        scoring: from a predicted answer and the right ones to a credit in [0, 1]; None is exact match with one of them after
            normalisation.
        outside: whether paths may lead out of `images`.

    Raises:
        UserError: where the file cannot be read, lacks a column or names a picture that is not there.
    """

    name = "own"
    kinds = ("own",)

    def __init__(
        self, file: str, images: str | None = None, scoring: Scoring | None = None, outside: bool = False
    ) -> None:
        path = Path(file).expanduser()
        self.file, self.images, self.scoring, self.outside = file, images, scoring, outside
        self.folder = path.parent if images is None else Path(images).expanduser()
        if not self.folder.is_dir():
            raise MissingFileError(f"benchmark.images={images} is no folder; give the folder of the pictures.")
        self.rows = [self._checked(number, row) for number, row in enumerate(read_questions(path), 1)]
        if not self.rows:
            raise UserError(f"benchmark.file={file} holds no question; give at least one row below the header.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        image, question, answers = self.rows[index]
        try:
            picture = open_image(self._path(index + 1, image))
        except UnreadableImage as error:
            raise UserError(f"{self._row(index + 1)}: image {image} cannot be read as a picture: {error}.") from None
        return Example(picture, question, answers[0], "own", image, str(index), {"answers": answers})

    def arguments(self) -> dict[str, Any]:
        """The arguments and what the file held: other questions are another benchmark."""
        held = hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()
        return {**super().arguments(), "rows": held}

    def score(self, prediction: str, example: Example) -> float:
        answers = example.facts["answers"]
        if self.scoring is None:
            return float(normalise_answer(prediction) in {normalise_answer(answer) for answer in answers})
        credit = float(self.scoring(prediction, answers))
        if not 0 <= credit <= 1:
            raise UserError(f"benchmark.scoring gave {credit} to {prediction!r}; a credit is between 0 and 1.")
        return credit

    def _checked(self, number: int, row: Mapping[str, Any]) -> tuple[str, str, list[str]]:
        for name in OWN_COLUMNS:
            if row.get(name) in (None, "", []):
                raise UserError(f"{self._row(number)} has no {name}; each row needs {', '.join(OWN_COLUMNS)}.")
        image, question, answer = (row[name] for name in OWN_COLUMNS)
        answers = answer if isinstance(answer, list) else [answer]
        if not (isinstance(image, str) and isinstance(question, str) and all(isinstance(a, str) for a in answers)):
            raise UserError(
                f"{self._row(number)}: image, question and answer are texts; an answer may be a list of them."
            )
        if not self._path(number, image).is_file():
            raise MissingFileError(
                f"{self._row(number)}: {self._path(number, image)} is missing; see benchmark.images."
            )
        return image, question, answers

    def _path(self, number: int, image: str) -> Path:
        try:
            return resolve_within(self.folder, image, self.outside)
        except UnreadableImage as error:
            raise UserError(f"{self._row(number)}: the image {error}.") from None

    def _row(self, number: int) -> str:
        return f"Row {number} of {self.file}"


def read_questions(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file of questions, as they stand in it; of a CSV with lists of answers.

    Raises:
        UserError: where it is missing, of another kind, or damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"benchmark.file={path} is no file; give a .csv, .json or .jsonl with your questions.")
    readers: dict[str, Callable[[str], Any]] = {".csv": _read_csv, ".json": json.loads, ".jsonl": _read_lines}
    if path.suffix not in readers:
        raise UserError(f"benchmark.file={path} ends in {path.suffix!r}; it must be a .csv, .json or .jsonl.")
    try:
        rows = readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"benchmark.file={path} is no valid {path.suffix[1:]} in UTF-8: {error}.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"benchmark.file={path} must hold a list of objects with {', '.join(OWN_COLUMNS)}.")
    return rows


def _read_csv(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    lacking = [name for name in OWN_COLUMNS if name not in (reader.fieldnames or ())]
    if lacking:
        raise UserError(
            f"its header has no column {lacking[0]}, only {', '.join(reader.fieldnames or ()) or 'nothing'}"
        )
    return [{**row, "answer": [one for one in (row["answer"] or "").split(SEPARATOR) if one]} for row in reader]


def _read_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]
