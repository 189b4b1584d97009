"""The embedded benchmark: procedural scenes with one question each, the kinds taking turns."""

from PIL import Image

from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.data.scene_editions import check_edition, sample_of_edition
from learnpruner.data.scenes import QUESTION_KINDS
from learnpruner.utils.validation import check_int


class ScenesBenchmark(Benchmark):
    """Held-out scenes, made on the fly and equal on every machine.

    Args:
        split: "validation" or "test", whose digits never occur in training.
        seed: another seed is another draw of the same distribution.
        size: length of the benchmark; `limit` takes the first of it.
        edition: 2, or 1 for the scenes as they were first.
        style: "shifted" draws scenes of other sizes, counts, textures and light than those that anything is trained or tuned on.
    """

    name = "scenes"
    kinds = QUESTION_KINDS

    def __init__(
        self, split: str = "test", seed: int = 0, size: int = 2000, edition: int = 1, style: str = "benchmark"
    ) -> None:
        check_int("dataset.seed", seed, 0)
        check_edition(edition, style)
        self.split, self.seed, self.size = split, seed, size
        self.edition, self.style = edition, style

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(index)
        image, question = sample_of_edition(self.edition, self.split, index, self.seed, self.style)
        return Example(Image.fromarray(image), question.text, question.answer, question.kind, index)
