"""Rows come from parquet or JSON folders in any of the usual layouts, one at a time; what is missing is named."""

import io
import json

import datasets
import pytest
from PIL import Image

from learnpruner.benchmarks.rows import decode_cell, group_rows
from learnpruner.data.image import open_image
from learnpruner.data.public_tables import read_rows
from tests.tiny_benchmarks import color, parquet

ROWS = [{"id": i, "image": color(i)} for i in range(3)]


@pytest.mark.parametrize("place", ["", "data", "special"])
def test_the_layouts_of_a_downloaded_dataset(tmp_path, place):
    parquet(tmp_path / place, "test", ROWS)
    parquet(tmp_path / place, "validation", ROWS[:1])
    assert read_rows(str(tmp_path), ("id", "image"), "test", "special")["id"] == [0, 1, 2]


def test_shards_are_joined_in_order(tmp_path):
    for number in (1, 0):
        rows = datasets.Dataset.from_list([{"id": 2 * number}, {"id": 2 * number + 1}])
        rows.to_parquet(tmp_path / f"test-0000{number}-of-00002.parquet")
    assert list(read_rows(str(tmp_path), ("id",), "test")["id"]) == [0, 1, 2, 3]


def test_json_with_image_paths(tmp_path):
    color(5).save(tmp_path / "five.png")
    (tmp_path / "anything.json").write_text(json.dumps([{"id": 1, "image": "five.png"}]))
    (row,) = read_rows(str(tmp_path), ("id", "image"), "test")
    assert decode_cell(row["image"], tmp_path).getpixel((0, 0)) == color(5).getpixel((0, 0))
    (tmp_path / "one.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    assert len(read_rows(str(tmp_path / "one.jsonl"), ("id",), "test")) == 2


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'answers', 'question'; its columns are id, image"):
        read_rows(str(parquet(tmp_path, "test", ROWS)), ("id", "answers", "question"), "test")


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    parquet(tmp_path, "test", ROWS)
    parquet(tmp_path, "validation", ROWS)
    with pytest.raises(ValueError, match=r"holds no dev\*\.parquet"):
        read_rows(str(tmp_path), ("id",), "dev")
    (tmp_path / "test_more.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"test_more\.parquet cannot be read as one table"):
        read_rows(str(tmp_path), ("id",), "test")
    (tmp_path / "table.tsv").write_text("a\n")
    with pytest.raises(ValueError, match=r"\.parquet, \.jsonl, \.json"):
        read_rows(str(tmp_path / "table.tsv"), ("id",), "dev")

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'some/where' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"'some/where' is neither .* Couldn't reach 'some/where' on the Hub\."):
        read_rows("some/where", ("id",), "dev")


def test_a_hub_id_goes_to_the_hub_with_config_and_split(monkeypatch):
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list([{"id": 1}])

    monkeypatch.setattr("datasets.load_dataset", load)
    read_rows("lmms-lab/ScienceQA", ("id",), "test", "ScienceQA-IMG")
    assert asked == [(("lmms-lab/ScienceQA", "ScienceQA-IMG"), {"split": "test"})]


def test_pictures_are_opened_only_when_their_row_is_read(tmp_path, monkeypatch):
    opened, decode = [], datasets.Image.decode_example
    monkeypatch.setattr(
        datasets.Image, "decode_example", lambda self, *a, **k: opened.append(1) or decode(self, *a, **k)
    )
    monkeypatch.setattr(
        "learnpruner.data.conversation_records.open_image", lambda source: opened.append(source) or open_image(source)
    )
    rows = read_rows(str(parquet(tmp_path, "test", ROWS)), ("id", "image"), "test")
    grouped = group_rows(rows, list(rows.select_columns(["id"])["id"]))
    assert not opened
    cell = grouped[1]["image"]
    assert not opened
    assert isinstance(decode_cell(cell, tmp_path), Image.Image)
    assert opened == [cell["bytes"]]


def test_a_picture_in_each_of_its_forms(tmp_path):
    buffer = io.BytesIO()
    color(1).convert("RGBA").save(buffer, "PNG")
    color(1).save(tmp_path / "x.png")
    forms = [
        color(1),
        buffer.getvalue(),
        {"bytes": buffer.getvalue(), "path": None},
        "x.png",
        {"bytes": None, "path": "x.png"},
    ]
    for form in (*forms, [color(1), color(2)]):
        found = decode_cell(form, tmp_path)
        assert (found.mode, found.getpixel((0, 0))) == ("RGB", color(1).getpixel((0, 0)))
    for broken in (b"no picture", "missing.png", 3, None):
        with pytest.raises(ValueError, match="image"):
            decode_cell(broken, tmp_path)


def test_groups_come_together_in_the_order_of_their_first_row():
    rows = datasets.Dataset.from_list([{"id": i} for i in range(6)])
    assert group_rows(rows, ["b", "a", "c", "a", "b", "a"])["id"] == [0, 4, 1, 3, 5, 2]


def test_pictures_come_from_the_folder_of_the_benchmark_alone(tmp_path):
    (tmp_path / "data").mkdir()
    color(1).save(tmp_path / "secret.png")
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(ValueError, match=r"leads out of .*; move it there, or allow it by outside=true"):
            decode_cell(name, tmp_path / "data")
        assert decode_cell(name, tmp_path / "data", outside=True).getpixel((0, 0)) == color(1).getpixel((0, 0))
