"""ScienceQA's and SEED's letters, TextVQA's OCR tokens, GQA's join and VQA's answers, by hand."""

import pytest

from learnpruner.benchmarks.gqa import Gqa
from learnpruner.benchmarks.scienceqa import Scienceqa, answered_letter
from learnpruner.benchmarks.seed import SeedBench
from learnpruner.benchmarks.textvqa import Textvqa
from learnpruner.benchmarks.vqav2 import Vqav2
from tests.tiny_benchmarks import color, gqa, parquet, scienceqa, seed, textvqa, vqa, vqav2


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("B. fire", "B"),
        ("B.", "B"),
        ("The answer is B.", "B"),
        ("I think. The answer is C. So C.", "C"),
        ("The answer is A. The answer is B.", None),
        ("b", None),
        ("B fire", None),
        ("(B)", None),
        ("7", None),
        ("", None),
    ],
)
def test_science_letters(prediction, letter):
    assert answered_letter(prediction) == letter


def test_science_takes_the_index_as_a_letter_and_the_hint_as_context(tmp_path):
    benchmark = Scienceqa(str(scienceqa(tmp_path)))
    first, second = benchmark[0], benchmark[1]
    assert (first.answer, second.answer) == ("A", "B")
    assert second.question.startswith("Context: Water freezes.\nWhich is 1?\nA. ice\nB. fire\nC. rock\nAnswer")
    assert [benchmark.score(said, second) for said in ("B", "B. fire", "A", "fire")] == [1, 1, 0, 0]


def test_seed_counts_images_by_the_first_character(tmp_path):
    benchmark = SeedBench(str(seed(tmp_path)))
    assert [benchmark[i].id for i in range(len(benchmark))] == ["0", "2", "3"]
    assert [benchmark.score(said, benchmark[1]) for said in ("C", " C. c2", "Cat", "c", "A", "")] == [1, 1, 1, 1, 0, 0]
    videos = [{**row, "data_type": "video"} for row in benchmark.rows]
    with pytest.raises(ValueError, match="data_type is 'image'"):
        SeedBench(str(parquet(tmp_path / "videos", "test", videos)))


def test_textvqa_with_and_without_ocr_tokens(tmp_path):
    source = str(textvqa(tmp_path / "with"))
    assert "OCR" in Textvqa(source)[0].question
    assert "OCR" not in Textvqa(source, ocr=False)[0].question
    without = str(vqa(tmp_path / "without", "validation"))
    assert len(Textvqa(without, ocr=False)) == 4
    with pytest.raises(ValueError, match="'ocr_tokens'"):
        Textvqa(without)


def test_vqa_scores_by_the_humans(tmp_path):
    """Of ten: red 6, blue 3, green 1."""
    benchmark = Vqav2(str(vqav2(tmp_path)))
    one = benchmark[0]
    assert one.answer == "red"
    scores = [benchmark.score(said, one) for said in ("Red.", "the blue", "green", "pink", "red ASSISTANT: no")]
    assert scores == pytest.approx([1.0, 0.9, 0.3, 0.0, 1.0])


def test_gqa_finds_the_picture_of_each_question(tmp_path):
    source = gqa(tmp_path)
    benchmark = Gqa(str(source))
    for i in range(6):
        assert benchmark[i].image.getpixel((0, 0)) == color(i % 3).getpixel((0, 0))
    assert [benchmark.score(said, benchmark[0]) for said in ("Blue.", "the blue")] == [1, 0]
    parquet(source / "testdev_balanced_images", "testdev", [{"id": "n0", "image": color(0)}])
    with pytest.raises(ValueError, match="image n1, which"):
        Gqa(str(source))[1]
