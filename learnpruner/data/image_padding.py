"""What becomes of images that are not square, before the processor sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from learnpruner.data.image import as_rgb
from learnpruner.data.sample import Sample, Source


class SquarePaddedSource:
    """A source whose images are padded to squares of the processor's mean colour, as the original LLaVA-1.5 trains."""

    def __init__(self, source: Source, mean: Sequence[float]) -> None:
        self.source, self.mean = source, mean

    @property
    def digest(self) -> str | None:
        """Of the records, where the source has one."""
        found: str | None = getattr(self.source, "digest", None)
        return found

    def arrange(self, images: int, world: int, workers: int) -> None:
        self.source.arrange(images, world, workers)

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        self.source.admit(lambda sample: fits(self._squared(sample)))

    def sample(self, index: int) -> Sample:
        return self._squared(self.source.sample(index))

    def _squared(self, sample: Sample) -> Sample:
        return replace(sample, image=pad_to_square(sample.image, self.mean))


def apply_image_aspect(source: Source, image_aspect: str, processor: Any) -> Source:
    """Wrap a source for a processor: as it is where that resizes (and crops, if that is its way), or with squares for it."""
    return SquarePaddedSource(source, processor.image_processor.image_mean) if image_aspect == "pad" else source


def pad_visuals(images: Sequence[Any], image_aspect: str, processor: Any) -> list[Any]:
    """Pad pictures as the processor is to see them; videos, which are lists of frames, stay as they are."""
    if image_aspect != "pad":
        return list(images)
    mean = processor.image_processor.image_mean
    return [one if isinstance(one, list) else pad_to_square(as_rgb(one), mean) for one in images]


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Put the whole picture in the middle of a square; mean: of the colours, from 0 to 1."""
    width, height = image.size
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas
