"""Rows of public data sets, from the Hub or from local folders of parquet or JSON files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learnpruner.utils.errors import UserError

if TYPE_CHECKING:  # loads for a second, which those who read no table do not wait for
    from datasets import Dataset

_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


def read_rows(source: str, needed: Iterable[str], split: str, config: str | None = None) -> Dataset:
    """Read rows on disk (memory-mapped).

    Args:
        source: a Hub id, a folder as downloaded from the Hub or filled by hand, or one file.
        needed: columns that must be there.
        split: a split of the Hub's; of a folder, the files whose names start with it.
        config: a dataset's configuration; of a folder, the subfolder of that name if there is one.

    Raises:
        UserError: where a needed column, or the data, is missing.
    """
    path = Path(source).expanduser()
    rows = read_files(files_of(path, split, config)) if path.exists() else read_hub(source, split, config)
    missing = [column for column in needed if column not in rows.column_names]
    if missing:
        names = ", ".join(map(repr, missing))
        raise UserError(f"{source} has no column {names}; its columns are {', '.join(rows.column_names)}.")
    return keep_encoded(rows)


def read_files(files: Sequence[Path]) -> Dataset:
    """Read files of one kind as one table."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    names = [str(file) for file in files]
    try:
        return load_dataset(_READERS[files[0].suffix], data_files=names, split="train")
    except (DatasetGenerationError, ArrowInvalid, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{', '.join(names)} cannot be read as one table: {reason}.") from None


def read_hub(source: str, split: str, config: str | None) -> Dataset:
    """Read a split of a data set of the Hub."""
    from datasets import load_dataset

    try:
        return load_dataset(source, config, split=split)
    except (OSError, ValueError) as error:  # what `datasets` raises for a wrong name, config or split, and offline
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{source!r} is neither a file or folder here nor a dataset that the Hub gives: {reason}."
        ) from None


def files_of(path: Path, split: str, config: str | None) -> list[Path]:
    """List the parquet or JSON files of one split, all of one kind; a folder's only file needs no split in its name."""
    if path.is_file():
        if path.suffix not in _READERS:
            raise UserError(f"{path} is refused: give a file that ends in {', '.join(_READERS)}.")
        return [path]
    folders = [path / name for name in (config, "data") if name and (path / name).is_dir()] + [path]
    for folder in folders:
        for suffix in _READERS:
            files = sorted(file for file in folder.glob(f"*{suffix}") if file.is_file())
            named = [file for file in files if file.stem.startswith(split)]
            if named or len(files) == 1:
                return named or files
    endings = ", ".join(f"{split}*{suffix}" for suffix in _READERS)
    raise UserError(f"{path} holds no {endings}; name the files after the split, or set split=.")


def keep_encoded(rows: Dataset) -> Dataset:
    """Keep pictures as the files' bytes, which are decoded as all others are."""
    kinds = {name: _encoded(kind) for name, kind in rows.features.items()}
    for name, kind in kinds.items():
        if kind is not None:
            rows = rows.cast_column(name, kind)
    return rows


def _encoded(kind: Any) -> Any:
    """The kind of a column of pictures, or of lists of them, that does not decode; None of other columns."""
    from datasets import Image, List

    if isinstance(kind, Image):
        return Image(decode=False)
    if isinstance(kind, List) and isinstance(kind.feature, Image):
        return List(Image(decode=False))
    return None
