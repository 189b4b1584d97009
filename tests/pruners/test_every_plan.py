"""Every plan in conf/pruner, whatever it is: a new file is tested without touching tests."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import TOKENS, ids, inputs, tiny_llava

import learnpruner
from learnpruner import Plan
from learnpruner.core.budget import InfeasibleBudget

FOLDER = Path(__file__).parents[2] / "conf" / "pruner"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MODEL = tiny_llava()
RATIOS = [0.06, 0.25, 0.5, 0.9, 1.0]


def make(name: str, ratio: float = 0.25) -> Plan:
    """The plan at this ratio, or at the smallest that it can have on the tiny model."""
    torch.manual_seed(0)
    config = OmegaConf.merge(OmegaConf.load(FOLDER / f"{name}.yaml"), {})
    plan = instantiate(OmegaConf.merge({"prune_ratio": ratio}, {"pruner": config})).pruner
    assert isinstance(plan, Plan)
    try:
        plan.counts(TOKENS, 6)
    except InfeasibleBudget as error:
        assert error.smallest > ratio
        return make(name, error.smallest)
    return plan.eval()


@torch.no_grad()
def run(plan, batch, model=MODEL):
    with plan.on(model) as engine:
        logits = model(**batch).logits
    return logits, engine.record


every = pytest.mark.parametrize("name", NAMES)


@every
@pytest.mark.parametrize("ratio", RATIOS)
def test_it_keeps_the_right_count_for_every_budget(name, ratio):
    plan = make(name, ratio)
    _, record = run(plan, inputs([ids(1), ids(1, seed=1)]))
    for kept, selection, count in zip(record.kept, record.selections, plan.counts(TOKENS, 6), strict=True):
        assert kept.sum(1).tolist() == [count, count]
        assert selection.index.shape == (2, count)


@every
def test_it_keeps_tokens_in_reading_order(name):
    _, record = run(make(name), inputs([ids(1), ids(2, seed=1)]))
    for selection in record.selections:
        valid = torch.ones_like(selection.index, dtype=torch.bool) if selection.valid is None else selection.valid
        for index, real in zip(selection.index, valid, strict=True):
            kept = index[real].tolist()
            assert kept == sorted(set(kept))


@every
def test_a_batch_of_8_equals_eight_singles(name):
    """The tokens kept, and the logits of the last position."""
    plan, rows = make(name), [ids(1, after=4 + seed % 4, seed=seed) for seed in range(8)]
    batch = inputs(rows)
    logits, together = run(plan, batch)
    for number, row in enumerate(rows):
        alone = {**inputs([row]), "pixel_values": batch["pixel_values"][number : number + 1]}
        single, record = run(plan, alone)
        assert all(torch.equal(a[number], b[0]) for a, b in zip(together.kept, record.kept, strict=True))
        assert (logits[number, -1] - single[0, -1]).abs().max() < 1e-4


@every
def test_ties_still_give_the_right_count(name):
    """A picture of one colour: all tokens alike but for their position."""
    plan, batch = make(name), inputs([ids(1)])
    batch["pixel_values"] = torch.zeros_like(batch["pixel_values"])
    _, record = run(plan, batch)
    assert [int(count) for count in record.tokens] == list(plan.counts(TOKENS, 6))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_works_in_half_precision(name, dtype):
    model, plan = tiny_llava(dtype=dtype), make(name)
    batch = inputs([ids(1), ids(2, seed=1)])
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    logits, record = run(plan, batch, model)
    assert logits.isfinite().all()
    first, *second = record.tokens[0].tolist()  # inside the LLM, images of a row share its budget
    assert [first, sum(second)] == [plan.counts(TOKENS, 6)[0], 2 * plan.counts(TOKENS, 6)[0]]


@every
def test_it_works_in_generate_and_changes_something(name):
    batch = inputs([ids(1, seed=seed) for seed in range(3)])
    with make(name).on(MODEL) as engine:
        found = MODEL.generate(**batch, max_new_tokens=6)
        engine.verify()
    assert not torch.equal(found, MODEL.generate(**batch, max_new_tokens=6))


@every
def test_it_keeps_the_same_tokens_in_masked_mode(name):
    batch, plan = inputs([ids(1), ids(2, seed=1)]), make(name)
    logits, record = run(plan, batch)
    with torch.no_grad(), plan.on(MODEL, "masked") as engine:
        masked = MODEL(**batch).logits
    assert all(torch.equal(a, b) for a, b in zip(record.kept, engine.record.kept, strict=True))
    assert (logits - masked)[batch["attention_mask"].bool()].abs().max() < 1e-5


@every
def test_it_survives_being_saved(name, tmp_path):
    batch, plan = inputs([ids(1)]), make(name)
    logits, _ = run(plan, batch)
    assert torch.equal(run(learnpruner.load(plan.save(tmp_path / "plan")), batch)[0], logits)


@every
def test_it_opens_with_a_comment_that_says_what_it_is(name):
    assert (FOLDER / f"{name}.yaml").read_text().startswith("# ")


@every
def test_a_batch_of_eight_generates_what_eight_singles_do(name):
    plan, rows = make(name), [ids(1, seed=seed, after=4 + seed) for seed in range(8)]
    batch = inputs(rows)
    with plan.on(MODEL) as engine:
        together = MODEL.generate(**batch, max_new_tokens=4)[:, -4:]
        engine.verify()
        for number, row in enumerate(rows):
            alone = {**inputs([row]), "pixel_values": batch["pixel_values"][number : number + 1]}
            assert torch.equal(MODEL.generate(**alone, max_new_tokens=4)[0, -4:], together[number])
