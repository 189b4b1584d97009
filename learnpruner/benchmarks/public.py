"""What the field's benchmarks share: rows -> examples, and scores that are functions of sums over images.

Letters: S samples, G units (images, or groups of questions that count together), C sums.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from learnpruner.benchmarks.base import AnsweredExample, Benchmark, Example
from learnpruner.benchmarks.rows import decode_cell
from learnpruner.data.public_tables import read_rows
from learnpruner.utils.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_Array = NDArray[np.float64]
SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
QUESTION_COLUMNS = ("question", "answer", "answers")  # columns whose cells can't be empty
LETTER_ANSWER_PROMPT = "\nAnswer with the option's letter from the given choices directly."


class PublicBenchmark(Benchmark):
    """A public benchmark; rows are read when their turn comes.

    Args:
        source: Hub id, local folder or file.
        split, config: see `read_rows`.
        max_new_tokens: longest answer.
    """

    columns: ClassVar[tuple[str, ...]]
    title: ClassVar[str]  # column of the table
    decimals: ClassVar[int] = 1
    metric: str  # what the table's number is, in words
    best: float = 100.0  # the highest possible score
    kinds: tuple[str, ...] = ()
    outside: bool = False  # whether paths in its rows may lead out of its folder

    def __init__(self, source: str, split: str, config: str | None = None, max_new_tokens: int = 16) -> None:
        self.source, self.split, self.config, self.max_new_tokens = source, split, config, max_new_tokens
        path = Path(source).expanduser()
        self.folder = path if path.is_dir() else path.parent
        self.rows = self.read()

    def read(self) -> Dataset:
        """The table of questions."""
        return read_rows(self.source, self.columns, self.split, self.config)

    def picture(self, cell: Any) -> Image.Image:
        """What a row's cell shows."""
        return decode_cell(cell, self.folder, self.outside)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.rows[index]
        lacking = [name for name in QUESTION_COLUMNS if name in row and row[name] in (None, [])]
        if lacking:
            raise UserError(
                f"Row {index} of {self.source} has no {lacking[0]}: a split whose answers are kept back cannot be scored."
            )
        return self.example({**row, "row": index})

    @abstractmethod
    def example(self, row: Mapping[str, Any]) -> Example:
        """A row as the question in its full wording, with the right answer; "row" is its number."""

    def answered(self, example: Example, prediction: str) -> AnsweredExample:
        one = super().answered(example, prediction)
        return replace(one, scene=str(one.scene))

    def sums(self, answered: Sequence[AnsweredExample]) -> _Array:
        """(G, C): what each unit adds to the sums that the score is made of; here its images' credit and count."""
        _, unit = np.unique([one.scene for one in answered], return_inverse=True)
        credit = np.bincount(unit, weights=[one.score for one in answered])
        return np.stack([credit, np.bincount(unit).astype(np.float64)], axis=-1)

    def value(self, sums: _Array) -> _Array:
        """The table's score from (..., C) sums, in the papers' units; nan where nothing can be said."""
        return 100 * ratio_or_nan(sums[..., 0], sums[..., 1])

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        """The table's score as "score", then whatever else is worth knowing."""
        return {"score": self.total(answered)} | scores_by_kind(answered)

    def caption(self, metrics: Mapping[str, float | None]) -> str:
        """What the table's number is, given one plan's metrics (None or nan: not known): what a limit left out is said."""
        return self.metric

    def total(self, answered: Sequence[AnsweredExample]) -> float:
        return float(self.value(self.sums(answered).sum(0)))


def ratio_or_nan(part: _Array, whole: _Array) -> _Array:
    """Part / whole; nan where whole is zero."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def is_known(value: float | None) -> bool:
    """Whether a metric has a value: neither None, as in results.json, nor nan."""
    return value is not None and value == value


def scores_by_kind(answered: Sequence[AnsweredExample]) -> dict[str, float]:
    """Mean score of each kind of question in percent."""
    scores: dict[str, list[float]] = {}
    for one in answered:
        scores.setdefault(one.kind, []).append(one.score)
    return {kind: 100 * float(np.mean(values)) for kind, values in sorted(scores.items())} if len(scores) > 1 else {}
