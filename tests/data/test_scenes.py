"""The scene generator: repeatable, honest answers, balanced kinds, disjoint handwriting, many tokens an answer, a folder that others can read."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from learnpruner.data.scenes import (
    CANVAS,
    COLORS,
    COLUMN_NAMES,
    GRID,
    NO_LABEL,
    PATCH,
    QUESTION_KINDS,
    ROW_NAMES,
    Scene,
    SceneQuestion,
    Thing,
    benchmark_sample,
    drawing,
    make_scene,
    write_folder,
)
from learnpruner.data.scenes.__main__ import main

STYLES = ("benchmark", "crowded", "shifted")


def named(words: str, scene: Scene) -> Thing:
    """The one thing that "the red plate", "the circle", "the red object", "the red circle" or "the marked object" names."""
    *adjective, noun = words.removeprefix("the ").split()
    found = [
        thing
        for thing in scene.things
        if (noun == "plate") == thing.is_plate
        and noun in ("object", "plate", thing.outline)
        and all(word == thing.color or (word == "marked" and thing.marked) for word in adjective)
    ]
    assert len(found) == 1, f"{words} must name one thing"
    return found[0]


def told(question: SceneQuestion, scene: Scene) -> str:
    """The answer, worked out once more from the things in the scene."""
    text = question.text.rstrip("?")
    shapes = [thing for thing in scene.things if not thing.is_plate]
    if found := re.fullmatch(r"is there a (\w+) (\w+)", text):
        return "yes" if any((t.color, t.outline) == found.groups() for t in shapes) else "no"
    if found := re.fullmatch(r"how many (?:(\w+) )?(\w+)s are there", text):
        color, noun = found.groups()
        return str(sum(color in (None, t.color) and noun in ("object", t.outline) for t in shapes))
    if found := re.fullmatch(r"is (the .+) (left of|above) (the .+)", text):
        axis, order = ("row", ROW_NAMES) if found[2] == "above" else ("column", COLUMN_NAMES)
        first, second = (order.index(getattr(named(found[i], scene), axis)) for i in (1, 3))
        return "yes" if first < second else "no"
    if found := re.fullmatch(r"what (color|shape) is (the .+)", text):
        thing = named(found[2], scene)
        return thing.color if found[1] == "color" else thing.outline
    if found := re.fullmatch(r"where is (the .+)", text):
        thing = named(found[1], scene)
        return f"{thing.row} {thing.column}"
    if found := re.fullmatch(r"what number is on (the .+)", text):
        return named(found[1], scene).number
    left, right = scene.background
    return {"left": left, "right": right}.get(text.split()[-1], "yes" if left == right else "no")


@pytest.mark.parametrize("style", ["benchmark", "shifted"])
def test_every_answer_follows_from_the_scene(style) -> None:
    for index in range(200):
        scene = make_scene("train", index, render=False, style=style)
        for question in scene.questions:
            assert question.answer == told(question, scene), question


def test_a_scene_depends_on_split_seed_style_and_index_alone() -> None:
    first = make_scene("test", 5, seed=3)
    make_scene("train", 9)
    again = make_scene("test", 5, seed=3)
    assert np.array_equal(first.image, again.image)
    assert [q.text for q in first.questions] == [q.text for q in again.questions]
    others = [make_scene("train", 5, seed=3), make_scene("test", 6, seed=3), make_scene("test", 5, seed=4)]
    others.append(make_scene("test", 5, seed=3, style="shifted"))
    for other in others:
        assert not np.array_equal(first.image, other.image)


def test_layout_without_pixels_is_the_same_layout() -> None:
    painted, bare = make_scene("train", 7), make_scene("train", 7, render=False)
    assert bare.image is None
    assert [(t.box, t.color, t.number) for t in painted.things] == [(t.box, t.color, t.number) for t in bare.things]
    assert [(q.text, q.answer) for q in painted.questions] == [(q.text, q.answer) for q in bare.questions]


def test_handwriting_of_the_splits_is_disjoint() -> None:
    pictures = {
        split: {glyph.tobytes() for digit in digits for glyph in digit}
        for split, digits in drawing.handwritten_digits().items()
    }
    assert all(len(p) > 100 for p in pictures.values())
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not pictures[a] & pictures[b]


def test_benchmark_takes_kinds_in_turn_and_balances_yes_and_no() -> None:
    samples = [benchmark_sample("validation", i)[1] for i in range(560)]
    assert [q.kind for q in samples] == [QUESTION_KINDS[i % len(QUESTION_KINDS)] for i in range(560)]
    for kind in ("existence", "relation"):
        answers = Counter(q.answer for q in samples if q.kind == kind)
        assert 0.35 < answers["yes"] / 80 < 0.65


@pytest.mark.parametrize("style", STYLES)
def test_nothing_overlaps_and_all_lies_inside(style) -> None:
    for index in range(60):
        scene = make_scene("train", index, questions=0, render=False, style=style)
        painted = np.zeros((CANVAS, CANVAS), dtype=int)
        for thing in scene.things:
            y, x, height, width = thing.box
            assert y >= 0 and x >= 0 and y + height <= CANVAS and x + width <= CANVAS
            painted[y : y + height, x : x + width] += 1
            if style == "crowded":  # read in four windows, none of which may cut a number
                assert not (y < CANVAS // 2 < y + height) and not (x < CANVAS // 2 < x + width)
        assert painted.max() == 1
        assert len(scene.shapes) >= 2 and scene.plates and sum(thing.marked for thing in scene.things) == 1


def test_an_answer_rests_on_many_tokens_and_each_knows_its_own_part() -> None:
    """Each digit of a number has four patches, and no patch is labelled with another digit than the one painted on it."""
    scenes = [make_scene("validation", i, questions=0, render=False) for i in range(100)]
    for scene in scenes:
        for plate in scene.plates:
            parts = scene.digit_patches(plate)
            assert [len(part) for part in parts] == [4] * len(plate.number.split())
            for place, (part, digit) in enumerate(zip(parts, plate.number.split(), strict=True)):
                assert set(scene.labels.digit[part]) == {int(digit)} and set(scene.labels.place[part]) == {place}
                left = plate.box[1] + PATCH // 2 + 2 * PATCH * place
                assert set(part % GRID) == {left // PATCH, left // PATCH + 1}
            assert [int(scene.labels.last[part[0]]) for part in parts] == [0] * (len(parts) - 1) + [1]
    digits = [len(plate.number.split()) for scene in scenes for plate in scene.plates]
    assert 3 <= np.mean(digits) <= 5 and max(digits) == 5
    loose = [np.sum((s.labels.digit != NO_LABEL) & (s.labels.place == NO_LABEL)) / 4 for s in scenes]
    assert np.mean(loose) > 8, "as many digits that nobody asks about as are asked about"


def test_most_shapes_have_look_alikes() -> None:
    shapes = [make_scene("validation", i, questions=0, render=False).shapes for i in range(100)]
    pairs = [Counter((t.color, t.outline) for t in some) for some in shapes]
    alike = sum(count for pair in pairs for count in pair.values() if count > 1)
    assert 0.3 < alike / sum(map(len, shapes)) < 0.8
    colors = [Counter(t.color for t in some) for some in shapes]
    assert sum(c for color in colors for c in color.values() if c > 1) / sum(map(len, shapes)) > 0.6


def test_evidence_lies_where_the_thing_is_painted() -> None:
    for index in range(40):
        scene = make_scene("train", index, questions=0)
        for thing in scene.things:
            own = [p for p in thing.patches if not scene.labels.mark[p]]
            y, x, height, width = thing.box
            rows, columns = np.array(own) // GRID * PATCH, np.array(own) % GRID * PATCH
            assert (rows + PATCH > y).all() and (rows < y + height).all()
            assert (columns + PATCH > x).all() and (columns < x + width).all()
            where = scene.image[y : y + height, x : x + width][drawing.shape_mask(thing.outline, height, width)]
            painted = np.median(where.astype(float), axis=0)
            colors = np.array(list(COLORS.values()), dtype=float)
            alike = (
                colors @ painted / np.linalg.norm(colors, axis=1)
            )  # the light changes the brightness, and strong light cuts
            assert thing.color in np.array(list(COLORS))[alike.argsort()[-2:]]


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"'dev'.*validation"):
        make_scene("dev", 0)


def test_folder_is_llava_instruct_with_the_same_pictures(tmp_path) -> None:
    path = write_folder(tmp_path, "validation", 3, questions=2)
    records = json.loads(path.read_text())
    assert [r["id"] for r in records] == [f"validation-{i:06d}" for i in range(3)]
    for index, record in enumerate(records):
        scene = make_scene("validation", index, questions=2)
        assert np.array_equal(np.asarray(Image.open(tmp_path / record["image"])), scene.image)
        human, gpt = record["conversations"][:2]
        assert human == {"from": "human", "value": f"<image>\n{scene.questions[0].text}"}
        assert gpt == {"from": "gpt", "value": scene.questions[0].answer}
        assert "<image>" not in record["conversations"][2]["value"]


def test_the_scenes_never_change() -> None:
    """Layout, questions and evidence of the shipped backbone's data; pixels may round otherwise on another machine."""
    digest = hashlib.sha256()
    for style in STYLES:
        for split in ("train", "validation", "test"):
            for index in range(4):
                scene = make_scene(split, index, seed=1, render=False, style=style)
                asked = [(q.kind, q.text, q.answer, [e.tolist() for e in q.evidence]) for q in scene.questions]
                things = [(t.box, t.color, t.outline, t.number, t.marked) for t in scene.things]
                digest.update(repr((things, asked, scene.labels.scrap.tolist(), scene.labels.digit.tolist())).encode())
    assert digest.hexdigest()[:16] == "f4d435fd397e7f41"


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, capsys, inside) -> None:
    (tmp_path / "out").write_text("a file")
    monkeypatch.setattr("sys.argv", ["scenes", str(tmp_path / "out" / inside), "--count", "1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and "out" in said[-1] and "cannot be written" in said[-1]
