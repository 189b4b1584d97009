"""Training retention gates: what is read, what learns, and train.py and eval.py around it."""

import csv
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eval as evaluation
import train
from learnpruner import Plan, Stage
from learnpruner import kv_eviction as kv
from learnpruner.backbones import load_backbone
from learnpruner.data.datamodule import SceneSource
from learnpruner.kv_eviction.conversation_data import TranscriptCollate, follow_up, render_conversation
from learnpruner.kv_eviction.eviction import Eviction
from learnpruner.kv_eviction.fading_attention import fading_attention
from learnpruner.kv_eviction.lit_module import KVGateLitModule, conversation_forward
from learnpruner.kv_eviction.policies.streaming_llm import StreamingLLM
from learnpruner.kv_eviction.policies.trimkv import MakeEachTokenCount, TrimKV
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.pruners.uniform import UniformPruner
from learnpruner.training.forward import teacher_forward
from learnpruner.training.losses import default_loss
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def backbone(place):
    return load_backbone(place / "tiny")


@pytest.fixture(scope="module")
def batch(backbone):
    return TranscriptCollate(backbone.processor)([SceneSource(questions=3).sample(i) for i in range(2)])


def lit(backbone, policy=None, **settings):
    torch.manual_seed(0)
    eviction = Eviction(policy or TrimKV(8), 10, 4).prepare(backbone.family)
    made = KVGateLitModule(backbone, eviction, default_loss(), partial(torch.optim.SGD, lr=0.1), **settings)
    made.log_dict = lambda *_, **__: None
    return made


# -- data ------------------------------------------------------------------------------------------------------------


def test_a_transcript_holds_the_turns_behind_each_other(backbone, batch):
    tokenizer = backbone.processor.tokenizer
    for image in range(2):
        ids = batch.whole[image][batch.present[image].bool()]
        text = tokenizer.decode(ids[ids != backbone.processor.image_token_id])
        turns = SceneSource(questions=3).sample(image).turns
        words = " ".join(f"USER: {q.replace('?', ' ?')} ASSISTANT: {a} </s>" for q, a in turns)
        assert text.split() == f"<s> {words}".split()
    rows, columns = batch.predicts.unbind(1)
    own_rows, own_columns = batch.answers.unbind(1)
    assert torch.equal(batch.whole[rows, columns + 1], batch.labels[own_rows, own_columns + 1])
    assert torch.equal(rows, batch.image_index[own_rows])


def test_a_follow_up_is_what_the_template_puts_between_answers(backbone):
    turns = [("is there a red square?", "yes"), ("where is it?", "top left")]
    text, spans = render_conversation(backbone.processor, turns)
    assert text[slice(*spans[0])].strip() == "yes</s>"
    assert text[slice(*spans[1])].strip() == "top left</s>"
    assert text[spans[0][1] : spans[1][0]] == follow_up(backbone.processor, turns[1][0])


def test_a_template_that_rewrites_earlier_turns_is_refused(backbone):
    class Rewriting:
        tokenizer = backbone.processor.tokenizer

        def apply_chat_template(self, messages, **_):
            return f"{len(messages)} messages"

    with pytest.raises(ValueError, match="rewrites earlier turns"):
        render_conversation(Rewriting(), [("a", "b"), ("c", "d")])


# -- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["logits", "weights"])
@pytest.mark.parametrize("prefix", [True, False])
def test_gates_that_never_forget_are_the_unmodified_model(backbone, batch, form, prefix):
    policy = TrimKV(8, form=form)
    policy.prepare(48, 8, 4)
    for out in policy.out:
        torch.nn.init.constant_(out.bias, 60.0)
    given = batch if prefix else type(batch)(**{**vars(batch), "prefix": 0})
    with torch.no_grad():
        expected = conversation_forward(backbone.model, type(batch)(**{**vars(batch), "prefix": 0}))
        with fading_attention(backbone.family, policy):
            found = conversation_forward(backbone.model, given)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.targets, expected.targets)


def test_a_conversation_answers_as_its_first_turns_alone(backbone, batch):
    """The first turn of a transcript has nothing before it."""
    with torch.no_grad():
        whole, single = conversation_forward(backbone.model, batch), teacher_forward(backbone.model, batch)
    first = torch.isin(batch.answers[:, 0], batch.first_rows)
    torch.testing.assert_close(whole.logits[first], single.logits[first], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole.logits[~first], single.logits[~first], atol=1e-2)


