"""Physical mode: dropping tokens changes what must change and nothing else."""

import pytest
import torch
from plans import KINDS, Norm, masked_reference, plan, real, text
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.core.selection import top_k_selection

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2), ids(1, after=11, seed=3)]


@torch.no_grad()
def logits(batch, with_plan=None, mode="physical", **options):
    if with_plan is None:
        return MODEL(**batch).logits, None
    with with_plan.on(MODEL, mode, **options) as engine:
        found = MODEL(**batch).logits
    return found, engine.record


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_keep_all_is_the_unmodified_model_bit_for_bit(kind, dtype):
    model, batch = tiny_llava(dtype=dtype), inputs(ROWS)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    with torch.no_grad():
        expected = model(**batch).logits
        with plan(kind, 1.0).on(model) as engine:
            found = model(**batch).logits
    assert torch.equal(found[real(batch)], expected[real(batch)])
    assert all((count == TOKENS).all() for count in engine.record.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_logits_differ_from_unpruned_ones(kind):
    batch = inputs(ROWS)
    found, _ = logits(batch, plan(kind, 0.5))
    expected, _ = logits(batch)
    with_image = (batch["input_ids"] == IMAGE).any(1)
    last = [(found[row] - expected[row])[real(batch)[row]][-1].abs().max() for row in range(len(ROWS))]
    assert all((change > 1e-2) == has for change, has in zip(last, with_image.tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_equals_masking_with_the_same_kept_sets(kind):
    batch, pruned = inputs(ROWS), plan(kind, 0.5)
    found, record = logits(batch, pruned)
    expected = masked_reference(MODEL, batch, record.cuts, record.alive)
    assert (found - expected)[text(batch)].abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_rows_alone(kind):
    batch, pruned = inputs(ROWS), plan(kind, 0.5)
    found, _ = logits(batch, pruned)
    first = 0
    for number, row in enumerate(ROWS):
        images = row.count(IMAGE) // TOKENS
        alone = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
        if images:
            alone["pixel_values"] = batch["pixel_values"][first : first + images]
        first += images
        expected, _ = logits(alone, pruned)
        assert (found[number][real(batch)[number]] - expected[0])[text(alone)[0]].abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_left_padding_equals_right_padding(kind, positions):
    left, right = inputs(ROWS), inputs(ROWS, "right")
    for batch in (left, right):  # generation counts positions like this; plain forward counts the padding too
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    a, _ = logits(left, plan(kind, 0.5, positions))
    b, _ = logits(right, plan(kind, 0.5, positions))
    assert (a[text(left)] - b[text(right)]).abs().max() < 1e-5


def test_text_alone_passes_untouched():
    batch = inputs([ids(0), ids(0, after=3)])
    found, record = logits(batch, plan())
    assert torch.equal(found, logits(batch)[0])
    assert record is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_keeps_its_budget(kind):
    pruned = plan(kind, 0.5)
    _, record = logits(inputs([ids(1), ids(1, seed=5, after=9)]), pruned)
    assert [count.tolist() for count in record.tokens] == [[c, c] for c in pruned.counts(TOKENS, 6)]
    assert record.averaged == pytest.approx(pruned.tokens(TOKENS, 6)["averaged"])
    for earlier, later in zip(record.kept, record.kept[1:], strict=False):
        assert not (later & ~earlier).any()


def test_with_several_images_in_a_row_a_later_budget_is_their_sum():
    pruned = plan("two", 0.25)
    _, record = logits(inputs([ids(2), ids(1, seed=4)]), pruned)
    first, second = pruned.counts(TOKENS, 6)
    assert record.tokens[0].tolist() == [first] * 3
    assert record.tokens[1][:2].sum() == 2 * second
    assert record.tokens[1][2] == second


def test_the_order_of_patches_is_the_order_of_the_record():
    """kept[i, j] is patch j of image i: the reference with only these placeholders gives the same logits."""
    batch = inputs([ids(2), ids(0), ids(1)])
    found, record = logits(batch, plan("encoder", 0.25))
    seen = batch["input_ids"] == IMAGE
    alive = real(batch).clone()
    alive[seen] = record.kept[0].flatten()
    assert (found - masked_reference(MODEL, batch, (0,), [alive]))[text(batch)].abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["two", "three"])
def test_compact_positions_number_what_is_left(kind):
    """Stage by stage: the same plan in masked mode gets the same positions from the same kept sets."""
    batch = inputs(ROWS)
    compact, record = logits(batch, plan(kind, 0.5, "compact"))
    masked, again = logits(batch, plan(kind, 0.5, "compact"), "masked")
    original, _ = logits(batch, plan(kind, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(record.alive, again.alive, strict=True))
    assert (compact - masked)[text(batch)].abs().max() < 1e-5
    assert (compact - original)[text(batch)].abs().max() > 1e-2


def test_compact_positions_equal_a_prompt_that_never_had_the_dropped_tokens():
    batch = inputs([ids(1)])
    found, record = logits(batch, plan("encoder", 0.25, "compact"))
    embeds = MODEL.get_input_embeddings()(batch["input_ids"])
    features = MODEL.get_image_features(batch["pixel_values"]).pooler_output[0]
    embeds = embeds.masked_scatter((batch["input_ids"] == IMAGE)[..., None], features)
    alive = record.alive[0][0]
    expected = MODEL(inputs_embeds=embeds[:, alive]).logits
    assert (found[:, alive] - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["inside", "three"])
def test_compact_positions_start_anew_at_every_cut(kind):
    """Layer by layer, from the rule: what is left at a cut is numbered from 0."""
    batch = inputs([ids(1)])
    found, record = logits(batch, plan(kind, 0.5, "compact"))
    lm, alive = MODEL.model.language_model, torch.ones_like(batch["input_ids"][0], dtype=torch.bool)
    x = MODEL.get_input_embeddings()(batch["input_ids"])
    features = MODEL.get_image_features(batch["pixel_values"]).pooler_output[0]
    x = x.masked_scatter((batch["input_ids"] == IMAGE)[..., None], features)
    for index, layer in enumerate(lm.layers):
        for cut, kept in zip(record.cuts, record.alive, strict=True):
            if cut == index:
                x, alive = x[:, kept[0][alive]], kept[0]
        rotary = lm.rotary_emb(x, torch.arange(x.shape[1])[None])
        x = layer(x, attention_mask=None, position_embeddings=rotary)
    assert (found[:, alive] - MODEL.lm_head(lm.norm(x))).abs().max() < 1e-5


def test_labels_give_the_loss_of_the_shorter_sequence():
    batch = inputs([ids(1)])
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100)
    with torch.no_grad(), plan("encoder").on(MODEL) as engine:
        found = MODEL(**batch, labels=labels)
    alive = engine.record.alive[0][0]
    shorter, following = found.logits[0, alive][:-1], labels[0, alive][1:]
    expected = torch.nn.functional.cross_entropy(shorter, following, ignore_index=-100)
    assert found.loss == pytest.approx(expected.item(), abs=1e-5)


def test_eager_attention_gives_the_same_result():
    batch = inputs(ROWS)
    model = tiny_llava(attention="eager")
    with torch.no_grad(), plan("two").on(model):
        found = model(**batch).logits
    assert (found - logits(batch, plan("two"))[0])[text(batch)].abs().max() < 1e-4


def test_the_projector_sees_kept_tokens_only():
    seen = []
    handle = MODEL.model.multi_modal_projector.linear_1.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].shape[1])
    )
    _, record = logits(inputs([ids(1)]), plan("encoder"))
    handle.remove()
    assert seen == record.tokens[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("at", ["encoder", 0, 2])
def test_the_cache_holds_what_an_adaptive_pruner_chose(at):
    """Each image keeps another count than the plan says; the guard knows, and a batch still equals its rows."""

    class Half(Norm):
        adaptive = True

        def forward(self, view, keep):
            return top_k_selection(self.score(view), keep // 2 + (self.score(view)[:, -1] > 5).long().cpu(), view.valid)

    model, rows = tiny_llava(), [ids(1), ids(2, seed=1), ids(1, seed=2, after=9)]
    batch, halved = inputs(rows), Plan([Stage(Half(), at)], 0.6)
    with halved.on(model) as engine:
        logits = model(**batch).logits
        engine.verify()
        assert int(engine.record.tokens[0].sum()) < 4 * halved.counts(TOKENS, 6)[0]
        images = [0, 1, 3, 4]
        for number, row in enumerate(rows):
            alone = {**inputs([row]), "pixel_values": batch["pixel_values"][images[number] : images[number + 1]]}
            assert torch.allclose(model(**alone).logits[0, -1], logits[number, -1], atol=1e-4)
            engine.verify()
