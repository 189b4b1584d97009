"""The embedded benchmark: procedural scenes with one question each, the kinds taking turns."""

from PIL import Image

from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.data.scenes import QUESTION_KINDS, benchmark_sample
from learnpruner.utils.validation import check_int


class ScenesBenchmark(Benchmark):
    """Held-out scenes, made on the fly and equal on every machine.

    Args:
        split: "validation" or "test", whose digits never occur in training.
        seed: another seed is another draw of the same distribution.
        size: length of the benchmark; `limit` takes the first of it.
    """

    name = "scenes"
    kinds = QUESTION_KINDS

    def __init__(self, split: str = "test", seed: int = 0, size: int = 2000) -> None:
        check_int("dataset.seed", seed, 0)
        self.split, self.seed, self.size = split, seed, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(index)
        image, question = benchmark_sample(self.split, index, self.seed)
        return Example(Image.fromarray(image), question.text, question.answer, question.kind, index)
