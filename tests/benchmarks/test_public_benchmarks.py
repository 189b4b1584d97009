"""What all benchmarks hold: prompts word for word, lazy rows, totals that follow from sums over units."""

import numpy as np
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from learnpruner.benchmarks.base import AnsweredExample
from learnpruner.benchmarks.llm_judge import ChatJudge
from learnpruner.benchmarks.public import PublicBenchmark, ratio_or_nan, scores_by_kind
from tests.config.test_config import CONF
from tests.tiny_benchmarks import MAKERS, VIDEOS, color, video

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PROMPTS = {
    "pope": "Is there a thing 0 in the image?" + SHORT,
    "gqa": "What color is thing 0?" + SHORT,
    "vqav2": "what is on the Sign 0?" + SHORT,
    "vizwiz": "What is on the sign 0?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    + SHORT,
    "textvqa": "What is on the sign 0?\nReference OCR token: STOP, 40" + SHORT,
    "scienceqa": "Which is 0?\nA. ice\nB. fire" + LETTER,
    "mme": "Is this existence?" + SHORT,
    "mmbench": "hint one\nWhat is 7?\nA. cat\nB. dog" + LETTER,
    "mmbench_cn": "hint one\nWhat is 7?\nA. cat\nB. dog\n请直接回答选项字母。",
    "seed": "What is 0?\nA. a0\nB. b0\nC. c0\nD. d0" + LETTER,
    "ocrbench": "what is written 0?",
    "chartqa": "How many are 0?\nAnswer the question with a single word.",
    "docvqa": "What is in line 0?" + SHORT,
    "ai2d": "Which is 0?\nA. sun\nB. moon" + LETTER,
    "mmstar": "What is 0?\nOptions: A: a0, B: b0, C: c0, D: d0" + LETTER.removesuffix("."),
    "msvd": "what happens 0?" + SHORT,
    "msrvtt": "what happens 0?" + SHORT,
    "tgif": "what happens 0?" + SHORT,
}
LENGTHS = {
    "pope": 128, "gqa": 16, "vqav2": 16, "vizwiz": 128, "textvqa": 128, "scienceqa": 16, "mme": 16, "mmbench": 1024,
    "mmbench_cn": 256, "seed": 16, "ocrbench": 128, "chartqa": 16, "docvqa": 32, "ai2d": 16, "mmstar": 16, "msvd": 128, "msrvtt": 128, "tgif": 128,
}  # fmt: skip


