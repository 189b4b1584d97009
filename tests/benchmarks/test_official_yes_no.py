"""Yes and no, thousands of nasty answers: POPE, MME and the videos' judge against plain re-derivations."""

import io
import json
import random
import urllib.request
from statistics import mean

import pytest

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.llm_judge import ChatJudge
from learnpruner.benchmarks.mme import Mme, mme_yes_no
from learnpruner.benchmarks.pope import Pope, llava_yes_no, strict_yes_no
from tests.benchmarks.nasty import free_answers
from tests.benchmarks.official import llava_pope, lmms_pope, otter_yes_no, verdict
from tests.tiny_benchmarks import MAKERS, color

YES_NO = (
    "Yes",
    "No",
    "yes",
    "no.",
    "No\n",
    " No",
    "\nNo.",
    "Yes, it is",
    "No, there is none",
    "There is not a dog",
    "nothing",
    "Y",
    "n",
)


def yes_no_answers(count, seed):
    draw, free = random.Random(seed), free_answers(count, seed)
    return [draw.choice(YES_NO) if draw.random() < 0.5 else given for given in free]


@pytest.mark.parametrize(("parser", "rule"), [("llava", llava_pope), ("strict", lmms_pope)])
def test_pope(parser, rule, tmp_path):
    """F1 of each split from precision and recall, and their mean; an answer that is neither is a "no" that is wrong."""
    benchmark, draw = Pope(str(MAKERS["pope"](tmp_path)), parser=parser), random.Random(4)
    examples = [benchmark[number] for number in range(len(benchmark))]
    for given in yes_no_answers(3000, 4):
        assert {"llava": llava_yes_no, "strict": strict_yes_no}[parser](given) == rule(given), repr(given)
    for round_of in range(10):
        asked = [(draw.choice(examples), given) for given in yes_no_answers(80, round_of)]
        f1, right = [], []
        for split in ("random", "popular", "adversarial"):
            said = [(rule(given), one.answer) for one, given in asked if one.kind == split]
            positive, truth = [pair for pair in said if pair[0] == "yes"], [pair for pair in said if pair[1] == "yes"]
            hits = [pair for pair in positive if pair[1] == "yes"]
            precision = len(hits) / len(positive) if positive else 0
            recall = len(hits) / len(truth) if truth else 0
            f1.append(2 * precision * recall / (precision + recall) if hits else 0)
            right.append(mean(float(given == answer) for given, answer in said))
        found = benchmark.metrics([benchmark.answered(one, given) for one, given in asked])
        assert found["score"] == pytest.approx(100 * mean(f1))
        assert [found[f"accuracy {kind}"] for kind in benchmark.kinds] == pytest.approx([100 * one for one in right])
        assert found["yes ratio"] == pytest.approx(100 * mean(float(rule(given) == "yes") for _, given in asked))


def test_mme(tmp_path):
    benchmark, draw = Mme(str(MAKERS["mme"](tmp_path))), random.Random(5)
    for given in yes_no_answers(3000, 5):
        assert mme_yes_no(given) == otter_yes_no(given), repr(given)
    for round_of in range(10):
        answers, points = [], {kind: [] for kind in benchmark.kinds}
        for number in range(40):
            kind = draw.choice(benchmark.kinds)
            pair = [Example(color(0), "?", right, kind, f"{kind}/{number}") for right in ("yes", "no")]
            said = draw.sample(yes_no_answers(30, round_of), 2)
            right = [otter_yes_no(given) == one.answer for one, given in zip(pair, said, strict=True)]
            answers += [benchmark.answered(one, given) for one, given in zip(pair, said, strict=True)]
            points[kind].append(100 * sum(right) / 2 + (100 if all(right) else 0))
        draw.shuffle(answers)
        found = benchmark.metrics(answers)
        each = {kind: mean(found_points) for kind, found_points in points.items() if found_points}
        assert {kind: found[kind] for kind in each} == pytest.approx(each)
        assert found["score"] == pytest.approx(sum(each.values()))


REPLIES = (
    "Yes",
    "yes.",
    "**Yes**",
    "No, not yes",
    "no",
    "Yes, it does",
    "yesterday",
    "\nYES",
    "The answer is yes",
    '"yes"',
    "",
)


def test_a_judge_says_yes_with_its_first_word(monkeypatch):
    replies = [*REPLIES, *yes_no_answers(1000, 6)]
    judge, left = ChatJudge("http://judge", "judge-1"), iter(replies)

    def answer(request, timeout):
        return io.BytesIO(json.dumps({"choices": [{"message": {"content": next(left)}}]}).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    for reply in replies:
        assert judge("what?", "a dog", "dog") == verdict(reply), repr(reply)
