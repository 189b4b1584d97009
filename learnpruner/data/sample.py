"""What a training source yields: one image with the questions asked about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from learnpruner.utils.errors import UserError


@dataclass(frozen=True)
class Sample:
    """An image with the questions that are asked about it.

    Args:
        turns: (question, answer) pairs, each trained on alone, without the turns before it.
    """

    image: Image.Image
    turns: list[tuple[str, str]]
    id: str


class Source(Protocol):
    """An endless shuffled stream that can be entered anywhere: sample ``index`` is a function of the index and the source's seed."""

    def arrange(self, images: int, world: int, workers: int) -> None:
        """Hear, before the first sample, which samples are a step.

        Args:
            images: samples of a batch.
            world: processes that batches go round.
            workers: of each process.
        """

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        """Leave out samples for which `fits` gives a reason, as those are whose image cannot be read."""

    def sample(self, index: int) -> Sample: ...


def hold_out(source: Source, samples: int) -> Source:
    """Take samples out of a source, that training does not meet from now on.

    Args:
        source: its `held_out(samples)` gives them, and leaves them out itself.
        samples: images with their questions.

    Raises:
        UserError: where it cannot tell samples apart before it reads them, as a stream.
    """
    if not hasattr(source, "held_out"):
        raise UserError(
            f"{type(source).__name__} has no held-out samples: train without trainer.val_check_interval, or on data that is "
            "not streamed."
        )
    held: Source = source.held_out(samples)
    return held
