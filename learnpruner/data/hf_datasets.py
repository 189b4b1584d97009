"""Datasets of the Hub, or local ones in the same format, with their pictures still encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk

from learnpruner.data.conversation_records import CONVERSATION_COLUMNS, IMAGE_COLUMNS
from learnpruner.data.public_tables import _READERS, files_of
from learnpruner.utils.errors import UserError


def open_table(source: str, split: str, config: str | None) -> Dataset:
    """Open all rows on disk, memory-mapped: a Hub id, a folder of parquet or JSON files, or what `save_to_disk` wrote."""
    table = _opened(source, split, config, streaming=False)
    conversation_columns(source, table.column_names)
    return table.with_format("arrow")  # cells as they are stored: encoded, however deep an image sits


def open_stream(source: str, split: str, config: str | None) -> IterableDataset:
    """Open rows to be read from the front; their shards are the source's files. Arguments as `open_table`."""
    stream = _opened(source, split, config, streaming=True)
    if isinstance(stream, Dataset):  # written by `save_to_disk`, one shard a file
        stream = stream.to_iterable_dataset(num_shards=max(1, len(stream.cache_files)))
    if stream.column_names is not None:  # JSON Lines tell theirs with the first row
        conversation_columns(source, stream.column_names)
    return stream.with_format("arrow")


def conversation_columns(source: str, columns: list[str]) -> tuple[str, str]:
    """Find the columns that hold the conversation and the picture.

    Raises:
        UserError: where there are none.
    """
    for kind, known in (("conversation", CONVERSATION_COLUMNS), ("picture", IMAGE_COLUMNS)):
        if not set(known) & set(columns):
            raise UserError(
                f"{source} has no column with a {kind}, {' or '.join(known)}; its columns are {', '.join(columns)}."
            )
    return next(name for name in CONVERSATION_COLUMNS if name in columns), next(
        name for name in IMAGE_COLUMNS if name in columns
    )


def image_folder(source: str) -> Path:
    """Find where pictures that are stored as paths start from."""
    path = Path(source).expanduser()
    return path.parent if path.is_file() else path


def _opened(source: str, split: str, config: str | None, streaming: bool) -> Any:
    path = Path(source).expanduser()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            saved = load_from_disk(str(path))
            return saved if isinstance(saved, Dataset) else saved[split]
        if path.exists():
            files = files_of(path, split, config)
            names = [str(file) for file in files]
            return load_dataset(_READERS[files[0].suffix], data_files=names, split="train", streaming=streaming)
        return load_dataset(source, config, split=split, streaming=streaming)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"data.source={source} with split={split} and config={config} is neither a dataset here nor one that the Hub gives: {reason}"
        ) from error
