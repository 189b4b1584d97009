"""Tiny models of every family on two devices, their prompts, and how far apart two answers are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from families import FAMILIES
from test_families import Case
from torch import Tensor

ROWS = ((1, 6), (2, 4), (0, 5), (1, 11))  # images and words of each row


class Twin(Case):
    """A family's tiny model somewhere; prompts are made on the CPU and put beside it."""

    def __init__(self, folder: Path, name: str, medium: str = "image", device: str = "cpu", **options: Any) -> None:
        from learnpruner.backbones import load_backbone

        self.backbone, self.medium, self.name = load_backbone(folder, device=device, **options), medium, name
        self.model, self.family = self.backbone.model, self.backbone.family

    def beside(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch where the model is, floats in its precision."""
        kind = self.model.dtype
        return {
            name: value.to(self.model.device, kind if value.is_floating_point() else value.dtype)
            for name, value in batch.items()
        }

    def rows(self, rows: Any = ROWS, only: int | None = None) -> dict[str, Any]:
        return self.beside(super().rows(rows, only))


def saved(name: str) -> Path:
    """A family's tiny model in a folder that lives as long as the process."""
    place = tempfile.TemporaryDirectory()
    saved.places.append(place)  # type: ignore[attr-defined]
    return FAMILIES[name].save(Path(place.name))


saved.places = []  # type: ignore[attr-defined]


def apart(found: Tensor, expected: Tensor, where: Tensor | None = None) -> float:
    """The widest difference as a share of the largest value; infinite where a value is not finite."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    if where is not None:
        found, expected = found[where.cpu()], expected[where.cpu()]
    if not found.isfinite().all():
        return float("inf")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def same(found: list[Tensor], expected: list[Tensor]) -> float:
    """The share of kept tokens that two lists of kept sets have in common; 1 where all is alike."""
    pairs = [(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True)]
    common, kept = sum(int((a & b).sum()) for a, b in pairs), sum(max(int(a.sum()), int(b.sum())) for a, b in pairs)
    return common / max(1, kept)
