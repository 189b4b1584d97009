"""Files that are whole or not there: written beside their place, flushed to the disk, and renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end of the block, at once; a failure leaves `path` as it was.

    It lies in the same folder: a rename between file systems would be a copy, which a kill can cut short. What is no file,
    such as /dev/stdout, is written to directly.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = str(path)  # what the caller knows, not the file beside it
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write_text_atomically(path: Path, text: str) -> Path:
    """Write a text of UTF-8 as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def write_json(value: Any, path: Path) -> Path:
    """Write JSON that any reader accepts: no NaN."""
    return write_text_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