def build(name, folder, **settings):
    """The benchmark that conf/benchmark/<name>.yaml describes, on a local folder."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "benchmark" / f"{name}.yaml").datasets[name])
    return get_class(config.pop("_target_"))(**{**config, "source": str(folder), **settings})


@pytest.fixture(params=PROMPTS)
def name(request):
    return request.param


@pytest.fixture
def benchmark(name, tmp_path):
    return build(name, (video if name in VIDEOS else MAKERS[name])(tmp_path / name))


def test_the_prompt_word_for_word(name, benchmark):
    first = benchmark[0]
    assert first.question == PROMPTS[name]
    assert benchmark.wording(first.question) == first.question
    assert benchmark.max_new_tokens == LENGTHS[name]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("pope", {"report": "accuracy"}, "accuracy, mean"),
        ("mme", {"report": "perception"}, "perception"),
        ("textvqa", {"ocr": False}, "without OCR"),
        ("tgif", {"judge": ChatJudge("http://here", "judge-1")}, "judge-1"),
    ],
)
def test_the_table_says_which_number_it_shows(name, settings, words, tmp_path):
    source = (video if name in VIDEOS else MAKERS[name])(tmp_path / "x")
    usual, other = build(name, source), build(name, source, **settings)
    assert words in other.metric and other.metric != usual.metric


def test_every_config_has_its_prompt_here(name):
    shared = {"scenes", "speed"}
    field = {path.stem for path in (CONF / "benchmark").glob("*.yaml") if "datasets" in OmegaConf.load(path)} - shared
    assert field == set(PROMPTS) == set(LENGTHS)


def test_samples_have_ids_of_their_own_and_end(name, benchmark):
    assert isinstance(benchmark, PublicBenchmark) and benchmark.name == name
    examples = [benchmark[i] for i in range(len(benchmark))]
    assert len({one.id for one in examples}) == len(examples) > 2
    with pytest.raises(IndexError):
        benchmark[len(benchmark)]


def test_right_answers_score_best_and_wrong_ones_nothing(benchmark):
    examples = [benchmark[i] for i in range(len(benchmark))]
    right = [benchmark.answered(one, one.answer) for one in examples]
    wrong = [benchmark.answered(one, "no idea at all, not one") for one in examples if one.answer != "no"]
    assert benchmark.total(right) == pytest.approx(benchmark.best)
    assert benchmark.metrics(right)["score"] == benchmark.total(right)
    assert sum(one.score for one in wrong) == 0


def test_the_total_is_the_value_of_summed_units(benchmark):
    examples = [benchmark[i] for i in range(len(benchmark))]
    mixed = [benchmark.answered(one, one.answer if i % 3 else "?") for i, one in enumerate(examples)]
    sums = benchmark.sums(mixed)
    assert sums.ndim == 2 and len(sums) <= len(mixed)
    many = np.stack([sums.sum(0), 2 * sums.sum(0)])
    np.testing.assert_allclose(benchmark.value(many), [benchmark.total(mixed)] * 2)


def test_the_bootstrap_draws_what_questions_are_about(name, benchmark):
    """Pictures, or videos, each with all of its questions; their sums are those of their own questions alone."""
    examples = [benchmark[i] for i in range(len(benchmark))]
    mixed = [benchmark.answered(one, one.answer if i % 3 else "?") for i, one in enumerate(examples)]
    scenes = sorted({one.scene for one in mixed})
    found = sorted(benchmark.sums(mixed).tolist())
    assert found == sorted(benchmark.sums([one for one in mixed if one.scene == scene])[0].tolist() for scene in scenes)
    pictures = {"pope": 2, "gqa": 3, "mme": 14, "mmbench": 2, "mmbench_cn": 2}
    pictures |= {"ocrbench": 2, "chartqa": 2, "docvqa": 2, "ai2d": 2} | dict.fromkeys(VIDEOS, 2)
    assert len(found) == pictures.get(name, len(examples))


@pytest.mark.parametrize(("name", "column"), [("vqav2", "image_id"), ("textvqa", "image_id"), ("seed", "data_id")])
def test_questions_about_one_picture_share_its_id(name, column, tmp_path):
    benchmark = build(name, MAKERS[name](tmp_path))
    assert benchmark.example({**benchmark.rows[0], column: 7}).scene == "7"


def test_the_settings_survive_json_and_tell_benchmarks_apart(name, benchmark, tmp_path):
    settings = benchmark.arguments()
    assert settings["max_new_tokens"] == LENGTHS[name]
    other = build(name, benchmark.source, max_new_tokens=3)
    assert other.arguments() == settings | {"max_new_tokens": 3}


def test_a_missing_column_is_named(name, tmp_path):
    if name in VIDEOS:
        (tmp_path / "test.json").write_text('[{"question_id": 1, "question": "what?"}]')
    else:
        color(0).save(tmp_path / "a.png")
        (tmp_path / "all.json").write_text('[{"image": "a.png"}]')
    with pytest.raises(ValueError, match="has no column"):
        build(name, tmp_path)


def test_accuracy_by_kind():
    def one(kind, score):
        return AnsweredExample("1", kind, "s", "q", "a", "p", score, {})

    assert scores_by_kind([one("b", 1.0), one("a", 0.5), one("b", 0.0)]) == {"a": 50.0, "b": 50.0}
    assert scores_by_kind([one("a", 1.0)]) == {}
    np.testing.assert_array_equal(ratio_or_nan([1.0, 2.0], [2.0, 0.0]), [0.5, np.nan])
