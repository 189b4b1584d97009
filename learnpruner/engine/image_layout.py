"""How the images of a call lie in the prompt: which placeholder shows which visual token, and where that token comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from learnpruner.backbones.family import ModelFamily


class ImageLayout:
    """I images of at most N visual tokens each, over P placeholders. All indices are made once, on the CPU.

    Args:
        shows: one (P_i,) bool an image: which of its placeholders show a visual token; the others are structural, such
            as row separators, and always stay.
        rows: one (N_i,) an image: the row of the features that each token is.
        features: (T, n), pieces (tiles, frames) and features of each.

    Attributes:
        sizes: visual tokens an image.
        valid: (I, N), None where all have as many.
        slots: (P,) which of the I x N tokens a placeholder shows, -1 for none.
        first: (I,) an image's first piece.
    """

    def __init__(self, shows: Sequence[Tensor], rows: Sequence[Tensor], features: tuple[int, int]) -> None:
        self.shows = list(shows)
        self.sizes = [int(real.sum()) for real in shows]
        self.shape = (len(shows), max(self.sizes))
        present = torch.arange(self.shape[1]) < torch.tensor(self.sizes)[:, None]
        self.valid = None if bool(present.all()) else present
        self._real = present.flatten().nonzero()[:, 0]
        seen = torch.cat(self.shows)
        self.slots = torch.full(seen.shape, -1).masked_scatter(seen, self._real)
        self._places = torch.zeros(present.numel(), dtype=torch.long).masked_scatter(
            present.flatten(), seen.nonzero()[:, 0]
        )
        self._rows = torch.cat(list(rows))
        self.first = torch.stack([row[0] for row in rows]) // features[1]
        every = torch.arange(
            features[0] * features[1]
        )  # some may be in no image: those of padding around a thin picture
        self._moved: dict[torch.device, Tensor] = {}
        self.plain = self.valid is None and bool(seen.all()) and torch.equal(self._rows, every)

    def tokens(self, packed: Sequence[Tensor]) -> Tensor:
        """Lay values of the placeholders, one (P_i, ...) an image, out as those of the visual tokens: (I, N, ...)."""
        if self.plain:
            return torch.stack(list(packed))
        real = [part[shows.to(part.device)] for part, shows in zip(packed, self.shows, strict=True)]
        return pad_sequence(real, batch_first=True)

    def place(self, values: Tensor, structural: float) -> Tensor:
        """Lay values of the visual tokens, (I, N), out as those of the placeholders, (P,).

        Args:
            values: a number a token.
            structural: what placeholders that show no token get, such as separators.
        """
        if self.plain:
            return values.flatten()
        slots = self._on(values.device)
        return torch.where(slots >= 0, values.flatten()[slots.clamp_min(0)], structural)

    def _on(self, device: torch.device) -> Tensor:
        """The slots on a device; moved there once, since that waits for it."""
        if device not in self._moved:
            self._moved[device] = self.slots.to(device)
        return self._moved[device]

    def read(self, shown: Tensor) -> Tensor:
        """Read a token from what the placeholders hold: (P, D) -> (I, N, D)."""
        return shown[self._places.to(shown.device)].view(*self.shape, -1)

    def write(self, shown: Tensor, tokens: Tensor) -> Tensor:
        """Write the visual tokens, (I, N, D), into what the placeholders hold, (P, D), in place of their own."""
        slots = self._on(shown.device)[:, None]
        return torch.where(slots >= 0, tokens.to(shown.dtype).flatten(0, 1)[slots[:, 0].clamp_min(0)], shown)

    def back(self, tokens: Tensor, onto: Tensor) -> Tensor:
        """Lay visual tokens (I, N, D) out as rows of the features, (T, n, D), those of `onto` where no token is."""
        if self.plain:
            return tokens.view(*onto.shape[:-1], tokens.shape[-1])
        rows, real = self._rows.to(tokens.device), self._real.to(tokens.device)
        return onto.flatten(0, -2).index_copy(0, rows, tokens.flatten(0, 1)[real]).view_as(onto)


def image_layout(family: ModelFamily, shape: tuple[int, int], inputs: Mapping[str, Any]) -> ImageLayout:
    """Work out the layout of a call.

    Args:
        family: of the model.
        shape: (T, n) of the features that the tap saw.
        inputs: the call's arguments.
    """
    count = shape[0] * shape[1]
    if family.features_are_placeholders:
        numbers = torch.arange(count).view(shape)
        return ImageLayout(list(torch.ones(shape, dtype=torch.bool)), list(numbers), shape)
    shows = [part[:, 0] > 0.5 for part in family.pack(torch.ones(*shape, 1, dtype=torch.float64), inputs, 0.0)]
    numbers = torch.arange(count, dtype=torch.float64).view(*shape, 1)  # whole up to 2^53
    rows = [part[:, 0] for part in family.pack(numbers, inputs, -1.0)]
    return ImageLayout(shows, [row[real].round().long() for row, real in zip(rows, shows, strict=True)], shape)


def align_features(family: ModelFamily, layout: ImageLayout, rows: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Rearrange values of the features, (T, n, C), as those of the visual tokens: (I, N, C)."""
    return rows if family.features_are_placeholders else layout.tokens(family.pack(rows, inputs, 0.0))


def align_signal(
    family: ModelFamily, layout: ImageLayout, values: Tensor, axis: int | None, inputs: Mapping[str, Any]
) -> Tensor:
    """Rearrange a signal of T pieces of an image as one of I images.

    Args:
        family: of the model.
        layout: of the call.
        values: the signal, (T, ...).
        axis: the dimension that runs over the features; None where none does: then the first piece speaks for its
            image.
        inputs: the call's arguments.
    """
    if family.features_are_placeholders:
        return values
    if axis is None:
        return family.image_values(values, layout.first.to(values.device), inputs)
    rows = values.movedim(axis, 1)
    tokens = align_features(family, layout, rows.reshape(*rows.shape[:2], -1), inputs)
    return tokens.view(*layout.shape, *rows.shape[2:]).movedim(1, axis)
