"""The task of one's own questions: `benchmark=own` with a file and a folder of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learnpruner.benchmarks.own import OwnQuestions, Scoring
from learnpruner.evaluation.accuracy_task import AccuracyTask


def own_questions_task(
    file: str,
    images: str | None = None,
    scoring: Scoring | None = None,
    outside: bool = False,
    limit: int | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    baselines: Mapping[str, str] | None = None,
    baselines_to_run: Sequence[str] | None = None,
    num_examples: int = 6,
    name: str = "own",
    resume: str | None = None,
) -> AccuracyTask:
    """Build the accuracy task on one's own questions; arguments as of `OwnQuestions` and `AccuracyTask`."""
    questions = OwnQuestions(file, images, scoring, outside)
    return AccuracyTask(
        questions, limit, batch_size, max_new_tokens, baselines or {}, baselines_to_run, num_examples, name, resume
    )
