"""What a training source yields: one image with the questions asked about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


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
        """Called before the first sample: batches of `images` samples go round `world` processes and the `workers` of each."""

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        """Samples for which it gives a reason are left out, as those are whose image cannot be read."""

    def sample(self, index: int) -> Sample: ...
