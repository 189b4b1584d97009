"""`generate` under a plan: the same tokens as recomputation, in every mode that Hugging Face offers."""

import copy

import pytest
import torch
from plans import KINDS, masked_reference, plan
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava
from transformers import DynamicCache, GenerationConfig

from learnpruner.engine.cache import physical_lengths
from learnpruner.engine.prompt import question_rows

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2)]
NEW = 6


def generate(batch, with_plan=None, **options):
    """New tokens, and the engine."""
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    if with_plan is None:
        return MODEL.generate(**batch, **options)[:, batch["input_ids"].shape[1] :], None
    with with_plan.on(MODEL) as engine:
        found = MODEL.generate(**batch, **options)
    return found[:, batch["input_ids"].shape[1] :], engine


@torch.no_grad()
def recomputed(batch, record, steps=NEW):
    """Greedy decoding without a cache, at full length, with the kept sets of `record` frozen."""
    batch, alive, new = dict(batch), list(record.alive), []
    for _ in range(steps):
        last = masked_reference(MODEL, batch, record.cuts, alive)[:, -1].argmax(-1, keepdim=True)
        new.append(last)
        batch["input_ids"] = torch.cat([batch["input_ids"], last], 1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(last)], 1)
        alive = [torch.cat([mask, torch.ones_like(last).bool()], 1) for mask in alive]
    return torch.cat(new, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_equals_recomputation(kind):
    batch = inputs(ROWS)
    found, engine = generate(batch, plan(kind, 0.5))
    assert torch.equal(found, recomputed(batch, engine.record))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_cached_decoding_equals_masked_recomputation(kind, positions):
    """The other way round: no cache, nothing dropped, the question's rows held fixed while the answer grows."""
    batch, pruned = inputs(ROWS), plan(kind, 0.5, positions)
    found, _ = generate(batch, pruned)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    asked = question_rows(batch["input_ids"] == IMAGE, batch["attention_mask"].bool(), None)
    new = []
    with pruned.on(MODEL, "masked") as engine:
        for _ in range(NEW):
            engine.query_rows(torch.nn.functional.pad(asked, (0, len(new))))
            new.append(MODEL(**batch).logits[:, -1].argmax(-1, keepdim=True))
            batch = {
                **batch,
                "input_ids": torch.cat([batch["input_ids"], new[-1]], 1),
                "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1),
                "position_ids": torch.cat([batch["position_ids"], batch["position_ids"][:, -1:] + 1], 1),
            }
    assert torch.equal(found, torch.cat(new, 1))


def test_pruning_changes_what_is_generated():
    batch = inputs([ids(1, seed=seed) for seed in range(4)])
    assert not torch.equal(generate(batch, plan("two"))[0], generate(batch)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_keep_all_generates_as_the_unmodified_model(kind, options):
    batch = inputs(ROWS)
    assert torch.equal(generate(batch, plan(kind, 1.0), **options)[0], generate(batch, **options)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_batch_generates_as_its_rows_alone(kind, positions):
    batch, pruned = inputs(ROWS), plan(kind, 0.5, positions)
    found, _ = generate(batch, pruned)
    first = 0
    for number, row in enumerate(ROWS):
        alone = inputs([row])
        if "pixel_values" in alone:
            alone["pixel_values"] = batch["pixel_values"][first : first + len(alone["pixel_values"])]
            first += len(alone["pixel_values"])
        assert torch.equal(found[number], generate(alone, pruned)[0][0])


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["padded", "unpadded"])
def test_static_cache_equals_dynamic(rows, positions):
    batch, pruned = inputs(rows), plan("two", 0.5, positions)
    expected, _ = generate(batch, pruned)
    assert torch.equal(generate(batch, pruned, cache_implementation="static")[0], expected)


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_prompt_lookup_equals_greedy(kind, positions):
    row = ids(1, after=4) + [7, 8, 9, 7, 8]  # an end that was seen before, so that candidates exist at once
    batch, pruned = inputs([row]), plan(kind, 0.5, positions)
    expected, _ = generate(batch, pruned, max_new_tokens=12)
    assert torch.equal(generate(batch, pruned, max_new_tokens=12, prompt_lookup_num_tokens=3)[0], expected)


def test_one_beam_in_a_beam_search_of_one_row_or_many():
    batch, pruned = inputs(ROWS), plan("two", 0.5)
    found, engine = generate(batch, pruned, num_beams=3)
    assert engine.record.kept[0].shape == (3, TOKENS)
    row = generate({**inputs(ROWS[:1]), "pixel_values": batch["pixel_values"][:1]}, pruned, num_beams=3)[0]
    assert torch.equal(found[0], row[0])


def test_several_returned_sequences_start_from_the_same_prefill():
    batch = inputs(ROWS)
    torch.manual_seed(1)
    found, _ = generate(batch, plan("two"), do_sample=True, num_return_sequences=2)
    assert found.shape == (2 * len(ROWS), NEW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_every_layers_cache_holds_its_budget(kind, static):
    pruned, rows = plan(kind, 0.5), [ids(1), ids(2, seed=1)]
    options = {"cache_implementation": "static"} if static else {}
    _, engine = generate(inputs(rows), pruned, **options)
    engine.verify()
    counts, words = pruned.counts(TOKENS, 6), len(rows[1]) - 2 * TOKENS
    active = [[TOKENS, *counts][sum(cut <= layer for cut in pruned.cuts(6))] for layer in range(6)]
    assert engine.record.budget == [words + 2 * count for count in active]
    assert engine.record.cached == engine.record.budget


@pytest.mark.parametrize("layers", [range(6), *[[layer] for layer in range(6)]], ids=str)
def test_verify_notices_pruning_that_did_nothing(layers):
    """In all layers, or in one alone."""
    _, engine = generate(inputs(ROWS), plan("two"))
    engine.verify()
    engine.record.cached = [len(ROWS[1]) if i in layers else length for i, length in enumerate(engine.record.cached)]
    with pytest.raises(RuntimeError, match="the plan promises"):
        engine.verify()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reattached", [False, True])
def test_a_second_text_turn_continues_a_pruned_cache(kind, reattached):
    batch, pruned = inputs(ROWS), plan(kind, 0.5)
    with pruned.on(MODEL) as engine:
        first = MODEL.generate(**batch, max_new_tokens=NEW, return_dict_in_generate=True)
        record = engine.record
        again = second_turn(first, batch) if not reattached else None
    if reattached:
        with pruned.on(MODEL):
            again = second_turn(first, batch)
    ids_, mask, found = again
    extra = ids_.shape[1] - batch["input_ids"].shape[1]
    record.alive = [torch.nn.functional.pad(alive, (0, extra), value=True) for alive in record.alive]
    whole = {**batch, "input_ids": ids_, "attention_mask": mask}
    assert torch.equal(found, recomputed(whole, record, steps=4))


def second_turn(first, batch):
    turn = torch.tensor([[11, 12, 13, 14]]).expand(len(ROWS), -1)
    ids_ = torch.cat([first.sequences, turn], 1)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, ids_.shape[1] - batch["input_ids"].shape[1]), value=1)
    cache = first.past_key_values
    out = MODEL.generate(input_ids=ids_, attention_mask=mask, past_key_values=cache, max_new_tokens=4)
    return ids_, mask, out[:, ids_.shape[1] :]


def test_a_copied_cache_serves_two_continuations():
    batch, pruned = inputs(ROWS), plan("two")
    with pruned.on(MODEL):
        first = MODEL.generate(**batch, max_new_tokens=NEW, return_dict_in_generate=True)
        fork = copy.deepcopy(first.past_key_values)
        one = second_turn(first, batch)[2]
        first.past_key_values = fork
        two = second_turn(first, batch)[2]
    assert torch.equal(one, two)


@torch.no_grad()
@pytest.mark.parametrize("own_cache", [False, True])
def test_a_loop_of_forward_calls_equals_generate(own_cache):
    batch, pruned = inputs([ids(1)]), plan("two")
    expected, _ = generate(batch, pruned)
    cache = DynamicCache(config=MODEL.model.language_model.config) if own_cache else None
    with pruned.on(MODEL):
        out, new = MODEL(**batch, past_key_values=cache), []
        for _ in range(NEW):
            new.append(out.logits[:, -1].argmax(-1, keepdim=True))
            out = MODEL(input_ids=new[-1], past_key_values=out.past_key_values)
    assert torch.equal(torch.cat(new, 1), expected)
    assert physical_lengths(out.past_key_values, 6)[-1] == len(ids(1)) - TOKENS + pruned.counts(TOKENS, 6)[1] + NEW


def test_generation_config_and_positional_ids_are_understood():
    batch, pruned = inputs(ROWS), plan("two")
    expected, _ = generate(batch, pruned)
    words = batch.pop("input_ids")
    with pruned.on(MODEL):
        found = MODEL.generate(words, GenerationConfig(max_new_tokens=NEW, pad_token_id=0), **batch)
    assert torch.equal(found[:, words.shape[1] :], expected)


def test_text_prompts_generate_untouched():
    batch = inputs([ids(0), ids(0, after=3)])
    assert torch.equal(generate(batch, plan("two"))[0], generate(batch)[0])


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_eager_attention_generates_the_same(positions):
    batch, pruned = inputs(ROWS), plan("two", 0.5, positions)
    expected, _ = generate(batch, pruned)
    eager = tiny_llava(attention="eager")
    with pruned.on(eager):
        found = eager.generate(**batch, max_new_tokens=NEW)
    assert torch.equal(found[:, -NEW:], expected)


@torch.no_grad()
@pytest.mark.parametrize("images", [0, 1])
def test_a_cache_that_was_reset_starts_anew(images):
    pruned, cache = plan("two"), DynamicCache(config=MODEL.model.language_model.config)
    batch = inputs([ids(images, seed=3)])
    expected, _ = generate(batch, pruned)
    with pruned.on(MODEL):
        MODEL(**inputs(ROWS[:1]), past_key_values=cache)
        cache.reset()
        found = MODEL.generate(**batch, past_key_values=cache, max_new_tokens=NEW)
    assert torch.equal(found[:, -NEW:], expected)
