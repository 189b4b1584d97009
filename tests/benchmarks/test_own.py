"""One's own questions: read from CSV and JSON alike, scored by exact match or one's own rule, refused in a sentence."""

import json

import pytest
from PIL import Image

from learnpruner.benchmarks.own import OwnQuestions
from learnpruner.utils.errors import UserError

ROWS = [
    {"image": "a.png", "question": "what, or who?", "answer": ["two cats", "cats"]},
    {"image": "sub/b.png", "question": "how many?", "answer": ["2"]},
]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for row in ROWS:
        Image.new("RGB", (8, 6), "red").save(tmp_path / "pictures" / row["image"])
    return tmp_path / "pictures"


def as_csv(rows):
    lines = [f'{one["image"]},"{one["question"]}",{"|".join(one["answer"])}' for one in rows]
    return "\n".join(["image,question,answer", *lines]) + "\n"


FILES = {
    "q.csv": as_csv,
    "q.json": json.dumps,
    "q.jsonl": lambda rows: "\n".join(map(json.dumps, rows)) + "\n",
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_holds_the_same_questions(name, images, tmp_path):
    (tmp_path / name).write_text(FILES[name](ROWS))
    found = OwnQuestions(str(tmp_path / name), str(images))
    assert len(found) == 2
    for row, one in zip(ROWS, (found[0], found[1]), strict=True):
        assert (one.question, one.answer, one.scene) == (row["question"], row["answer"][0], row["image"])
        assert one.facts["answers"] == row["answer"] and one.image.size == (8, 6)


@pytest.fixture
def questions(images, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps(ROWS))
    return lambda **more: OwnQuestions(str(tmp_path / "q.json"), str(images), **more)


@pytest.mark.parametrize(("said", "credit"), [("Two cats.", 1.0), ("the cats", 1.0), ("2 cats", 1.0), ("a dog", 0.0)])
def test_any_of_the_answers_counts_after_normalisation(questions, said, credit):
    found = questions()
    assert found.score(said, found[0]) == credit


def test_a_rule_of_one_s_own_scores(questions):
    found = questions(scoring=lambda said, answers: 0.5 * (answers == ROWS[0]["answer"] and said == "x"))
    assert found.score("x", found[0]) == 0.5 and found.score("y", found[0]) == 0.0
    with pytest.raises(UserError, match="a credit is between 0 and 1"):
        questions(scoring=lambda said, answers: 2.0).score("x", found[0])


def test_other_questions_of_the_same_file_are_another_benchmark(questions, tmp_path):
    before = questions().arguments()
    assert questions().arguments() == before
    (tmp_path / "q.json").write_text(json.dumps(ROWS[:1]))
    assert questions().arguments() != before


BAD = {
    "header": ("q.csv", "image,question\na.png,why?\n", "header has no column answer"),
    "empty": ("q.csv", "image,question,answer\n", "holds no question"),
    "cell": ("q.csv", "image,question,answer\na.png,,yes\n", "Row 1 of .* has no question"),
    "short": ("q.csv", "image,question,answer\na.png,why?\n", "Row 1 of .* has no answer"),
    "json": ("q.json", "[{", "is no valid json"),
    "mapping": ("q.json", "{}", "must hold a list of objects"),
    "number": ("q.json", json.dumps([{**ROWS[0], "answer": 2}]), "image, question and answer are texts"),
    "line": ("q.jsonl", "{}\n[]\n", "must hold a list of objects"),
    "missing": ("q.json", json.dumps([{**ROWS[0], "image": "c.png"}]), "c.png is missing; see benchmark.images"),
    "outside": ("q.json", json.dumps([{**ROWS[0], "image": "../q.json"}]), "leads out of"),
    "kind": ("q.xlsx", "", "it must be a .csv, .json or .jsonl"),
    "bytes": ("q.csv", b"image,question,answer\na.png,caf\xe9?,yes\n", "no valid csv in UTF-8"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_in_a_sentence(fault, images, tmp_path):
    name, text, said = BAD[fault]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        OwnQuestions(str(tmp_path / name), str(images))


def test_a_missing_file_or_folder_is_refused(images, tmp_path):
    with pytest.raises(UserError, match=r"benchmark\.file=.*is no file"):
        OwnQuestions(str(tmp_path / "none.csv"), str(images))
    (tmp_path / "q.json").write_text(json.dumps(ROWS))
    with pytest.raises(UserError, match=r"benchmark\.images=nowhere is no folder"):
        OwnQuestions(str(tmp_path / "q.json"), "nowhere")
    (images / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"Row 1 of .*a\.png cannot be read"):
        OwnQuestions(str(tmp_path / "q.json"), str(images))[0]
