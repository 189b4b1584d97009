"""MME: two yes-or-no questions an image in fourteen categories. https://arxiv.org/abs/2306.13394"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learnpruner.benchmarks.base import AnsweredExample, Example
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark, _Array, is_known, ratio_or_nan
from learnpruner.benchmarks.rows import group_rows
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

_PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
_COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()


def mme_yes_no(prediction: str) -> str:
    """Read "yes" or "no" as the whole answer, as y or n, or within its first four characters; else "other": MME's own parser."""
    given = prediction.lower().strip().replace(".", "")
    if len(given) == 1:
        return {"y": "yes", "n": "no"}.get(given, "other")
    start = given[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


class Mme(PublicBenchmark):
    """Perception (at most 2000) plus cognition (at most 800); "report" takes one of them alone.

    A category's score is the mean over its images of 100 x the share of its two questions answered rightly, and 100 more
    where both are. An image of which a limit left one question only is not counted.

    Args:
        report: "sum" (1862 for LLaVA-1.5-7B), "perception" (1510) or "cognition".
    """

    name, title, decimals = "mme", "MME", 0
    kinds = (*_PERCEPTION, *_COGNITION)
    columns = ("question_id", "question", "answer", "category", "image")

    def __init__(
        self,
        source: str = "lmms-lab/MME",
        split: str = "test",
        config: str | None = None,
        report: str = "sum",
        max_new_tokens: int = 16,
    ) -> None:
        parts = {"sum": self.kinds, "perception": _PERCEPTION, "cognition": _COGNITION}
        if report not in parts:
            raise UserError(f"report={report!r} is refused: MME's score is one of {', '.join(parts)}.")
        self.report, self.best = report, 200.0 * len(parts[report])
        self.metric = "perception + cognition" if report == "sum" else report
        self.counted = np.isin(self.kinds, parts[report])
        super().__init__(source, split, config, max_new_tokens)
        known = self.rows.select_columns(["category", "question_id"])
        keys = list(zip(known["category"], known["question_id"], strict=True))
        (image, questions), *_ = Counter(keys).most_common(1)
        if questions > 2:
            raise UserError(f"{source} asks {questions} questions about {image[1]}; MME asks two an image.")
        self.rows = group_rows(self.rows, keys)

    def example(self, row: Mapping[str, Any]) -> Example:
        if row["category"] not in self.kinds:
            raise UserError(f"{row['question_id']} has the category {row['category']!r}, which is none of MME's.")
        question = row["question"].replace("Please answer yes or no.", "").strip()
        answer, scene = row["answer"].lower().strip().replace(".", ""), f"{row['category']}/{row['question_id']}"
        image = self.picture(row["image"])
        return Example(image, question + SHORT_ANSWER_PROMPT, answer, row["category"], scene, f"{scene}: {question}")

    def score(self, prediction: str, example: Example) -> float:
        return float(mme_yes_no(prediction) == example.answer)

    def sums(self, answered: Sequence[AnsweredExample]) -> _Array:
        """(G, 28): points of each category, then images of each, one image a row."""
        pairs: dict[str, list[AnsweredExample]] = {}
        for one in answered:
            pairs.setdefault(str(one.scene), []).append(one)
        table = np.zeros((len(pairs), 2, len(self.kinds)))
        for row, pair in enumerate(pairs.values()):
            if len(pair) == 2:
                right = sum(one.score for one in pair)
                table[row, :, self.kinds.index(pair[0].kind)] = 50 * right + 100 * (right == 2), 1
            else:
                _log.warning("MME: %s has %d question, not two, and is not counted", pair[0].scene, len(pair))
        return table.reshape(len(pairs), -1)

    def value(self, sums: _Array) -> _Array:
        by_category = self.categories(sums)[..., self.counted]
        some = ~np.isnan(by_category).all(-1)
        return np.where(some, np.nansum(by_category, -1), np.nan)

    def caption(self, metrics: Mapping[str, float | None]) -> str:
        counted = [kind for kind, is_counted in zip(self.kinds, self.counted, strict=True) if is_counted]
        asked = sum(is_known(metrics[kind]) for kind in counted)
        return self.metric + ("" if asked == len(counted) else f", {asked} of the {len(counted)} categories alone")

    def categories(self, sums: _Array) -> _Array:
        """(..., 14) scores out of 200; nan where no image was asked about."""
        points, images = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, len(self.kinds)), -2, 0)
        return ratio_or_nan(points, images)

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        each = dict(zip(self.kinds, self.categories(self.sums(answered).sum(0)).tolist(), strict=True))
        parts = {"perception": _PERCEPTION, "cognition": _COGNITION}
        totals = {name: float(np.nansum([each[kind] for kind in kinds])) for name, kinds in parts.items()}
        return {"score": self.total(answered)} | totals | each
