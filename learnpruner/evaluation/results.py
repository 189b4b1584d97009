"""What an evaluation found: answers and scores of several plans on the same samples, and results.json made from them.

Letters: S samples.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnpruner.evaluation.statistics import kind_means, retention
from learnpruner.evaluation.tables import write_csv
from learnpruner.utils.provenance import commit, versions

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Question:
    """What was asked, without its image."""

    scene: int | str
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Outcome:
    """What the model answered under one plan: (S,) texts and scores, and the visual tokens it ran on.

    adapts: what the plan changed in the model itself, None for nothing.
    """

    answers: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: dict[str, float]
    adapts: str | None = None


@dataclass(frozen=True)
class Results:
    """Outcomes of several plans on the same samples; `outcomes["unpruned"]` is what the others are compared with."""

    backbone: str
    benchmark: str
    kinds: tuple[str, ...]
    questions: tuple[Question, ...]
    outcomes: dict[str, Outcome]

    @property
    def kind(self) -> NDArray[np.int64]:
        """(S,) index of each sample's kind."""
        return np.array([self.kinds.index(one.kind) for one in self.questions])

    def accuracy(self, name: str) -> dict[str, float]:
        """Accuracy of each kind that occurs, and their mean, as fractions of 1."""
        means = kind_means(self.outcomes[name].scores, self.kind, len(self.kinds))
        known = {kind: float(mean) for kind, mean in zip(self.kinds, means, strict=True) if not np.isnan(mean)}
        return known | {"mean": float(np.mean(list(known.values())))}

    def row(self, name: str) -> dict[str, Any]:
        """Accuracy, retention and tokens of one plan; and what it adapts, where it changes the model itself."""
        scenes = np.array([one.scene for one in self.questions])
        kept = retention(self.outcomes[name].scores, self.outcomes[UNPRUNED].scores, self.kind, scenes)
        one = self.outcomes[name]
        row = {"accuracy": self.accuracy(name), "retention": asdict(kept), "tokens": one.tokens}
        return row | ({"adapts": one.adapts} if one.adapts else {})

    def contract(self, plan: str | None, prune_ratio: float, name: str = UNPRUNED) -> dict[str, Any]:
        """The contents of results.json: the same keys for every run, and `adapts` for a plan that changes the model itself.

        Args:
            plan: where the plan comes from (a path or a config's name), None for the unpruned model.
            prune_ratio: the share of visual tokens that was asked for.
            name: the outcome that the result is about; all others are baselines.
        """
        own = self.row(name)
        return {
            "plan": plan,
            "backbone": self.backbone,
            "benchmark": self.benchmark,
            "samples": len(self.questions),
            "prune_ratio": prune_ratio,
            "tokens": own["tokens"],
            "accuracy": own["accuracy"],
            "unpruned": self.accuracy(UNPRUNED),
            "retention": own["retention"],
            **{key: own[key] for key in ("adapts",) if key in own},
            "baselines": {other: self.row(other) for other in self.outcomes if other not in (UNPRUNED, name)},
            "versions": versions(),
            "commit": commit(),
        }

    def write_answers(self, path: Path) -> Path:
        """Every answer of every plan as CSV, one sample a row."""
        head = ["scene", "kind", "question", "answer", *self.outcomes]
        given = zip(*(outcome.answers for outcome in self.outcomes.values()), strict=True)
        asked = ([one.scene, one.kind, one.question, one.answer] for one in self.questions)
        return write_csv(path, head, ([*one, *answers] for one, answers in zip(asked, given, strict=True)))
