"""What an evaluation found: answers and scores of several plans on the same samples, and results.json made from them.

Letters: S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnpruner.benchmarks.base import AnsweredExample, Benchmark
from learnpruner.evaluation.difficult import difficult_samples, subset_score
from learnpruner.evaluation.statistics import kind_means, retention
from learnpruner.evaluation.table_format import write_csv
from learnpruner.utils.io import write_json
from learnpruner.utils.privacy import hide_path_values
from learnpruner.utils.provenance import provenance

UNPRUNED = "unpruned"
SCHEMA_VERSION = 1  # of results.json; it rises when a key changes its meaning


@dataclass(frozen=True)
class EvaluationResult:
    """What results.json holds, of every task: what was measured, on what, and where the numbers come from.

    Args:
        plan: where the plan comes from, None for the unpruned model.
        backbone: folder or hub id.
        benchmark: the task's or the benchmark's name.
        measured: what the task found, ready for JSON.
    """

    plan: str | None
    backbone: str
    benchmark: str
    measured: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """List the file's contents; paths in it are names."""
        about = {"schema_version": SCHEMA_VERSION, "plan": self.plan, "backbone": self.backbone}
        told: dict[str, Any] = hide_path_values({**about, "benchmark": self.benchmark, **self.measured, **provenance()})
        return told

    def write(self, path: Path) -> tuple[Path, dict[str, Any]]:
        """Write the file; return it and its contents."""
        told = self.to_dict()
        return write_json(told, path), told


@dataclass(frozen=True)
class EvaluatedQuestion:
    """What was asked, without its image."""

    scene: int | str
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class PlanOutcome:
    """What the model answered under one plan: (S,) texts and scores, and the visual tokens it ran on.

    adapts: what the plan changed in the model itself, None for nothing.
    """

    answers: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: dict[str, float]
    adapts: str | None = None

    @classmethod
    def of(cls, answered: Sequence[AnsweredExample], tokens: dict[str, float], adapts: str | None) -> PlanOutcome:
        """Sum up answered samples."""
        given, scores = tuple(one.prediction for one in answered), np.array([one.score for one in answered])
        return cls(given, scores, tokens, adapts)


@dataclass(frozen=True)
class BenchmarkOutcomes:
    """Outcomes of several plans on the same samples; `outcomes["unpruned"]` is what the others are compared with."""

    backbone: str
    benchmark: str
    kinds: tuple[str, ...]
    questions: tuple[EvaluatedQuestion, ...]
    outcomes: dict[str, PlanOutcome]
    downsampled: Mapping[str, str] = field(default_factory=dict)  # outcome -> that of downsampling at its budget

    @classmethod
    def of(
        cls,
        backbone: str,
        benchmark: Benchmark,
        asked: Sequence[AnsweredExample],
        outcomes: dict[str, PlanOutcome],
        downsampled: Mapping[str, str],
    ) -> BenchmarkOutcomes:
        """Put outcomes together with what was asked.

        Args:
            backbone: its name.
            benchmark: that was asked.
            asked: any plan's answered samples, for their questions.
            outcomes: by plan, "unpruned" among them.
            downsampled: name of an outcome -> that of downsampling at its budget, where it took part.
        """
        questions = tuple(EvaluatedQuestion(one.scene, one.kind, one.question, one.answer) for one in asked)
        return cls(backbone, benchmark.name, benchmark.kinds, questions, outcomes, downsampled)

    @property
    def kind(self) -> NDArray[np.int64]:
        """(S,) index of each sample's kind."""
        return np.array([self.kinds.index(one.kind) for one in self.questions])

    def accuracy(self, name: str) -> dict[str, float]:
        """Compute the accuracy of each kind that occurs, and their mean, as fractions of 1."""
        means = kind_means(self.outcomes[name].scores, self.kind, len(self.kinds))
        known = {kind: float(mean) for kind, mean in zip(self.kinds, means, strict=True) if not np.isnan(mean)}
        return known | {"mean": float(np.mean(list(known.values())))}

    def row(self, name: str) -> dict[str, Any]:
        """Sum up accuracy, retention and tokens of one plan.

        Further keys: what it `adapts`, where it changes the model itself; the score on `difficult` samples, where
        downsampling took part at its budget.
        """
        scenes = np.array([one.scene for one in self.questions])
        kept = retention(self.outcomes[name].scores, self.outcomes[UNPRUNED].scores, self.kind, scenes)
        one = self.outcomes[name]
        row: dict[str, Any] = {"accuracy": self.accuracy(name), "retention": asdict(kept), "tokens": one.tokens}
        if name in self.downsampled:
            counted = difficult_samples(*(self.outcomes[other].scores for other in (UNPRUNED, self.downsampled[name])))
            found = subset_score([(one.scores, counted, scenes)])
            row["difficult"] = {"samples": int(counted.sum()), **asdict(found)}
        return row | ({"adapts": one.adapts} if one.adapts else {})

    def result(self, plan: str | None, prune_ratio: float, name: str = UNPRUNED) -> EvaluationResult:
        """Make what results.json says: the same keys for every run, and those that `row` adds.

        Args:
            plan: where the plan comes from (a path or a config's name), None for the unpruned model.
            prune_ratio: the share of visual tokens that was asked for.
            name: the outcome that the result is about; all others are baselines.
        """
        own = self.row(name)
        measured: dict[str, Any] = {
            "samples": len(self.questions),
            "prune_ratio": prune_ratio,
            "tokens": own["tokens"],
            "accuracy": own["accuracy"],
            "unpruned": self.accuracy(UNPRUNED),
            "retention": own["retention"],
            **{key: own[key] for key in ("adapts", "difficult") if key in own},
            "baselines": {other: self.row(other) for other in self.outcomes if other not in (UNPRUNED, name)},
        }
        return EvaluationResult(plan, self.backbone, self.benchmark, measured)

    def write_answers(self, path: Path) -> Path:
        """Write every answer of every plan as CSV, one sample a row."""
        head = ["scene", "kind", "question", "answer", *self.outcomes]
        given = zip(*(outcome.answers for outcome in self.outcomes.values()), strict=True)
        asked = ([one.scene, one.kind, one.question, one.answer] for one in self.questions)
        return write_csv(path, head, ([*one, *answers] for one, answers in zip(asked, given, strict=True)))
