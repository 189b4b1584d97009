"""Records with numbers as an endless stream of shuffled epochs that can be entered anywhere."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnpruner.data.conversation_records import Turns, check_data_fraction, longest_turn, split_turns
from learnpruner.data.image import UnreadableImage
from learnpruner.data.sample import Sample
from learnpruner.data.skipped_records import SkippedRecords
from learnpruner.utils.errors import UserError

_HELD_OUT = 2**31  # the epoch, which none reaches, whose order says what is held out
_CHUNK = 50  # steps' worth of samples that are sorted by length at a time; higher pads less and mixes less


class ShuffledSource(ABC):
    """An epoch meets every sample once, over all ranks and workers: sample ``index`` is a function of index and seed.

    Subclasses add the records one by one, and open the image of a sample when its turn comes. A sample that cannot be
    opened is skipped, and the next readable one, which keeps its own turn too, takes its place.

    Args:
        total: records that are looked at.
        questions: at most so many turns of a record at a time, a longer record is met several times an epoch.
        group_by_length: samples of like length share a batch, which pads less.
    """

    def __init__(
        self, total: int, questions: int, seed: int, group_by_length: bool, skipped: str | Path | None
    ) -> None:
        self.questions, self.seed, self.group_by_length = questions, seed, group_by_length
        self.skips = SkippedRecords(total, skipped)
        self.items: list[tuple[int, str, Any, int]] = []  # record number, its name, where the image is, first turn
        self.lengths: list[int] = []
        self.unit = 1
        self.broken: set[int] = set()
        self.fits: Callable[[Sample], str | None] = lambda sample: None
        self._said = blake2b(digest_size=16)
        self.orders: dict[int, NDArray[np.int64]] = {}

    @abstractmethod
    def open(self, item: int) -> Sample:
        """Open sample number ``item`` of the data.

        Raises:
            UnreadableImage: where its image is none.
        """

    @property
    def digest(self) -> str:
        """The same for the same records, wherever they lie."""
        return self._said.hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    def held_out(self, samples: int) -> ShuffledSource:
        """Take so many samples out, drawn by the seed, into a source of their own; all of their records leave this one."""
        random = np.random.default_rng([self.seed, _HELD_OUT])
        order = random.permutation(len(self))
        if len(order) < 2 * samples:
            raise UserError(
                f"validation.samples={samples} of {len(order)} samples would leave too few to train on; hold out fewer."
            )
        records = {self.items[int(item)][0] for item in order[:samples]}
        held = copy.copy(self)
        held.orders, held.group_by_length = {}, False
        held._keep(records)
        self._keep({item[0] for item in self.items} - records)
        return held

    def _keep(self, records: set[int]) -> None:
        """Leave out what belongs to other records."""
        kept = [i for i, item in enumerate(self.items) if item[0] in records]
        self.items, self.lengths = [self.items[i] for i in kept], [self.lengths[i] for i in kept]
        self.orders.clear()

    def arrange(self, images: int, world: int, workers: int) -> None:
        """Say which samples are one step: `images` of each of `world` processes."""
        self.unit = images * world
        self.orders.clear()

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        self.fits = fits

    def sample(self, index: int) -> Sample:
        epoch, place = divmod(index, len(self))
        order = self._order(epoch)
        reason: str | None = "all are broken"
        for step in range(len(self)):
            item = int(order[(place + step) % len(self)])
            number, name, where, _ = self.items[item]
            if number in self.broken:
                continue
            try:
                sample = self.open(item)
                reason = self.fits(sample)
            except UnreadableImage as error:
                reason = f"image {where} cannot be read: {error}"
            if reason is None:
                return sample
            self.broken.add(number)
            self.skips.add(str(number), name, reason)
        raise UserError(f"not one record of the data can be used, the last one since {reason}.")

    def _add(self, number: int, name: str, where: Any, turns: Turns) -> None:
        self._said.update(f"{number} {name} {turns}\n".encode())
        for part, group in enumerate(split_turns(turns, self.questions)):
            self.items.append((number, name, where, part * self.questions))
            self.lengths.append(longest_turn(group))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self.orders:
            if len(self.orders) > 1:  # a step meets two epochs at most
                self.orders.pop(min(self.orders))
            lengths = self.lengths if self.group_by_length else None
            done = epoch * len(self)
            random = np.random.default_rng([self.seed, epoch])
            self.orders[epoch] = shuffled_order(len(self), random, lengths, self.unit, -done % self.unit)
        return self.orders[epoch]


def shuffled_order(
    count: int, random: np.random.Generator, lengths: list[int] | None = None, unit: int = 1, head: int = 0
) -> NDArray[np.int64]:
    """Shuffle samples; where lengths are given, those of a unit are of like length, and units come in random order.

    Args:
        count: samples.
        random: draws the order.
        lengths: of each sample, None for no units.
        unit: samples of a unit.
        head: so many samples belong to a unit that the samples before have begun.
    """
    order = random.permutation(count)
    if lengths is None or unit == 1:
        return order
    size = np.asarray(lengths)
    parts = [order[:head]]
    for start in range(head, count, _CHUNK * unit):
        chunk = order[start : start + _CHUNK * unit]
        chunk = chunk[np.argsort(size[chunk], kind="stable")]
        whole = len(chunk) // unit * unit
        parts += [*random.permutation(chunk[:whole].reshape(-1, unit)), chunk[whole:]]
    return np.concatenate(parts)


def sample_records(eligible: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of the record numbers, at least one, the same ones for the same seed; ascending."""
    if check_data_fraction(fraction) == 1 or not len(eligible):
        return eligible
    count = max(1, round(fraction * len(eligible)))
    picked: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(eligible)[:count])
    return picked