@torch.no_grad()
def test_the_image_is_read_unfaded_and_what_follows_sees_it_fade(backbone, batch):
    """A plain forward with hooks that multiply the attention weights of rows behind the image."""
    model = backbone.model
    policy = TrimKV(8, form="weights")
    policy.prepare(48, 8, 4)
    for out in policy.out:
        torch.nn.init.constant_(out.bias, 2.0)
    with fading_attention(backbone.family, policy) as log_decays:
        found = conversation_forward(model, batch)
    length, start = batch.whole.shape[1], batch.prefix
    assert all(one.shape == (2, 4, length - start, length) for one in log_decays)
    order = torch.arange(length)
    causal = order[:, None] >= order

    def faded(index):
        def hook(module, args, kwargs):
            log_beta = policy.mark(index, kwargs["hidden_states"])
            bias = (order[:, None] - order) * log_beta[:, :, None]
            bias[:, :, :start] = 0
            return args, {**kwargs, "attention_mask": bias.masked_fill(~causal, torch.finfo(bias.dtype).min)}

        return hook

    layers = backbone.family.language_model.layers
    hooks = [layer.self_attn.register_forward_pre_hook(faded(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        expected = conversation_forward(model, type(batch)(**{**vars(batch), "prefix": 0}))
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", [TrimKV(8), MakeEachTokenCount(8), TrimKV(8, form="weights")])
@pytest.mark.parametrize("taught_by", ["turn", "transcript"])
def test_gradient_reaches_every_gate_and_nothing_else(backbone, batch, policy, taught_by):
    module = lit(backbone, policy, teacher=taught_by)
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())
    assert all(p.grad is None for p in backbone.model.parameters())
    assert {name.split(".")[0] for name in module.state_dict()} == {"eviction"}


def test_a_teacher_with_the_same_transcript_agrees_with_gates_that_are_open(backbone, batch):
    module = lit(backbone, capacity_weight=0.0, teacher="transcript")
    assert float(module.training_step(batch, 0).detach()) < 1e-3


def test_training_leaves_no_trace_and_refuses_a_watching_plan(backbone, batch):
    attention = backbone.family.language_model.layers[0].self_attn
    config = attention.config
    lit(backbone).training_step(batch, 0)
    assert attention.config is config
    assert not attention._forward_pre_hooks
    watching = Plan([Stage(TextAttention(), 3)], 0.8)
    with pytest.raises(ValueError, match="carries a plan"), watching.on(backbone.model):
        lit(backbone).training_step(batch, 0)
    assert attention.config is config


def test_a_policy_without_gates_is_refused(backbone):
    with pytest.raises(ValueError, match="no gates to train"):
        lit(backbone, StreamingLLM(1))
    with pytest.raises(ValueError, match="teacher='book'"):
        lit(backbone, teacher="book")


# -- the programs ----------------------------------------------------------------------------------------------------

SMALL = [
    "backbone.path=tiny",
    "benchmark.limit=3",
    "benchmark.batch_size=2",
    "benchmark.source.questions=3",
    "benchmark.budgets=[12,24]",
    "benchmark.evict_interval=4",
]
TRAIN = [
    "experiment=kv",
    "logger=csv",
    "callbacks.progress=false",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "data.images_per_batch=1",
    "data.questions_per_image=3",
    "benchmark.baselines_to_run=[recent]",
]


@pytest.fixture
def run(place, monkeypatch):
    """Runs train.py or eval.py with a command line; returns the run's folder."""
    monkeypatch.chdir(place)

    def call(program, *arguments):
        name = f"run{len(list(place.glob('logs/*')))}"
        own = TRAIN if program is train else ["device=cpu"]
        monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *own, *SMALL, f"name={name}", *arguments])
        program.main()
        (folder,) = place.glob(f"logs/{name}/*/*")
        return folder

    return call


def losses(folder):
    return [(row["step"], row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row.get("loss")]


@pytest.mark.parametrize("gates", ["trimkv", "make_each_token_count"])
def test_gates_train_resume_and_reload(gates, run, place, monkeypatch):
    settings = [f"kv_eviction={gates}", "callbacks.checkpoint.every_n_train_steps=1", "trainer.max_steps=3"]
    whole = run(train, *settings)

    def stop(self, _, index):
        if index == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(KVGateLitModule, "on_train_batch_start", stop)
        run(train, *settings)
    broken = max(Path("logs").glob("*/runs/*"), key=lambda path: path.stat().st_mtime)
    last = broken / "checkpoints" / "last.ckpt"
    assert {key.split(".")[0] for key in torch.load(last, weights_only=True)["state_dict"]} == {"eviction"}
    resumed = run(train, *settings, f"ckpt_path={last}")
    assert losses(resumed) == losses(whole)[2:] and len(losses(whole)) == 3
    one, other = (load_file(folder / "export" / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    loaded = kv.load_eviction(whole / "export")
    assert (loaded.budget, loaded.evict_interval) == (64, 16)
    copy = place / "checkpoints" / f"{whole.parts[-3]}-b64-{whole.name}"
    assert (copy / "model.safetensors").is_file()
    rows = json.loads((whole / "results.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"each question alone", "whole cache", "recent", "trained"}


def test_the_table_has_a_row_for_each_policy_and_budget_alone_and_on_a_plan(run, place, backbone):
    plan = Plan([Stage(UniformPruner(), "encoder")], 0.5).prepare(backbone.family)
    plan.save(place / "plan", "tiny")
    folder = run(evaluation, "benchmark=kv", f"plan={place / 'plan'}", "benchmark.baselines_to_run=[recent]")
    rows = json.loads((folder / "results.json").read_text())["rows"]
    known = [("each question alone", None), ("whole cache", None), ("recent", 12), ("recent", 24)]
    assert [(row["plan"], row["policy"], row["budget"]) for row in rows] == [
        (name, *one) for name in ("none", "plan") for one in known
    ]
    assert rows[0]["accuracy"] == rows[1]["separate"]
    assert rows[0]["agreement"] == 1
    assert rows[0]["retention"]["value"] == (1 if rows[0]["accuracy"] else None)
    held = {(row["plan"], row["budget"]): row["kv_bytes"] for row in rows if row["kv_bytes"]}
    assert held["none", 12] < held["none", 24] < held["plan", None] < held["none", None]
    report = (folder / "report.md").read_text().splitlines()
    assert len(report) == 2 + len(rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kv_eviction.budget=0"], "kv_eviction.budget is 0"),
        (["kv_eviction.teacher=book"], "kv_eviction.teacher is 'book'"),
        (["benchmark=scenes"], "benchmark=kv"),
        (["benchmark.baselines_to_run=[newest]"], "newest"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, run, capsys):
    plain = [one for one in SMALL if arguments[0] != "benchmark=scenes" or "benchmark" not in one]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys.modules[__name__], "SMALL", plain)
        patch.setattr(
            sys.modules[__name__], "TRAIN", [one for one in TRAIN if plain is SMALL or "baselines_to_run" not in one]
        )
        run(train, "trainer.max_steps=1", *arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and words in said[0]
