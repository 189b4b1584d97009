"""The LLaVA-JSON loader: what it reads, what it skips and says, when it stops."""

import json

import numpy as np
import pytest
from PIL import Image

from learnpruner.data.llava_json import LlavaJson


@pytest.fixture
def folder(tmp_path):
    """200 records of one question on 200 grey images; record i's image has grey value i."""
    (tmp_path / "images").mkdir()
    records = []
    for i in range(200):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"images/{i}.png")
        records.append(record(i))
    return tmp_path, records


def record(i, turns=1):
    said = [{"from": who, "value": f"{who} {i}.{t}"} for t in range(turns) for who in ("human", "gpt")]
    said[0]["value"] = "<image>\n" + said[0]["value"]
    return {"id": f"r{i}", "image": f"images/{i}.png", "conversations": said}


def load(folder, **kwargs):
    path, records = folder
    (path / "data.json").write_text(json.dumps(records))
    return LlavaJson(path / "data.json", skipped=path / "skipped.jsonl", **kwargs)


def test_every_record_is_met_once_an_epoch_with_its_own_image(folder):
    source = load(folder)
    for epoch in range(2):
        samples = [source.sample(epoch * 200 + i) for i in range(200)]
        assert {s.id for s in samples} == {f"r{i}" for i in range(200)}
        assert all(s.image.getpixel((0, 0))[0] == int(s.id[1:]) for s in samples)
        assert all(s.turns == [(f"human {s.id[1:]}.0", f"gpt {s.id[1:]}.0")] for s in samples)


def test_paths_may_start_from_the_working_folder(folder, monkeypatch):
    load(folder)
    monkeypatch.chdir(folder[0].parent)
    source = LlavaJson(f"{folder[0].name}/data.json")
    assert source.sample(0).image.size == (8, 8)


def test_order_is_a_function_of_seed_and_index(folder):
    first, again, other = load(folder), load(folder), load(folder, seed=1)
    ids = [first.sample(i).id for i in range(50)]
    assert ids == [again.sample(i).id for i in reversed(range(50))][::-1]
    assert ids != [other.sample(i).id for i in range(50)]
    assert ids != [first.sample(200 + i).id for i in range(50)]


def test_turns_become_questions_in_groups_of_one_image(folder):
    folder[1][:] = [record(3, turns=5)]
    source = load(folder, questions=2)
    groups = sorted(source.sample(i).turns for i in range(3))
    assert [len(g) for g in groups] == [2, 2, 1]
    assert [q for g in groups for q, _ in g] == [f"human 3.{t}" for t in range(5)]


def test_image_tag_never_reaches_the_question(folder):
    folder[1][0]["conversations"][0]["value"] = "what is this?\n<image>"
    source = load(folder)
    assert ("what is this?", "gpt 0.0") in [source.sample(i).turns[0] for i in range(200)]


def test_text_only_records_are_left_out_without_a_word(folder):
    del folder[1][0]["image"]
    source = load(folder)
    assert len(source) == 199 and source.skips.count == 0


def turn(who, text):
    return {"from": who, "value": text}


UNUSABLE = [
    [],
    [turn("human", "<image>\nwhy?")],
    None,
    [{"value": "x"}, 3],
    [turn(["x"], "why?"), turn("gpt", "so")],
    [turn({"a": 1}, "why?"), turn("gpt", "so")],
    [turn("human", "why?"), turn("gpt", 7)],
    [turn("human", "why?"), turn("gpt", [{"type": "text", "text": ["so"]}])],
    [turn("human", "half a character \ud800"), turn("gpt", "so")],
    {"from": "human"},
    "human",
]


@pytest.mark.parametrize("conversation", UNUSABLE)
def test_record_without_answer_is_skipped_counted_and_listed(folder, conversation, caplog):
    folder[1][7]["conversations"] = conversation
    source = load(folder)
    assert len(source) == 199 and source.skips.count == 1
    assert json.loads((folder[0] / "skipped.jsonl").read_text())["id"] == "r7"
    assert "r7" in caplog.text and "1 of 200" in caplog.text


@pytest.mark.parametrize("content", [b"no image", b"", None])
def test_broken_image_is_skipped_and_the_next_record_takes_its_place(folder, content):
    broken = folder[0] / "images/7.png"
    if content is None:
        content = broken.read_bytes()[:40]
    broken.write_bytes(content)
    source = load(folder)
    ids = [source.sample(i).id for i in range(200)] + [source.sample(200 + i).id for i in range(200)]
    assert "r7" not in ids and len(set(ids)) == 199
    assert [json.loads(line)["id"] for line in (folder[0] / "skipped.jsonl").read_text().splitlines()] == ["r7"]


