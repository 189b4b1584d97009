"""Speed and training step of a real shape with random weights: the commands of the docs on a small cut of it."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import eval as evaluation
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import load_pruner_config
from learnpruner.profiling import latency_task as speed
from learnpruner.profiling import train_step_task as train_step
from learnpruner.profiling.latency_task import with_budget
from learnpruner.profiling.measurement import GPU_SETTINGS, LARGEST_BATCH
from learnpruner.profiling.selection_latency import CLOCKS

CONF = Path(evaluation.CONF)
SHAPE = "backbone.shape"
NARROW = [  # what is left of a 7B
    *(f"{SHAPE}.text_config.{size}" for size in ("hidden_size=64", "intermediate_size=96", "num_hidden_layers=8")),
    f"{SHAPE}.text_config.num_attention_heads=4",
    *(f"{SHAPE}.vision_config.{size}" for size in ("hidden_size=32", "intermediate_size=48", "num_hidden_layers=2")),
    f"{SHAPE}.vision_config.num_attention_heads=4",
]
BUDGETS = {
    "llava15_7b": (576, (128, 64, 32)),
    "llava_next_7b": (2880, (640, 320, 160)),
    "qwen2_5_vl_7b": (1296, (288, 144, 72)),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs eval.py on a narrow LLaVA-1.5 with random weights; returns its results.json."""

    def call(*arguments):
        words = ["backbone=llava15_7b", "backbone.weights=random", "device=cpu", *NARROW, *arguments]
        monkeypatch.setattr(sys, "argv", ["eval.py", f"hydra.run.dir={tmp_path / 'run'}", *words])
        evaluation.main()
        return json.loads((tmp_path / "run" / "results.json").read_text())

    return call


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Defaults as on a GPU whose memory ends at three prompts, on small counts."""
    from learnpruner.profiling import measurement as amount

    few = amount.MeasurementSettings((1, LARGEST_BATCH), (1, 2), 0, 1)
    monkeypatch.setattr(amount, "default_settings", lambda model: few)
    monkeypatch.setattr(amount, "on_gpu", lambda model: True)
    original = speed.time_plans

    def measure(model, plans, inputs, *rest):
        if len(inputs["input_ids"]) > 3:
            raise torch.OutOfMemoryError
        return original(model, plans, inputs, *rest)

    monkeypatch.setattr(speed, "time_plans", measure)


def test_random_weights_are_timed_at_the_papers_budgets_without_a_plan(run):
    result = run("benchmark=speed", "benchmark.batch_sizes=[1]", "benchmark.warmup=0", "benchmark.repeats=1")
    (batch,) = result["batches"]
    names = ["learnpruner 0.2222", "learnpruner 0.1111", "learnpruner 0.0556"]
    assert list(batch["timings"]) == ["unpruned", "keep all", *names]
    assert [round(result["visual_tokens"][name]["averaged"]) for name in names] == [128, 64, 32]
    assert result["dtype"] == "bfloat16" and result["attention"] == "sdpa"
    assert result["host_peak_bytes"] > 2 * result["weights"]
    assert "random weights" in result["backbone"]


def test_a_gpu_gets_the_largest_batch_that_fits_and_whole_answers(run, as_on_a_gpu):
    result = run("benchmark=speed", "prune_ratios=[0.2,0.1]", "benchmark.keep_all=false")
    assert [batch["batch_size"] for batch in result["batches"]] == [1, 2]
    for batch in result["batches"]:
        assert list(batch["timings"]) == ["unpruned", "learnpruner 0.2", "learnpruner 0.1"]
        assert all({"ttft_ms", "total_2_ms"} <= set(timing) for timing in batch["timings"].values())


def test_a_gpu_is_asked_for_what_the_docs_say():
    assert GPU_SETTINGS.batch_sizes == (1, 8, LARGEST_BATCH) and GPU_SETTINGS.new_tokens == (1, 32, 128)


def test_random_weights_take_a_training_step_in_masked_mode(run, monkeypatch):
    modes = []

    @contextmanager
    def on(plan, model, mode="physical", pool=None):
        modes.append((mode, pool))
        engine = plan.attach(model, mode, pool)
        try:
            yield engine
        finally:
            plan.detach(model)

    monkeypatch.setattr("learnpruner.plan.Plan.on", on)
    rounds = ["benchmark.images=2", "benchmark.warmup=1", "benchmark.repeats=2"]
    result = run("benchmark=train_step", *rounds)
    assert modes == [("masked", 32)] * 3
    assert result["images"] == 2 and round(result["visual_tokens"]["averaged"]) == 32
    assert result["step"]["ms"] > 0 and result["forward"]["ms"] > 0


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_real_shapes_have_the_papers_budgets_without_taking_memory(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "backbone" / f"{name}.yaml"))
    backbone = load_backbone(name, dtype="bfloat16", device="meta", weights="random", shape=config["shape"])
    family, (tokens, averages) = backbone.family, BUDGETS[name]
    plan = build_plan(load_pruner_config(CONF / "pruner" / "learnpruner.yaml", 0.2222), backbone)
    assert {p.device.type for p in [*backbone.model.parameters(), *plan.parameters()]} == {"meta"}
    assert family.tokens == tokens
    ratios = OmegaConf.load(CONF / "benchmark" / "speed.yaml").prune_ratios
    found = [with_budget(plan, ratio).tokens(tokens, family.layers)["averaged"] for ratio in ratios]
    assert found == pytest.approx(averages, abs=0.5)


def test_a_clock_starts_when_it_is_told():
    tell = train_step.start_timer(torch.device("cpu"))
    first, second = tell(), tell()
    assert 0 <= first["ms"] <= second["ms"] and first["peak_bytes"] == 0


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8, requires_grad=True)
    saved = train_step.SavedTensorBytes(layer.parameters())
    with saved:
        y = layer(x).sigmoid()  # keeps x for the layer's gradient and its own output
        z = (y * y).sum()  # keeps that output twice more
    assert saved.bytes == 2 * 4 * 8 * 4
    z.backward()
    assert layer.weight.grad is not None


def test_prompts_ask_in_the_benchmark_s_words(monkeypatch):
    class Polite(ScenesBenchmark):
        def wording(self, question):
            return f"please say {question}"

    asked = []
    monkeypatch.setattr(speed, "encode_prompts", lambda backbone, images, questions: asked.extend(questions))
    speed.LatencyTask(Polite()).prompts(SimpleNamespace(family=SimpleNamespace(quoted_side=None)), 2)
    assert asked == [f"please say {ScenesBenchmark()[i].question}" for i in range(2)]


def test_what_a_step_keeps_is_counted_without_the_backbone_s_weights(run, monkeypatch):
    known = []

    class Told(train_step.SavedTensorBytes):
        def __init__(self, weights=()):
            super().__init__(weights)
            known.append(len(self.known))

    monkeypatch.setattr(train_step, "SavedTensorBytes", Told)
    result = run("benchmark=train_step", "benchmark.images=1", "benchmark.warmup=0", "benchmark.repeats=1")
    assert known[0] == 0 < known[-1] and result["step"]["saved_bytes"] > 0


def test_the_measurement_gets_the_amount_and_the_clock_that_were_asked_for(monkeypatch):
    monkeypatch.setattr(speed.LatencyTask, "prompts", lambda self, backbone, size: f"{size} prompts")
    monkeypatch.setattr(speed, "time_plans", lambda *given: given)
    task = speed.LatencyTask(ScenesBenchmark(), [2, 3], [4], 1, 5, clock="cpu")
    found = task.batches(SimpleNamespace(model="model"), {"plan": None}, task.amount)
    for size, batch in zip((2, 3), found, strict=True):
        model, plans, inputs, lengths, *rest = batch["timings"]
        assert (batch["batch_size"], model, plans, inputs) == (size, "model", {"plan": None}, f"{size} prompts")
        assert list(lengths) == [4] and rest == [1, 5, CLOCKS["cpu"]] and CLOCKS["cpu"] is not CLOCKS["wall"]


def test_warm_up_steps_do_not_count(run, monkeypatch):
    def steps(self, backbone, plan, batch, count, folder):
        return [{part: {"ms": 10.0 * n, "peak_bytes": 0.0} for part in ("forward", "step")} for n in range(count)]

    monkeypatch.setattr(train_step.TrainStepTask, "steps", steps)
    monkeypatch.setattr(train_step, "train_step_table", lambda result: [["a"]])
    result = run("benchmark=train_step", "benchmark.images=1", "benchmark.warmup=3", "benchmark.repeats=2")
    assert result["step"]["ms"] == result["forward"]["ms"] == 35 and (result["warmup"], result["repeats"]) == (3, 2)
