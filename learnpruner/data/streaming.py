"""Instruction records of the Hub, or of a local folder in the same format, read from the front while training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learnpruner.data.conversation_records import (
    CONVERSATION_COLUMNS,
    Turns,
    check_data_fraction,
    decode_image,
    image_of,
    longest_turn,
    split_turns,
    text_digest,
    turns_of,
)
from learnpruner.data.hf_datasets import image_folder, open_stream
from learnpruner.data.image import UnreadableImage
from learnpruner.data.sample import Sample
from learnpruner.data.shuffled import shuffled_order
from learnpruner.data.skipped_records import _FEWEST, SkippedRecords
from learnpruner.utils.errors import UserError

_ROWS = 32  # read at a time


class StreamItem(NamedTuple):
    """Some turns of a record, its picture still encoded.

    Attributes:
        key: tells the record from all others.
    """

    key: str
    name: str
    cell: Any
    turns: Turns


class HubStream:
    """Each worker of each process reads its own part of the files in order and shuffles what fits into its buffer.

    No record is read by two workers and none is left out: a part that ends starts again, its files and records in another
    order. Sample ``index`` is a function of index, seed, and the number of processes and workers: a run resumes exactly when
    it has as many as before, and reads again, without opening pictures, what it had read.

    Args:
        source, split, config: as `HubRecords`.
        fraction: of the records, chosen by the seed from what they say; every file is still read.
        buffer: records that are shuffled together; higher mixes more and takes more memory. questions, group_by_length:
            as `ShuffledSource`.
        skipped: a file that lists the records left out.
        outside: as `within`.
    """

    def __init__(
        self,
        source: str,
        split: str = "train",
        config: str | None = None,
        fraction: float = 1.0,
        buffer: int = 1000,
        questions: int = 8,
        seed: int = 0,
        group_by_length: bool = False,
        skipped: str | Path | None = None,
        outside: bool = False,
    ) -> None:
        stream = open_stream(source, split, config)
        self.files = [stream.shard(stream.num_shards, number) for number in range(stream.num_shards)]
        self.source, self.folder, self.outside = source, image_folder(source), outside
        self.fraction, self.buffer, self.questions = check_data_fraction(fraction), buffer, questions
        self.seed, self.group_by_length = seed, group_by_length
        self.skips = SkippedRecords(None, skipped)
        self.imageless = 0
        self.images, self.lanes = 1, 1
        self.readers: dict[int, WorkerLane] = {}
        self.fits: Callable[[Sample], str | None] = lambda sample: None

    def arrange(self, images: int, world: int, workers: int) -> None:
        """Share batches of `images` samples out to the workers (0: the process itself) of `world` processes."""
        self.images, self.lanes = images, world * max(1, workers)
        self.readers.clear()

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        self.fits = fits

    def sample(self, index: int) -> Sample:
        batch, place = divmod(index, self.images)
        number, lane = divmod(batch, self.lanes)
        position = number * self.images + place
        if lane not in self.readers or position < self.readers[lane].start:
            self.readers[lane] = WorkerLane(self, lane)
        return self.readers[lane].sample(position)

    def records(self, lane: int, epoch: int) -> Iterator[dict[str, Any]]:
        """Read the records of one lane: some of the files, or some records of a file where lanes are more than files."""
        count = len(self.files)
        files = min(count, self.lanes)
        part, parts = lane // files, len(range(lane % files, self.lanes, files))
        own = np.arange(lane % files, count, files)
        for file in np.random.default_rng([self.seed, lane % files, epoch]).permutation(own).tolist():
            number = 0
            for rows in self.files[file].iter(_ROWS):  # unlike a plain loop, the same in a DataLoader's worker
                for row in range((part - number) % parts, len(rows), parts):
                    yield rows.slice(row, 1).to_pylist()[0]
                number += len(rows)

    def items(self, record: dict[str, Any], first: bool) -> list[StreamItem]:
        """Make what is trained on of a record; the first time, what is left out is counted."""
        image, turns = image_of(record), turns_of(record)
        said = str(next((record[name] for name in CONVERSATION_COLUMNS if record.get(name)), ""))
        name = str(record.get("id") or "")
        if self.fraction < 1 and text_digest([name, said], self.seed) >= self.fraction * 2**64:
            return []
        if image is None:
            self.imageless += first
            return []
        key = f"{text_digest([name, said]):016x}"
        self.skips.seen += first
        if turns is None:
            self.skips.add(key, name or key, "no question with an answer")
            return []
        return [StreamItem(key, name or key, image, group) for group in split_turns(turns, self.questions)]


class WorkerLane:
    """What one worker reads, as an endless stream that is entered at rising positions.

    A picture that cannot be opened is skipped; the next readable sample, which keeps its own turn too, takes its place.
    """

    def __init__(self, source: HubStream, lane: int) -> None:
        self.source, self.start = source, 0
        self.ahead: list[StreamItem] = []  # the samples from `start` on
        self.coming = self._items(lane)

    def sample(self, position: int) -> Sample:
        self._reach(position)
        del self.ahead[: position - self.start]
        self.start = position
        reason: str | None = None
        for place in range(_FEWEST):
            self._reach(position + place)
            item = self.ahead[place]
            try:
                sample = Sample(decode_image(item.cell, self.source.folder, self.source.outside), item.turns, item.name)
                reason = self.source.fits(sample)
            except UnreadableImage as error:
                reason = f"its image cannot be read: {error}"
            if reason is None:
                return sample
            self.source.skips.add(item.key, item.name, reason)
        raise UserError(
            f"not one of {_FEWEST} records in a row of {self.source.source} can be used, the last one since {reason}; see "
            "data.source."
        )

    def _reach(self, position: int) -> None:
        while self.start + len(self.ahead) <= position:
            self.ahead += next(self.coming)

    def _items(self, lane: int) -> Iterator[list[StreamItem]]:
        """Buffers of samples in random order, for ever."""
        source, position, epoch = self.source, 0, 0
        while True:
            begun = position
            for number, block in enumerate(self._blocks(lane, epoch)):
                random = np.random.default_rng([source.seed, lane, epoch, number])
                lengths = [longest_turn(item.turns) for item in block] if source.group_by_length else None
                order = shuffled_order(len(block), random, lengths, source.images, -position % source.images)
                position += len(block)
                yield [block[i] for i in order]
            if position == begun:
                raise UserError(
                    f"{source.source} has no record with an image and an answer for worker {lane} of {source.lanes}; "
                    "take fewer workers, or a greater data.fraction."
                )
            epoch += 1

    def _blocks(self, lane: int, epoch: int) -> Iterator[list[StreamItem]]:
        block: list[StreamItem] = []
        for record in self.source.records(lane, epoch):
            block += self.source.items(record, epoch == 0)
            if len(block) >= self.source.buffer:
                yield block
                block = []
        if block:
            yield block
