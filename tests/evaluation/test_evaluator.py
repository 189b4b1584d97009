"""Evaluation: plans do not disturb each other, a reloaded export repeats the numbers, and a plan that does nothing is found out."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, picture
from tiny import ids, inputs, tiny_llava

import learnpruner
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.engine.kv_lengths import expected_kv_lengths
from learnpruner.evaluation import evaluator as evaluator_module
from learnpruner.evaluation.answer_cache import AnswerCache
from learnpruner.evaluation.evaluator import Evaluator, evaluate
from learnpruner.evaluation.examples import run_examples
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.plan import Plan, Stage
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.profiling.flops import layer_tokens, model_dimensions, prefill_flops
from learnpruner.profiling.timing import time_generation, time_module_calls, time_plans
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.utils.distributed import Rank
from tests.counting import counted_flops

ROOT = Path(__file__).parents[2]
NAMES = {"random": "random", "uniform+text": "uniform_text", "untrained+text": "learnpruner", "cls": "fastervlm"}
RATIO, SAMPLES = 0.2, 12
SCENES = ScenesBenchmark()


class Echo(Benchmark):
    """Scenes whose right answer is what a given run answered, so that a random model scores."""

    name, kinds = "echo", ScenesBenchmark.kinds

    def __init__(self, answers):
        self.scenes, self.answers = ScenesBenchmark(), answers

    def __len__(self):
        return len(self.answers)

    def __getitem__(self, index):
        one = self.scenes[index]
        return Example(one.image, one.question, self.answers[index], one.kind, index)


@pytest.fixture(scope="module")
def plans(backbone):
    return build_baselines(PrunerConfigs(), NAMES, RATIO, backbone)


@pytest.fixture(scope="module")
def echo(backbone):
    found = evaluate(backbone, {}, ScenesBenchmark(), SAMPLES, batch_size=5)
    return Echo(found.outcomes[UNPRUNED].answers)


@pytest.fixture(scope="module")
def results(backbone, plans, echo):
    return evaluate(backbone, plans, echo, SAMPLES, batch_size=5)


def test_the_unpruned_model_answers_as_hugging_face_does_row_by_row(backbone, results):
    for i, answer in enumerate(results.outcomes[UNPRUNED].answers[:6]):
        one = ScenesBenchmark()[i]
        inputs = encode_prompts(backbone, [one.image], [one.question])
        new = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
        assert answer == backbone.processor.decode(new[0], skip_special_tokens=True)


class Polite(ScenesBenchmark):
    """Scenes that are asked in other words."""

    def wording(self, question):
        return f"please say {question}"


def test_a_benchmark_asks_in_its_own_words(backbone, monkeypatch):
    """The model reads the wording; results keep the question."""
    asked, original = [], encode_prompts
    monkeypatch.setattr(
        "learnpruner.evaluation.evaluator.encode_prompts", lambda *given: (asked.extend(given[2]), original(*given))[1]
    )
    found = evaluate(backbone, {}, Polite(), 3, batch_size=2, max_new_tokens=1)
    bare = [ScenesBenchmark()[i].question for i in range(3)]
    assert asked == [f"please say {question}" for question in bare]
    assert [one.question for one in found.questions] == bare


def test_echoed_answers_score_and_pruning_costs_something(results):
    assert results.accuracy(UNPRUNED)["mean"] == 1.0
    assert any(results.accuracy(name)["mean"] < 1.0 for name in NAMES)


def test_plans_do_not_disturb_each_other(backbone, plans, echo, results):
    for name, plan in plans.items():
        alone = evaluate(backbone, {name: plan}, echo, SAMPLES, batch_size=5)
        assert alone.outcomes[name].answers == results.outcomes[name].answers
        assert alone.row(name) == results.row(name)


def test_a_reloaded_export_gives_equal_numbers(backbone, plans, echo, results, tmp_path):
    name = "untrained+text"
    again = learnpruner.load(plans[name].save(tmp_path / "export")).prepare(backbone.family)
    found = evaluate(backbone, {name: again}, echo, SAMPLES, batch_size=5)
    assert found.result("x", RATIO, name).measured["accuracy"] == results.accuracy(name)
    assert found.row(name) == results.row(name)


def test_limit_takes_the_first_samples(backbone, plans, echo, results):
    few = evaluate(backbone, {"random": plans["random"]}, echo, 5, batch_size=5)
    assert few.questions == results.questions[:5]
    assert few.outcomes["random"].answers == results.outcomes["random"].answers[:5]


def test_every_plan_reports_the_average_that_was_asked_for(backbone, results):
    asked = RATIO * backbone.family.tokens
    for name in NAMES:
        assert results.row(name)["tokens"]["averaged"] == pytest.approx(asked, abs=1.0)
    assert results.row(UNPRUNED)["tokens"]["averaged"] == backbone.family.tokens


def test_a_plan_that_does_nothing_is_found_out(backbone, plans, echo, monkeypatch):
    monkeypatch.setattr(learnpruner.Plan, "on", lambda *_: nullcontext())
    with pytest.raises(RuntimeError, match="the plan promises"):
        evaluate(backbone, {"random": plans["random"]}, echo, 2)


def test_looks_show_the_tokens_that_were_kept(backbone, plans, echo):
    plan, family = plans["uniform+text"], backbone.family
    seen = run_examples(backbone, plan, [echo[0], echo[1]], echo, max_new_tokens=6)
    counts = plan.counts(family.tokens, family.layers)
    for one in seen:
        assert [int(mask.sum()) for _, mask in one.kept] == list(counts)
        first, second = (mask for _, mask in one.kept)
        assert first.shape == family.grid
        assert not (second & ~first).any()
        assert one.unpruned_right is True
    assert [name for name, _ in seen[0].kept] == ["after the encoder", "from layer 3"]
    np.testing.assert_allclose(seen[0].image, np.asarray(echo[0].image) / 255, atol=0.02)


def test_the_closed_form_covers_the_pruned_model(backbone, plans, echo):
    """The engine adds the pruner and the scores of stage 2 to the closed form, and no more than a few per cent."""
    family, g = backbone.family, model_dimensions(backbone.model.config)
    inputs = encode_prompts(backbone, [echo[0].image], [echo[0].question])
    text = int((inputs["input_ids"] != backbone.model.config.image_token_id).sum())
    for plan in (plans["random"], plans["uniform+text"]):
        with torch.no_grad(), plan.on(backbone.model):
            counted = counted_flops(lambda: backbone.model(**inputs, logits_to_keep=1))
        visual = layer_tokens(plan, family.tokens, family.layers)
        expected = [prefill_flops(g, visual, text, projected).total for projected in (visual[0], family.tokens)]
        assert expected[0] <= counted <= 1.05 * expected[1]
        assert counted < prefill_flops(g, layer_tokens(None, family.tokens, family.layers), text).total


def test_latency_is_measured_for_every_plan_against_the_first(backbone, plans, echo):
    inputs = encode_prompts(backbone, [echo[i].image for i in range(2)], [echo[i].question for i in range(2)])
    both = {UNPRUNED: None, "random": plans["random"]}
    timings = time_plans(backbone.model, both, inputs, (1, 3, 5), warmup=1, repeats=3)
    for timing in timings.values():
        assert 0 < timing["vision_ms"] < timing["ttft_ms"] < timing["total_3_ms"] < timing["total_5_ms"]
        assert 0 < timing["prefill_ms"] < timing["ttft_ms"]
        assert timing["decode_ms"] > 0
    assert timings[UNPRUNED]["speedup_ttft"] == timings[UNPRUNED]["speedup_total_5"] == 1.0
    ratio = timings[UNPRUNED]["prefill_ms"] / timings["random"]["prefill_ms"]
    assert timings["random"]["speedup_prefill"] == pytest.approx(ratio)


def test_times_are_those_of_the_clock(backbone, echo):
    ticks = iter(range(1000))
    inputs = encode_prompts(backbone, [echo[0].image], [echo[0].question])
    found = time_generation(backbone.model, inputs, [1, 2], clock=lambda: float(next(ticks)))
    assert all(value % 1000 == 0 and value > 0 for name, value in found.items() if name.endswith("_ms"))
    assert found["vision_ms"] == found["prefill_ms"] == 1000  # nothing else asks the clock meanwhile
    assert found["total_2_ms"] - found["ttft_ms"] == found["decode_ms"]


def test_one_new_token_is_a_prefill_without_decoding(backbone, echo):
    found = time_generation(backbone.model, encode_prompts(backbone, [echo[0].image], [echo[0].question]), [1])
    assert set(found) == {"vision_ms", "ttft_ms", "prefill_ms", "peak_bytes"}


def test_timing_leaves_no_hooks():
    layer = torch.nn.Linear(2, 2)
    with time_module_calls(layer, torch.device("cpu")) as calls:
        layer(torch.zeros(1, 2))
        layer(torch.zeros(1, 2))
    assert len(calls) == 2
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("ratio", [0.25, 0.01])
def test_the_promise_counts_each_row_s_own_image_where_they_differ_in_size(ratio, tmp_path):
    """Also where the smaller is too small for the ratio, and has the least that it can."""
    backbone = load_backbone(FAMILIES["llava_next"].save(tmp_path))
    inputs = encode_prompts(backbone, [picture((64, 64)), picture((32, 96))], ["what ?", "what is it ? " * 9])
    plan = Plan([Stage(RandomPruner(), "encoder", 2), Stage(TextAttention(), 2, 1)])
    plan.prune_ratio = ratio
    with plan.on(backbone.model) as engine:
        backbone.model(**inputs)
    assert len(set(engine.record.sizes.tolist())) == 2
    lengths = inputs["attention_mask"].sum(1).tolist()
    found = expected_kv_lengths(plan, backbone.family.layers, lengths, engine.record)
    assert found == tuple(engine.record.cached) and len(set(found)) == 2


def test_a_limit_above_the_number_of_samples_takes_all(backbone, echo):
    assert len(evaluate(backbone, {}, echo, SAMPLES + 5, batch_size=5, max_new_tokens=1).questions) == SAMPLES


def test_an_answer_is_as_long_as_is_timed_also_where_the_model_would_end_it():
    model = tiny_llava()
    model.generation_config.eos_token_id = list(range(1, 128))
    assert {"decode_ms", "total_4_ms"} <= set(time_generation(model, inputs([ids(1)]), (1, 4)))


def test_rounds_that_warm_up_are_not_in_the_median(monkeypatch):
    monkeypatch.setattr("learnpruner.profiling.timing.time_generation", lambda *_: {"ttft_ms": float(next(times))})
    times = iter([90, 80, 1, 3, 2])
    assert time_plans(None, {"unpruned": None}, {}, (1,), warmup=2, repeats=3)["unpruned"]["ttft_ms"] == 2


@pytest.fixture
def answered(monkeypatch):
    """The plans that batches are answered under, as they come."""
    calls, generate = [], evaluator_module.generate_and_verify
    monkeypatch.setattr(
        evaluator_module, "generate_and_verify", lambda *given: (calls.append(given[1]), generate(*given))[1]
    )
    return calls


def test_a_stopped_run_goes_on_without_repeating(backbone, plans, tmp_path, answered):
    both = {UNPRUNED: None, "random": plans["random"]}

    def run(folder, benchmark=SCENES, plans=both, limit=7):
        evaluator = Evaluator(backbone, 3, 4, AnswerCache(tmp_path / folder))
        return evaluator.run(plans, benchmark, limit)

    whole = run("whole")
    assert len(answered) == 6 and run("whole") == whole and len(answered) == 6
    path = tmp_path / "whole" / "rank0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]) + lines[8][:-20])  # killed while it wrote the second batch
    assert run("whole") == whole and len(answered) == 6 + 4
    run("whole", limit=8)  # the last batch has another row now
    assert len(answered) == 10 + 2
    run("whole", plans={"random": plans["uniform+text"]})
    run("whole", benchmark=ScenesBenchmark("validation"), plans={UNPRUNED: None})
    assert len(answered) == 12 + 3 + 3


def test_shards_together_answer_what_one_process_answers(backbone, plans, tmp_path, answered):
    both = {UNPRUNED: None, "random": plans["random"]}
    for number in range(2):
        cache = AnswerCache(tmp_path, number)
        shard = Evaluator(backbone, 3, 4, cache, Rank(number, 2))
        shard.fill(both, SCENES, 7)
    assert len(answered) == 6
    cache.read()
    assert shard.collect(both, SCENES, 7) == Evaluator(backbone, 3, 4).run(both, SCENES, 7)


def test_timings_are_kept_with_the_answers(backbone, plans, tmp_path, answered):
    both, ticks = {UNPRUNED: None, "random": plans["random"]}, iter(range(1, 99))

    def run(timer):
        evaluator = Evaluator(backbone, 3, 4, AnswerCache(tmp_path), timer=timer)
        evaluator.run(both, SCENES, 4)
        return evaluator.timings(both, SCENES, 4)

    Evaluator(backbone, 3, 4, AnswerCache(tmp_path)).run(both, SCENES, 4)
    timed = run(lambda: nullcontext([next(ticks)]))  # answers without times are no timed ones
    assert len(answered) == 4 + 4
    assert {name: [one.prefill_ms for one in found] for name, found in timed.items()} == {
        UNPRUNED: [1, 3],
        "random": [2, 4],
    }
    inputs = encode_prompts(backbone, [SCENES[3].image], [SCENES[3].question])
    text = int(inputs["attention_mask"].sum()) - backbone.family.tokens
    assert [len(one.text) for one in timed[UNPRUNED]] == [3, 1] and timed[UNPRUNED][1].text == [text]
    assert run(lambda: nullcontext([0])) == timed and len(answered) == 8
