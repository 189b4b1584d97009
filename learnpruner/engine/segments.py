"""Runs of layers of the language model on the same sequence, and what these layers get."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

RotaryEmbeddings = tuple[Tensor, Tensor]  # cosines and sines, (B or 1, S, d) each


@dataclass
class LayerSegment:
    """A run of layers on the same sequence.

    Args:
        start: its first layer.
        index: (B, S) prompt positions, ascending.
        present: (B, S), False on fillers.
        alive: what may be attended to; less than present in masked mode.
        full: there are no fillers.
        gates: (B, S) each, masked mode.
    """

    start: int
    index: Tensor
    present: Tensor
    alive: Tensor
    full: bool
    gates: list[Tensor]


@dataclass(frozen=True)
class LayerInputs:
    """What the layers of a segment get in one call; rotary None leaves the model's own."""

    mask: Tensor | None = None
    rotary: RotaryEmbeddings | None = None
    bias: Tensor | None = None
