"""Reads what an offline W&B run would upload: LevelDB's log format, a protocol buffer a record."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, HEADER, BLOCK = 7, 7, 32768
WHOLE, LAST = 1, 4  # of the kinds of chunks: a record, or its end


def records(folder: Path, patience: float = 30.0) -> list[Record]:
    """The records of the one finished run in a run's folder; W&B's own process writes the last of them a little later."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(round(patience / 0.1)):
        found = list(read(path.read_bytes()))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def read(data: bytes) -> Iterator[Record]:
    at, held = FILE_HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        held += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def summary(folder: Path) -> dict[str, Any]:
    """What the run's page shows at its end."""
    found: dict[str, Any] = {}
    for record in records(folder):
        for item in [*record.summary.update, *record.history.item]:
            found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found
