"""Validation while training: what it measures is what generation gives, and the training does not notice it."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image

from learnpruner.backbones import load_backbone
from learnpruner.core.relaxations import GumbelStraightThrough
from learnpruner.data.collate import Collate
from learnpruner.data.datamodule import PrunerData, SceneSource
from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.sample import hold_out
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.training.checkpointing import BestCheckpoint
from learnpruner.training.losses import default_loss
from learnpruner.training.metrics_file import make_metrics_logger
from learnpruner.training.pruner_module import PrunerLitModule
from learnpruner.training.trainer import make_trainer
from learnpruner.training.validation import HeldOutScores
from learnpruner.utils.errors import UserError
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def nano():
    return load_backbone("checkpoints/nano-llava")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny")))


def make_plan(backbone, ratio=0.2):
    torch.manual_seed(0)
    stages = [Stage(LearnedPruner(), "encoder", 3), Stage(TextAttention(), "12/32", 1)]
    return Plan(stages, ratio).prepare(backbone.family)


def generated(backbone, plan, samples):
    """How many questions are answered right by generation, one at a time."""
    right = 0
    for sample in samples:
        for question, answer in sample.turns:
            one = Collate(backbone.processor)([SimpleNamespace(image=sample.image, turns=[(question, answer)], id="")])
            asked = int(one.prompt_mask[0].nonzero().max()) + 1
            inputs = {"input_ids": one.input_ids[:, :asked], "pixel_values": one.pixel_values}
            expected = one.labels[0][one.labels[0] >= 0]
            with plan.on(backbone.model):
                made = backbone.model.generate(**inputs, max_new_tokens=len(expected), do_sample=False)
            made = made[0, asked:]
            right += len(made) == len(expected) and bool((made == expected).all())
    return right


def test_retention_is_that_of_generated_answers(nano):
    source, plan = hold_out(SceneSource(questions=6), 4), make_plan(nano, 0.02).eval()
    samples = [source.sample(i) for i in range(4)]
    assert all(sample.id.startswith("validation-") for sample in samples)
    scores = HeldOutScores()
    for number in range(2):
        scores.add(nano.model, plan, Collate(nano.processor)(samples[2 * number : 2 * number + 2]), number)
    found = scores.metrics(scores.sums)
    pruned, unpruned = generated(nano, plan, samples), generated(nano, Plan(), samples)
    assert 0 < pruned < unpruned
    assert found["val/accuracy"] == pytest.approx(pruned / 24)
    assert found["val/retention"] == pytest.approx(pruned / unpruned)


def trained(backbone, folder, callbacks=(), **settings):
    plan, source = make_plan(backbone), SceneSource(questions=2)
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = PrunerLitModule(backbone, plan, GumbelStraightThrough(), default_loss(), sgd, grad_tokens_per_image=8)
    data = PrunerData(source, backbone.processor, 1, held_out=hold_out(source, 4), validation_samples=4)
    settings = {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "max_steps": 6} | settings
    trainer = make_trainer(settings, callbacks, [make_metrics_logger(folder)], folder)
    torch.manual_seed(1)
    trainer.fit(module, data)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [row["loss"] for row in rows if row["loss"]]
    validated = [(int(row["step"]), float(row["val/loss"])) for row in rows if row.get("val/loss")]
    return trainer, losses, validated, torch.rand(3)


def test_a_training_does_not_notice_that_it_is_validated(tiny, tmp_path):
    folders = [tmp_path / name for name in ("without", "with")]
    for folder in folders:
        folder.mkdir()
    _, bare, never, draws = trained(tiny, folders[0])
    _, losses, validated, same = trained(tiny, folders[1], val_check_interval=2)
    assert losses == bare and len(bare) == 6 and torch.equal(draws, same)
    assert never == [] and [step for step, _ in validated] == [1, 3, 5]


def test_a_share_of_the_run_lies_between_validations_and_accumulated_batches_count(tiny, tmp_path):
    _, _, validated, _ = trained(tiny, tmp_path, val_check_interval=0.5, accumulate_grad_batches=2)
    assert [step for step, _ in validated] == [2, 5]


def test_the_best_checkpoint_is_kept_and_a_training_stops_early(tiny, tmp_path, monkeypatch):
    told = iter([0.5, 0.8, 0.7, 0.6, 0.9, 0.9])
    monkeypatch.setattr(HeldOutScores, "metrics", lambda self, sums: {"val/retention": next(told), "val/loss": 1.0})
    callbacks = [
        BestCheckpoint(dirpath=tmp_path / "checkpoints"),
        EarlyStopping("val/retention", mode="max", patience=2),
    ]
    trainer, losses, validated, _ = trained(tiny, tmp_path, callbacks, val_check_interval=1)
    assert len(losses) == len(validated) == trainer.global_step == 4
    (best,) = (tmp_path / "checkpoints").iterdir()
    assert best.name == "best.ckpt" and torch.load(best, weights_only=True)["global_step"] == 2


def test_a_callback_that_waits_for_validation_is_refused_without_it(tiny, tmp_path):
    with pytest.raises(UserError, match=r"EarlyStopping watches val/retention, .*trainer.val_check_interval=0.25"):
        make_trainer({"max_steps": 1}, [EarlyStopping("val/retention")], [], tmp_path)
    make_trainer({"max_steps": 1, "accelerator": "cpu"}, [BestCheckpoint()], [], tmp_path)


def test_without_a_right_answer_of_the_unpruned_model_there_is_no_retention():
    scores = HeldOutScores()
    assert set(scores.metrics(torch.tensor([[1.0, 4, 8, 2], [0, 4, 9, 2]]))) == {"val/accuracy", "val/loss"}


@pytest.fixture
def records(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "that"}] * 2
    held = [{"id": str(i), "image": "a.png", "conversations": turns} for i in range(20)]
    (tmp_path / "all.json").write_text(json.dumps(held))
    return tmp_path / "all.json"


def test_held_out_records_of_own_data_are_never_trained_on(records):
    source = LlavaJson(records, questions=1)
    held = hold_out(source, 5)
    apart = {held.sample(i).id for i in range(len(held))}
    assert 3 <= len(apart) <= 5 and len(held) == 2 * len(apart)
    assert {source.sample(i).id for i in range(3 * len(source))} == {str(i) for i in range(20)} - apart
    again = hold_out(LlavaJson(records, questions=1), 5)
    assert {again.sample(i).id for i in range(len(again))} == apart


def test_more_than_half_cannot_be_held_out_nor_anything_of_a_stream(records):
    with pytest.raises(UserError, match=r"validation\.samples=21 of 40 samples"):
        hold_out(LlavaJson(records, questions=1), 21)
    with pytest.raises(UserError, match="SimpleNamespace has no held-out samples"):
        hold_out(SimpleNamespace(), 5)
