"""Training records of LLaVA-Instruct JSON and of parquet, and rows of benchmarks: one bad among good ones is left out and
listed, a broken file is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets import Image as Picture
from PIL import Image

from bad.case import Case, Outcome, Play, Stage, carried, refused
from bad.commands import EVAL, TRAIN
from bad.process import Ended
from bad.world import picture
from tests.tiny_benchmarks import pope
from tests.tiny_data import vsft

JSON = [*TRAIN, "data=llava_json", "data.json=own/train.json", "data.images_per_batch=8", "trainer.max_steps=2"]
PARQUET = [*TRAIN, "data=llava_instruct_vsft", "data.source=own", "data.images_per_batch=16"]
ROWS = [one for one in EVAL if not one.startswith("benchmark.")]
POPE = [
    *ROWS,
    "benchmark=pope",
    "benchmark.datasets.pope.source=own",
    "benchmark.limit=6",
    "benchmark.batch_size=2",
    "plan=export",
]

Record = dict[str, Any]


def says(value: Any) -> Callable[[Record], Any]:
    """The first question's text."""
    return lambda record: record["conversations"][0].update(value=value)


def shows(value: Any) -> Callable[[Record], Any]:
    return lambda record: record.update(image=value)


SKIPPED: dict[str, Callable[[Record], Any]] = {  # what one record of eight is like
    "no answer": lambda record: record.update(conversations=record["conversations"][:1]),
    "no conversations": lambda record: record.pop("conversations"),
    "conversations of null": lambda record: record.update(conversations=None),
    "conversations of a text": lambda record: record.update(conversations="hello"),
    "conversations of numbers": lambda record: record.update(conversations=[1, 2]),
    "a speaker of a list": lambda record: record["conversations"][0].update({"from": ["x"]}),
    "speakers that are unknown": lambda record: [turn.update({"from": "cat"}) for turn in record["conversations"]],
    "a value of null": lambda record: [turn.update(value=None) for turn in record["conversations"]],
    "values of a number": lambda record: [turn.update(value=7) for turn in record["conversations"]],
    "blank values": lambda record: [turn.update(value=" ") for turn in record["conversations"]],
    "half a character": lambda record: [turn.update(value="\ud800") for turn in record["conversations"]],
    "an image that is missing": shows("nowhere.png"),
    "an image of a number": shows(7),
    "an image of a mapping": shows({"path": "x", "more": 1}),
    "an image that is a folder": shows("images"),
    "an image above the folder": shows("../picture.png"),
    "an absolute image": shows("/etc/hostname"),
    "an image with a null byte": shows("a\0b.png"),
    "an image of 5,000 characters": shows("x" * 5000),
    "an image of another machine": shows("C:\\data\\x.png"),
    "an image that is a text": shows("own.txt"),
    "an image of 1 x 5,000": shows("strip.png"),
    "an image cut short": shows("cut.png"),
    "an answer of 200,000 characters": lambda record: record["conversations"][1].update(value="yes " * 50_000),
    "a question beyond the model's positions": says("<image>\n" + "what is it? " * 7_000),
}
TAKEN: dict[str, Callable[[Record], Any]] = {  # what looks wrong and is not
    "no id": lambda record: record.pop("id"),
    "a further field": lambda record: record.update(more={"x": [1]}),
    "<image> in the middle of the text": says("what is\n<image>\nhere?"),
    "special tokens in the answer": lambda record: record["conversations"][1].update(value="</s> red <pad>"),
    "an answer that is not ASCII": lambda record: record["conversations"][1].update(value="ein Kreis 圆"),
    "a system turn": lambda record: record["conversations"].insert(0, {"from": "system", "value": "be short"}),
}
FILES = {  # bytes of the JSON: words
    "an empty file": (b"", "own/train.json"),
    "cut short": (b'[{"id": 1, ', "own/train.json"),
    "an empty list": (b"[]", "an empty list"),
    "a mapping": (b"{}", "must hold a list of records"),
    "a text": (b'"hello"', "must hold a list of records"),
    "null": (b"null", "must hold a list of records"),
    "no UTF-8": (b'[{"id": "\xff"}]', "own/train.json"),
    "nested 100,000 deep": (b"[" * 100_000, "own/train.json"),
    "records of numbers": (b"[1, 2, 3]", "cannot be used"),
    "records without any image": (b'[{"id": 1, "conversations": []}]', "no record with an image"),
}


def cases() -> Iterator[Case]:
    for name, change in SKIPPED.items():
        yield Case("JSON record", f"with {name}", one_bad(change), short=name == "an image above the folder")
    for name, change in TAKEN.items():
        yield Case("JSON record", f"with {name}", one_odd(change))
    for name, (content, words) in FILES.items():
        yield Case("JSON record", f"file: {name}", file(content, words))
    yield Case("JSON record", "file: JSON lines", lines)
    yield Case("JSON record", "file: a byte-order mark", marked)
    yield Case(
        "JSON record",
        "file: a folder",
        lambda stage: refused(stage, "train.py", *JSON, "data.json=json", words=["is a folder"]),
    )
    yield Case(
        "JSON record",
        "file: missing",
        lambda stage: refused(stage, "train.py", *JSON, "data.json=x.json", words=["is missing"]),
    )
    yield Case("JSON record", "file: no such folder of images", without_images)
    yield Case("JSON record", "file: all records broken", all_bad)
    yield from parquet_cases()
    yield from benchmark_cases()


