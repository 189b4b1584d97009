"""Training data in small: folders in the format of the real ones, 16 records on grey pictures, picture i of value 10 i."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

COUNT, FILES = 16, 4
TEXT_ONLY = 5  # a record without an image


def grey(i: int, size: tuple[int, int] = (24, 16)) -> Pictures.Image:
    return Pictures.new("RGB", size, (10 * i, 10 * i, 10 * i))


def turns(i: int) -> list[tuple[str, str]]:
    """What is said about picture i: one or two questions."""
    said = [(f"what color is the object {i}?", "red"), ("where is the circle?", "top left")]
    return said[: 1 + i % 2]


def conversation(i: int) -> list[dict[str, str]]:
    said = [{"from": who, "value": text} for pair in turns(i) for who, text in zip(("human", "gpt"), pair, strict=True)]
    said[0]["value"] = f"<image>\n{said[0]['value']}" if i % 3 else f"{said[0]['value']}\n<image>"
    return said


def llava_folder(root: Path, json_name: str, images: str = "", count: int = COUNT) -> Path:
    """A JSON with paths such as coco/train2017/0.jpg, from `images`."""
    records: list[dict[str, Any]] = []
    for i in range(count):
        name = f"coco/train2017/{i}.jpg"
        (root / images / name).parent.mkdir(parents=True, exist_ok=True)
        grey(i).save(root / images / name)
        records.append({"id": f"r{i}", "image": name, "conversations": conversation(i)})
    del records[TEXT_ONLY]["image"]
    (root / json_name).write_text(json.dumps(records))
    return root


def mix665k(root: Path, count: int = COUNT) -> Path:
    return llava_folder(root, "llava_v1_5_mix665k.json", count=count)


def captions558k(root: Path) -> Path:
    return llava_folder(root, "blip_laion_cc_sbu_558k.json", "images")


def encoded(i: int) -> bytes:
    file = io.BytesIO()
    grey(i).save(file, "PNG")
    return file.getvalue()


def message(role: str, text: str, shows: bool) -> dict[str, Any]:
    seen = [{"index": 0, "text": None, "type": "image"}] if shows else []
    return {"role": role, "content": [{"index": None, "text": text, "type": "text"}, *seen]}


def vsft(folder: Path, count: int = COUNT, files: int = FILES, broken: Collection[int] = ()) -> Path:
    """`messages` and `images`, no id. broken: records whose pictures are cut short."""
    rows = []
    for i in range(count):
        said = [
            message(role, text, role == "user" and not turn)
            for turn, pair in enumerate(turns(i))
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        shown = encoded(i)[: 40 if i in broken else None]
        rows.append({"messages": said, "images": [] if i == TEXT_ONLY else [{"bytes": shown, "path": None}]})
    content = List({"index": Value("int64"), "text": Value("string"), "type": Value("string")})
    features = {"messages": List({"role": Value("string"), "content": content}), "images": List(Image())}
    return written(folder, rows, Features(features), files)


def onevision(folder: Path, count: int = COUNT, files: int = FILES) -> Path:
    """`id`, `image`, `conversations`, `data_source` in the folder of a configuration."""
    rows = [
        {
            "id": f"r{i}",
            "image": None if i == TEXT_ONLY else {"bytes": encoded(i), "path": f"{i}.png"},
            "conversations": conversation(i),
            "data_source": "small",
        }
        for i in range(count)
    ]
    said = List({"from": Value("string"), "value": Value("string")})
    features = {"id": Value("string"), "image": Image(), "conversations": said, "data_source": Value("string")}
    written(folder / "small", rows, Features(features), files)
    return folder


def written(folder: Path, rows: list[dict[str, Any]], features: Features, files: int) -> Path:
    """Parquet files named as the Hub does."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_list(rows, features=features)
    for i in range(files):
        table.shard(files, i).to_parquet(folder / f"train-{i:05d}-of-{files:05d}.parquet")
    return folder
