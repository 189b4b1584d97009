"""Instruction records with their pictures in one dataset: of the Hub, or a local folder in the same format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from learnpruner.data.conversation_records import decode_image, image_of, turns_of
from learnpruner.data.hf_datasets import conversation_columns, image_folder, open_table
from learnpruner.data.sample import Sample, Source
from learnpruner.data.shuffled import ShuffledSource, sample_records
from learnpruner.data.streaming import HubStream
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000  # that are looked at together


def hub_source(source: str, streaming: bool = False, buffer: int = 1000, **settings: Any) -> Source:
    """Open records that are read from the front while training runs, or all of them on disk first.

    Args:
        source: a Hub id or a folder.
        streaming: read from the front.
        buffer: records that are shuffled at a time while streaming; higher mixes better and takes more memory.
        settings: of `HubRecords` or `HubStream`.
    """
    return HubStream(source, buffer=buffer, **settings) if streaming else HubRecords(source, **settings)


class HubRecords(ShuffledSource):
    """Rows on disk in random order; texts are read once at the start, pictures when their turn comes.

    Args:
        source: a Hub id, a folder of parquet or JSON files, or one that `save_to_disk` wrote.
        split, config: of the dataset.
        fraction: of the rows with one image, chosen by the seed; lower is a smaller epoch.
        questions, group_by_length: as `ShuffledSource`.
        skipped: a file that lists the records left out.
        outside: as `within`.
    """

    def __init__(
        self,
        source: str,
        split: str = "train",
        config: str | None = None,
        fraction: float = 1.0,
        questions: int = 8,
        seed: int = 0,
        group_by_length: bool = False,
        skipped: str | Path | None = None,
        outside: bool = False,
    ) -> None:
        self.table, self.folder, self.outside = open_table(source, split, config), image_folder(source), outside
        speech, sight = conversation_columns(source, self.table.column_names)
        shown = np.flatnonzero(rows_with_image(self.table, sight))
        self.imageless = len(self.table) - len(shown)
        if self.imageless:
            _log.info("%d of %d records have no image, or several, and are left out", self.imageless, len(self.table))
        taken = sample_records(shown, fraction, seed)
        super().__init__(len(taken), questions, seed, group_by_length, skipped)
        texts = self.table.select_columns([name for name in (speech, "id") if name in self.table.column_names])
        for start in range(0, len(taken), _ROWS_AT_ONCE):
            rows = taken[start : start + _ROWS_AT_ONCE].tolist()
            for number, record in zip(rows, texts[rows].to_pylist(), strict=True):
                self._check(number, record)
        if not self.items:
            raise UserError(f"{source} has no record with an image and an answer; there is nothing to train on.")

    def open(self, item: int) -> Sample:
        number, name, _, first = self.items[item]
        record = self.table[number].to_pylist()[0]
        turns = turns_of(record)
        assert turns is not None  # or it would be no item
        return Sample(
            decode_image(image_of(record), self.folder, self.outside), turns[first : first + self.questions], name
        )

    def _check(self, number: int, record: dict[str, Any]) -> None:
        name = str(record.get("id") or f"record {number}")
        turns = turns_of(record)
        if turns is None:
            self.skips.add(str(number), name, "no question with an answer")
        else:
            self._add(number, name, f"of row {number}", turns)


def rows_with_image(table: Dataset, column: str) -> NDArray[np.bool_]:
    """Mark the rows whose cell holds exactly one image; pixels are not read."""
    found = [has_image(batch.column(column)) for batch in table.select_columns([column]).iter(_ROWS_AT_ONCE)]
    return np.concatenate([one.to_numpy(zero_copy_only=False) for one in found] or [np.zeros(0, bool)])


def has_image(cells: pa.ChunkedArray) -> pa.Array:
    """Mark the cells that hold an image: paths, encoded pictures (bytes or path), or lists of one of these."""
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type):
        found = pc.equal(pc.list_value_length(cells), 1)
    elif pa.types.is_struct(cells.type):
        found = pc.or_(*(pc.is_valid(pc.struct_field(cells, name)) for name in ("bytes", "path")))
    elif pa.types.is_string(cells.type):
        found = pc.not_equal(cells, "")
    else:
        found = pc.is_valid(cells)
    return pa.chunked_array(pc.fill_null(found, False)).combine_chunks()