def own(stage: Stage) -> tuple[Path, list[Record]]:
    """A copy of the records' folder with some files that are no pictures."""
    folder = stage.copy("json")
    (folder / "own.txt").write_text("not a picture")
    Image.new("RGB", (1, 5000)).save(folder / "strip.png")
    whole = next(folder.rglob("*.png")).read_bytes()
    (folder / "cut.png").write_bytes(whole[:60])
    return folder / "train.json", json.loads((folder / "train.json").read_text())


def one_bad(change: Callable[[Record], Any]) -> Play:
    """Trained on the others; the list of what was left out has this one and no other."""

    def listed(stage: Stage, ended: Ended) -> Iterable[str]:
        path = stage.folder / "out/skipped.jsonl"
        found = [json.loads(line)["id"] for line in path.read_text().splitlines()] if path.is_file() else []
        if found != ["train-000003"]:
            yield f"skipped.jsonl lists {found}"

    return with_record(change, listed)


def with_record(change: Callable[[Record], Any], check: Callable[[Stage, Ended], Iterable[str]]) -> Play:
    """A training whose fourth record is another, and what is held of its folder."""

    def play(stage: Stage) -> Outcome:
        path, records = own(stage)
        change(records[3])
        path.write_text(json.dumps(records))
        return carried(stage, "train.py", *JSON, check=check)

    return play


def nothing_listed(stage: Stage, ended: Ended) -> Iterable[str]:
    if (stage.folder / "out/skipped.jsonl").is_file():
        yield "a record was left out"


def one_odd(change: Callable[[Record], Any]) -> Play:
    return with_record(change, nothing_listed)


def file(content: bytes, words: str) -> Play:
    def play(stage: Stage) -> Outcome:
        path, _ = own(stage)
        path.write_bytes(content)
        return refused(stage, "train.py", *JSON, words=[words])

    return play


