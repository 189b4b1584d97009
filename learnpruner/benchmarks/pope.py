"""POPE: is an object in the picture? Yes-or-no questions on three splits of absent objects. https://arxiv.org/abs/2305.10355"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learnpruner.benchmarks.base import AnsweredExample, Example
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark, _Array, is_known, ratio_or_nan
from learnpruner.utils.errors import UserError

_TP, _FP, _FN, _RIGHT, _COUNT = range(5)


def llava_yes_no(prediction: str) -> str:
    """LLaVA's parser: "no" where the words before the first full stop hold No, no or not; everything else is "yes".

    LLaVA strips an answer when it writes it down, before eval_pope.py sees it.
    """
    words = prediction.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def strict_yes_no(prediction: str) -> str:
    """The whole answer is yes or no but for case and blanks, or counts as neither; lmms-eval reads answers so."""
    given = prediction.lower().strip()
    return given if given in ("yes", "no") else "other"


YES_NO_PARSERS = {"llava": llava_yes_no, "strict": strict_yes_no}


class Pope(PublicBenchmark):
    """The mean of the three splits' F1, "yes" being positive (85.9 for LLaVA-1.5-7B), or their accuracy.

    Args:
        report: "f1", as the papers on pruning do, or "accuracy".
        parser: "llava", after LLaVA's eval_pope.py, or "strict". An answer that is neither yes nor no is wrong, and a
            missed positive where the truth is yes: under `strict`, accuracy and precision are lmms-eval's, but its
            recall, and so its F1, leaves such answers out, and pools the splits.
    """

    name, title = "pope", "POPE"
    kinds = ("random", "popular", "adversarial")
    columns = ("question_id", "question", "answer", "image_source", "image", "category")

    def __init__(
        self,
        source: str = "lmms-lab/POPE",
        split: str = "test",
        config: str | None = None,
        report: str = "f1",
        parser: str = "llava",
        max_new_tokens: int = 128,
    ) -> None:
        if report not in ("f1", "accuracy"):
            raise UserError(f"report={report!r} is refused: POPE's score is 'f1' or 'accuracy'.")
        if parser not in YES_NO_PARSERS:
            raise UserError(f"parser={parser!r} is refused: choose one of {', '.join(YES_NO_PARSERS)}.")
        self.report, self.parser = report, parser
        self.metric = f"{report.replace('f1', 'F1')}, mean of the three splits"
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        kind, name = row["category"], f"{row['category']}/{row['question_id']}"
        if kind not in self.kinds:
            raise UserError(f"Question {name} has the category {kind!r}; POPE's are {', '.join(self.kinds)}.")
        question, answer = row["question"].strip() + SHORT_ANSWER_PROMPT, row["answer"].lower().strip()
        if answer not in ("yes", "no"):
            raise UserError(f"Question {name} has the answer {row['answer']!r}; POPE's are yes and no.")
        return Example(self.picture(row["image"]), question, answer, kind, str(row["image_source"]), name)

    def score(self, prediction: str, example: Example) -> float:
        return float(YES_NO_PARSERS[self.parser](prediction) == example.answer)

    def sums(self, answered: Sequence[AnsweredExample]) -> _Array:
        """(G, 15): true and false positives, false negatives, right answers and questions of each split, by image."""
        scenes, unit = np.unique([one.scene for one in answered], return_inverse=True)
        table = np.zeros((len(scenes), len(self.kinds), 5))
        for row, one in zip(unit, answered, strict=True):
            cell, said = table[row, self.kinds.index(one.kind)], YES_NO_PARSERS[self.parser](one.prediction)
            cell[_TP] += said == one.answer == "yes"
            cell[_FP] += said == "yes" != one.answer
            cell[_FN] += said != "yes" == one.answer
            cell[_RIGHT] += said == one.answer
            cell[_COUNT] += 1
        return table.reshape(len(scenes), -1)

    def value(self, sums: _Array) -> _Array:
        by_split = f1_score(self.splits(sums)) if self.report == "f1" else pope_accuracy(self.splits(sums))
        known = ~np.isnan(by_split)
        return 100 * ratio_or_nan(np.nan_to_num(by_split).sum(-1), known.sum(-1))

    def caption(self, metrics: Mapping[str, float | None]) -> str:
        asked = [kind for kind in self.kinds if is_known(metrics[f"{self.report} {kind}"])]
        if len(asked) == len(self.kinds):
            return self.metric
        return f"{self.metric.split(',')[0]} of {' and '.join(asked) or 'no split'} alone, not of all three splits"

    def splits(self, sums: _Array) -> _Array:
        return sums.reshape(*sums.shape[:-1], len(self.kinds), 5)

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        each = self.splits(self.sums(answered).sum(0))
        whole = each.sum(0)
        said_yes = whole[_TP] + whole[_FP]
        found = {"score": self.total(answered)}
        for kind, one_f1, one_accuracy in zip(self.kinds, f1_score(each), pope_accuracy(each), strict=True):
            found |= {f"f1 {kind}": 100 * one_f1, f"accuracy {kind}": 100 * one_accuracy}
        return found | {
            "f1 pooled": 100 * float(f1_score(whole)),
            "accuracy": 100 * float(pope_accuracy(whole)),
            "precision": 100 * float(ratio_or_nan(whole[_TP], said_yes)),
            "recall": 100 * float(ratio_or_nan(whole[_TP], whole[_TP] + whole[_FN])),
            "yes ratio": 100 * float(ratio_or_nan(said_yes, whole[_COUNT])),
        }


def f1_score(counts: _Array) -> _Array:
    """2 TP / (2 TP + FP + FN) over the last axis; 0 where nothing is positive, nan where nothing was asked."""
    double, errors = 2 * counts[..., _TP], counts[..., _FP] + counts[..., _FN]
    score = np.nan_to_num(ratio_or_nan(double, double + errors))
    return np.where(counts[..., _COUNT] > 0, score, np.nan)


def pope_accuracy(counts: _Array) -> _Array:
    """Share of right answers over the last axis; nan where nothing was asked."""
    return ratio_or_nan(counts[..., _RIGHT], counts[..., _COUNT])
