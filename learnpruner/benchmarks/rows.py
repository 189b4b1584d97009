"""The rows of a public dataset, from the Hub or from a local folder of parquet or JSON files, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from learnpruner.data import conversation_records
from learnpruner.data.image import UnreadableImage
from learnpruner.utils.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def decode_cell(value: Any, folder: Path, outside: bool = False) -> Image.Image:
    """Decode a cell to a picture.

    Args:
        value: encoded bytes, a path from `folder`, decoded already, or a list of one of these.
        folder: of the benchmark.
        outside: whether paths may lead out of the folder.

    Raises:
        UserError: where it holds no picture.
    """
    if isinstance(value, list) and value:
        return decode_cell(value[0], folder, outside)
    try:
        return conversation_records.decode_image(value, folder, outside)
    except UnreadableImage as error:
        raise UserError(f"An image of the benchmark in {folder} cannot be read: {error}.") from None


def picture_key(value: Any) -> str:
    """A name for a cell's picture, equal for equal pictures: questions of data sets without ids of images share a scene by it."""
    cell = value.get("bytes") or value.get("path") or b"" if isinstance(value, dict) else value
    held = cell.encode() if isinstance(cell, str) else cell if isinstance(cell, bytes) else cell.tobytes()
    return blake2b(held, digest_size=8).hexdigest()


def group_rows(rows: Dataset, keys: Sequence[Any]) -> Dataset:
    """Rows of equal key one after the other, in the order in which keys first occur: a limit then cuts few groups."""
    first: dict[Any, int] = {}
    for key in keys:
        first.setdefault(key, len(first))
    order = sorted(range(len(rows)), key=lambda row: first[keys[row]])
    return rows.select(order)