def test_missing_image_is_skipped(folder):
    (folder[0] / "images/9.png").unlink()
    assert len(load(folder)) == 199


def test_more_than_one_percent_stops_with_a_sentence(folder):
    for i in range(3):
        folder[1][i]["conversations"] = []
    with pytest.raises(ValueError, match=r"3 of 200 records cannot be used, more than 1%.*skipped.jsonl"):
        load(folder)
    folder[1][0] = record(0)
    (folder[0] / "skipped.jsonl").unlink()  # a run's own
    assert len(load(folder)) == 198


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "empty list"),
        ('{"a": 1}', "list of records"),
        ('[{"id": 1}]', "nothing to train on"),
    ],
)
def test_useless_json_is_refused_with_a_sentence(tmp_path, text, message):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        LlavaJson(tmp_path / "data.json")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.json must be"):
        LlavaJson(tmp_path / "none.json")
    (tmp_path / "data.json").write_text('[{"image": "a.png"}]')
    with pytest.raises(FileNotFoundError, match=r"data.images must be"):
        LlavaJson(tmp_path / "data.json", tmp_path / "none")


def test_one_record_a_line_is_read_as_a_list_of_them_is(folder):
    path, records = folder
    records[3]["conversations"][1]["value"] = "a line\u2028that goes on"
    whole = load(folder)
    (path / "data.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records) + "\n")
    lines = LlavaJson(path / "data.jsonl")
    assert lines.turns == whole.turns and lines.items == whole.items


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_mark_of_the_byte_order_is_no_part_of_the_records(folder, ending):
    path, records = folder
    text = json.dumps(records) if ending == "json" else "\n".join(map(json.dumps, records))
    (path / f"marked.{ending}").write_text(text, encoding="utf-8-sig")
    assert LlavaJson(path / f"marked.{ending}").turns == load(folder).turns


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"id": 1}\n{"id": \n', r"x.jsonl is not valid JSON: line 2: "),
        ("x.json", b"\xff\xfe[]", "x.json is not valid JSON: 'utf-8' codec"),
        ("x.json", b"[" * 100_000, "x.json is nested too deeply"),
        ("x.jsonl", b"[" * 100_000, "x.jsonl is nested too deeply"),
        ("x.json", None, "x.json is a folder; data.json must be a JSON file"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path, name, content, message):
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message):
        LlavaJson(tmp_path / name)


def outside(root):
    """Pictures beside the folder of the data, and names in the data that lead there."""
    Image.new("RGB", (8, 8), "red").save(root.parent / "secret.png")
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "linked").symlink_to(root.parent)
    return [
        "../secret.png",
        str(root.parent / "secret.png"),
        "link.png",
        "linked/secret.png",
        "images/../../secret.png",
    ]


def test_pictures_come_from_the_folder_of_the_data_alone(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    names = outside(root)
    Image.new("RGB", (8, 8), "teal").save(root / "images/0.png")
    (root / "own.png").symlink_to(root / "images/0.png")
    inside = ["images/0.png", "images/../images/0.png", "own.png", str(root / "images/0.png")]
    (root / "data.json").write_text(json.dumps([record(i) | {"id": n, "image": n} for i, n in enumerate(inside)]))
    source = LlavaJson(root / "data.json")
    assert {source.sample(i).id for i in range(4)} == set(inside)
    for name in names:
        (root / "data.json").write_text(json.dumps([record(0), record(1) | {"id": "r1", "image": name}]))
        source = LlavaJson(root / "data.json", skipped=root / "skipped.jsonl")
        assert {source.sample(i).id for i in range(4)} == {"r0"}
        (line,) = (root / "skipped.jsonl").read_text().splitlines()
        assert "leads out of" in json.loads(line)["reason"] and "outside=true" in json.loads(line)["reason"]
        (root / "skipped.jsonl").unlink()
        allowed = LlavaJson(root / "data.json", outside=True)
        assert {allowed.sample(i).image.getpixel((0, 0)) for i in range(2)} == {(0, 128, 128), (255, 0, 0)}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "circle/x.png"])
def test_names_that_no_file_has_are_skipped(folder, name):
    (folder[0] / "circle").symlink_to(folder[0] / "circle")
    folder[1][7]["image"] = name
    source = load(folder)
    assert len(source) == 199 and source.skips.count == 1


def test_a_share_is_other_records_for_another_seed(folder):
    names = [
        {made.sample(i).id for i in range(20)} for made in (load(folder, fraction=0.1, seed=n) for n in (0, 0, 1, 2))
    ]
    assert names[0] == names[1] and len(names[0]) == 20 and not names[0] == names[2] == names[3]
