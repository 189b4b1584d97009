"""Open-ended questions about videos, in the files of Video-LLaVA's evaluation. https://arxiv.org/abs/2311.10122"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from learnpruner.benchmarks.base import Example, normalise_answer
from learnpruner.benchmarks.llm_judge import Judge
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.scoring import truncate_answer
from learnpruner.benchmarks.video import find_video, read_frames
from learnpruner.data.public_tables import read_rows
from learnpruner.utils.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


class VideoQa(PublicBenchmark):
    """Exact match after normalisation, or a judge's verdict.

    Args:
        source: a folder with test_q.json (question_id, video_name, question) and test_a.json (question_id, answer), or
            rows that hold all four.
        videos: their folder, by default `videos` in it.
        frames: read from a video, evenly spread.
        first: takes the first so many questions, 1,000 as FastV and those after it do; None takes all.
        short: ask for a word or phrase. The papers ask the bare question and need a judge; exact match needs short
            answers.
        judge: gives each answer its credit; None compares texts.
    """

    columns = ("question_id", "question", "answer")
    video_columns: ClassVar[Mapping[str, str]] = {"video_name": "{}"}  # column -> file name without ending

    def __init__(
        self,
        source: str | None,
        split: str = "test",
        config: str | None = None,
        first: int | None = 1000,
        videos: str | None = None,
        frames: int = 8,
        short: bool = True,
        judge: Judge | None = None,
        max_new_tokens: int = 128,
    ) -> None:
        if source is None:
            raise UserError(
                f"benchmark.datasets.{self.name}.source must be given: a folder with test_q.json and test_a.json."
            )
        self.first, self.videos, self.frames, self.short, self.judge = first, videos, frames, short, judge
        self.metric = "exact match (papers: GPT-3.5 as judge)" if judge is None else f"verdicts of {judge}"
        self.answers: dict[str, str] | None = None
        super().__init__(source, split, config, max_new_tokens)
        named = [column for column in self.video_columns if column in self.rows.column_names]
        if not named:
            raise UserError(
                f"{source} has no column {' or '.join(map(repr, self.video_columns))}: which video is asked about?"
            )
        self.named = named[0]
        self.rows = self.rows.take(min(first or len(self.rows), len(self.rows)))
        self.video_folder = Path(videos).expanduser() if videos else self.folder / "videos"

    def read(self) -> Dataset:
        questions, answers = (Path(self.source).expanduser() / f"{self.split}_{part}.json" for part in "qa")
        if not questions.is_file():
            return super().read()
        found = read_rows(str(answers), ("question_id", "answer"), self.split)
        self.answers = {str(one): text for one, text in zip(found["question_id"], found["answer"], strict=True)}
        return read_rows(str(questions), ("question_id", "question"), self.split)

    def example(self, row: Mapping[str, Any]) -> Example:
        name, video = str(row["question_id"]), self.video_columns[self.named].format(row[self.named])
        if self.answers is not None and name not in self.answers:
            raise UserError(f"Question {name} of {self.source} has no answer in {self.split}_a.json.")
        answer = row["answer"] if self.answers is None else self.answers[name]
        shown = read_frames(find_video(self.video_folder, video, self.outside), self.frames)
        question = row["question"] + SHORT_ANSWER_PROMPT if self.short else row["question"]
        return Example(shown, question, answer, "all", video, name, {"question": row["question"]})

    def score(self, prediction: str, example: Example) -> float:
        given = truncate_answer(prediction)
        if self.judge is not None:
            return self.judge(example.facts["question"], example.answer, given)
        return float(normalise_answer(given) == normalise_answer(example.answer))
