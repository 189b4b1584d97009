"""MMStar: questions that cannot be answered without the picture; four options. https://arxiv.org/abs/2403.20330"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learnpruner.benchmarks.base import AnsweredExample, Example
from learnpruner.benchmarks.public import PublicBenchmark, _Array, is_known, ratio_or_nan
from learnpruner.benchmarks.rows import picture_key
from learnpruner.benchmarks.scoring import truncate_answer

_LETTERS = "ABCD"
_ENDING = "\nAnswer with the option's letter from the given choices directly"  # no full stop there
_FORMS = ("({})", "{}.", "{}:", "{})", "{} ", "{}")  # how an answer may mark its letter, the clearest first
_PRAISED = [f"{the}{praise}" for the in ("", "the ") for praise in ("correct ", "best ")]
_PHRASES = (
    *(f"{front}answer is" for front in ("", "the ", "my ", *_PRAISED)),
    *(f"{front}option is" for front in _PRAISED),
    *(f"{front}choice is" for front in ("", "the ", "my ", "correct ", "the correct ")),
    *(f"i {verb}" for verb in ("choose", "select", "pick")),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def mmstar_letter(prediction: str) -> str | None:
    """The option that an answer names, None where it names none: the order of lmms-eval since April 2026.

    A letter alone at the start, one alone at the end, the last of those that follow a phrase such as "answer is", then the last
    one in the clearest of the forms (B), B., B:, B), "B " and B.
    """
    said = prediction.strip()
    for mark in ",.!?;:'\"":
        said = said.strip(mark)
    said = said.strip()
    if said[:1] in tuple(_LETTERS) and not said[1:2].isalpha():
        return said[0]
    if said[-1:] in tuple(_LETTERS) and not said[-2:-1].isalpha():
        return said[-1]
    said = f" {said} "
    ends = [place + len(phrase) for phrase in _PHRASES if (place := said.lower().find(phrase)) >= 0]
    behind = [place for end in ends for letter in _LETTERS if (place := said.find(letter, end)) >= 0]
    if behind:
        return said[max(behind)]
    for form in _FORMS:
        last = {said.rfind(form.format(letter)): letter for letter in _LETTERS}
        if max(last) >= 0:
            return last[max(last)]
    return None


class Mmstar(PublicBenchmark):
    """The mean of the accuracies of its eighteen subjects, which are of unequal size; those of its six areas among the metrics."""

    name, title = "mmstar", "MMStar"
    metric = "mean accuracy over subjects"
    columns = ("index", "question", "answer", "category", "l2_category", "image")

    def __init__(
        self,
        source: str = "Lin-Chen/MMStar",
        split: str = "val",
        config: str | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)
        self.kinds = tuple(sorted(set(self.rows.select_columns(["l2_category"])["l2_category"])))

    def example(self, row: Mapping[str, Any]) -> Example:
        question = row["question"].strip().replace(" Please answer yes or no.", "") + _ENDING
        answer, facts = row["answer"].strip().upper(), {"category": row["category"]}
        image, scene = self.picture(row["image"]), picture_key(row["image"])
        return Example(image, question, answer, row["l2_category"], scene, str(row["index"]), facts)

    def score(self, prediction: str, example: Example) -> float:
        return float(mmstar_letter(truncate_answer(prediction)) == example.answer)

    def sums(self, answered: Sequence[AnsweredExample]) -> _Array:
        """(G, 2 x subjects): credit in each subject, then questions of each, one picture a row."""
        scenes, unit = np.unique([one.scene for one in answered], return_inverse=True)
        table = np.zeros((len(scenes), 2, len(self.kinds)))
        for row, one in zip(unit, answered, strict=True):
            table[row, :, self.kinds.index(one.kind)] += one.score, 1
        return table.reshape(len(scenes), -1)

    def value(self, sums: _Array) -> _Array:
        by_subject = self.subjects(sums)
        known = ~np.isnan(by_subject)
        return ratio_or_nan(np.nansum(by_subject, -1), known.sum(-1))

    def subjects(self, sums: _Array) -> _Array:
        """Accuracy of each subject over the last axis, in percent; nan where nothing was asked."""
        credit, asked = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, len(self.kinds)), -2, 0)
        return 100 * ratio_or_nan(credit, asked)

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        found = {"score": self.total(answered)}
        for area in sorted({one.facts["category"] for one in answered}):
            found[area] = self.total([one for one in answered if one.facts["category"] == area])
        return found | dict(zip(self.kinds, self.subjects(self.sums(answered).sum(0)).tolist(), strict=True))

    def caption(self, metrics: Mapping[str, float | None]) -> str:
        asked = sum(is_known(metrics[kind]) for kind in self.kinds)
        return self.metric + ("" if asked == len(self.kinds) else f", {asked} of {len(self.kinds)} alone")