def lines(stage: Stage) -> Outcome:
    path, records = own(stage)
    (path.parent / "train.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return carried(stage, "train.py", *JSON, "data.json=own/train.jsonl", check=nothing_listed)


def marked(stage: Stage) -> Outcome:
    path, records = own(stage)
    path.write_text(json.dumps(records), encoding="utf-8-sig")
    return carried(stage, "train.py", *JSON, check=nothing_listed)


def without_images(stage: Stage) -> Outcome:
    own(stage)
    return refused(stage, "train.py", *JSON, "data.images=nowhere", words=["nowhere is no folder"])


def all_bad(stage: Stage) -> Outcome:
    path, records = own(stage)
    path.write_text(json.dumps([{**record, "image": "nowhere.png"} for record in records]))
    return refused(stage, "train.py", *JSON, words=["records cannot be used"])


def parquet_cases() -> Iterator[Case]:
    yield Case("parquet record", "with a picture cut short", one_picture)
    yield Case(
        "parquet record",
        "with one, of a stream",
        lambda stage: one_picture(stage, "data.streaming=true", "data.buffer=5"),
    )
    for name, change, words in (
        ("that is empty", lambda path: path.write_bytes(b""), "own"),
        ("that is cut short", lambda path: path.write_bytes(path.read_bytes()[:-100]), "own"),
        ("that is a text", lambda path: path.write_text("hello"), "own"),
        ("that is missing", lambda path: path.unlink(), "own"),
        ("of other columns", lambda path: other_columns(path), "own"),
        ("without rows", lambda path: no_rows(path), "own"),
        ("without the pictures' column", lambda path: dropped(path, "images"), "own"),
        ("without the messages' column", lambda path: dropped(path, "messages"), "own"),
    ):
        yield Case("parquet record", f"file {name}", parquet(change, words), short=name == "that is cut short")
    yield Case(
        "parquet record", "split that is not there", lambda stage: source(stage, "data.split=nothing", "nothing")
    )
    yield Case("parquet record", "fraction of 2", lambda stage: source(stage, "data.fraction=2", "fraction"))
    yield Case("parquet record", "fraction of nan", lambda stage: source(stage, "data.fraction=nan", "fraction"))
    yield Case("parquet record", "buffer of 0", lambda stage: source(stage, "data.buffer=0", "data.buffer is 0"))
    yield Case(
        "parquet record", "source that is nowhere", lambda stage: source(stage, "data.source=nowhere/at/all", "nowhere")
    )
    yield Case(
        "parquet record",
        "source that is a picture",
        lambda stage: source(stage, "data.source=picture.png", "picture.png"),
    )


def one_picture(stage: Stage, *more: str) -> Outcome:
    """Trained on the others; the list has this one."""
    vsft(stage.folder / "own", files=1, broken=(7,))

    def listed(stage: Stage, ended: Ended) -> Iterable[str]:
        path = stage.folder / "out/skipped.jsonl"
        found = path.read_text().splitlines() if path.is_file() else []
        if len(found) != 1 or "cannot be read" not in found[0]:
            yield f"skipped.jsonl lists {found}"

    return carried(stage, "train.py", *PARQUET, *more, check=listed)


def parquet(change: Callable[[Path], Any], words: str) -> Play:
    def play(stage: Stage) -> Outcome:
        (path,) = vsft(stage.folder / "own", files=1).glob("*.parquet")
        change(path)
        return refused(stage, "train.py", *PARQUET, words=[words])

    return play


def other_columns(path: Path) -> None:
    Dataset.from_list([{"a": 1}]).to_parquet(path)


def no_rows(path: Path) -> None:
    whole = Dataset.from_parquet(str(path), cache_dir=str(path.parent / ".cache"))
    whole.select([]).to_parquet(path)


def dropped(path: Path, column: str) -> None:
    whole = Dataset.from_parquet(str(path), cache_dir=str(path.parent / ".cache"))
    whole.remove_columns(column).to_parquet(path)


def source(stage: Stage, setting: str, words: str) -> Outcome:
    vsft(stage.folder / "own", files=2)
    return refused(stage, "train.py", *PARQUET, setting, words=[words])


Rows = list[dict[str, Any]]


def row(**given: Any) -> Callable[[Rows], Any]:
    """What one of twelve rows is like."""
    return lambda rows: rows[1].update(given)


BROKEN: dict[str, Callable[[Rows], Any]] = {
    "a picture cut short": lambda rows: rows[1]["image"].update(bytes=rows[1]["image"]["bytes"][:40]),
    "no picture": row(image=None),
    "an empty picture": row(image={"bytes": b"", "path": None}),
    "a picture that is a text": row(image={"bytes": b"hello", "path": None}),
    "a question of null": row(question=None),
    "an answer of null": row(answer=None),
    "an answer that is neither": row(answer="maybe"),
    "a category of null": row(category=None),
    "a category of a word": row(category="banana"),
}


def benchmark_cases() -> Iterator[Case]:
    for name, change in BROKEN.items():
        yield Case("benchmark row", f"with {name}", broken_row(change))
    for name, content in (("empty", b""), ("cut short", b"PAR1" + bytes(50)), ("a text", b"hello")):
        yield Case("benchmark row", f"file: {name}", broken_table(content))
    for column in ("question", "answer", "image", "category"):
        yield Case(
            "benchmark row",
            f"file: without the column {column}",
            lambda stage, column=column: column_lost(stage, column),
        )
    yield Case("benchmark row", "file: without rows", lambda stage: changed(stage, lambda rows: rows.clear(), "own"))
    yield Case("benchmark row", "file: of a JSON list", json_rows)


def changed(stage: Stage, change: Callable[[Rows], Any], words: str) -> Outcome:
    (path,) = pope(stage.folder / "own").glob("*.parquet")
    cache = str(stage.folder / "cache")
    table = load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache).cast_column(
        "image", Picture(decode=False)
    )
    rows = list(table)
    change(rows)
    made = Dataset.from_list(rows, features=table.features) if rows else table.select([])
    made.to_parquet(path)
    return refused(stage, "eval.py", *POPE, words=[words])


def broken_row(change: Callable[[Rows], Any]) -> Play:
    return lambda stage: changed(stage, change, "")


def broken_table(content: bytes) -> Play:
    def play(stage: Stage) -> Outcome:
        (path,) = pope(stage.folder / "own").glob("*.parquet")
        path.write_bytes(content)
        return refused(stage, "eval.py", *POPE, words=["own"])

    return play


def column_lost(stage: Stage, column: str) -> Outcome:
    (path,) = pope(stage.folder / "own").glob("*.parquet")
    dropped(path, column)
    return refused(stage, "eval.py", *POPE, words=[f"has no column '{column}'"])


def json_rows(stage: Stage) -> Outcome:
    """The same questions by hand, with paths of pictures."""
    folder = stage.folder / "own"
    folder.mkdir()
    picture().save(folder / "x.png")
    kinds = ("adversarial", "popular", "random")
    rows = [
        {"question_id": str(i), "question": f"Is there a thing {i}?", "answer": ("yes", "no")[i % 2], "image_source": "x",
         "image": "x.png", "category": kinds[i % 3]}
        for i in range(6)
    ]  # fmt: skip
    (folder / "test.json").write_text(json.dumps(rows))

    def scored(stage: Stage, ended: Ended) -> Iterable[str]:
        held = json.loads((stage.folder / "out/results.json").read_text())
        if "pope" not in json.dumps(held):
            yield "there is no score"

    return carried(stage, "eval.py", *POPE, check=scored)
