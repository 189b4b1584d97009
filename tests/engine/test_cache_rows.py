"""Whatever moves rows of a pruned cache moves what the session knows of them."""

import pytest
import torch
from families import FAMILIES, picture
from plans import plan
from tiny import ids, inputs, tiny_llava
from transformers import DynamicCache, StaticCache

from learnpruner.backbones import load_backbone

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2), ids(1, after=12, seed=3)]
MOVES = {
    "reordered": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 3, 1])), [2, 0, 3, 1]),
    "twice": (lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0, 2])), [1, 1, 0, 2]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2, 3, 3]),
    "selected": (lambda cache: cache.batch_select_indices(torch.tensor([3, 1])), [3, 1]),
}
CACHES = {
    "made": lambda: None,
    "dynamic": lambda: DynamicCache(),
    "static": lambda: StaticCache(config=MODEL.model.language_model.config, max_cache_len=160),
}


@torch.no_grad()
def steps(batch, order, cache, move=None):
    """Logits of three steps behind a prompt whose rows were moved after the first step."""
    mask, token = batch["attention_mask"], torch.full((len(ROWS), 1), 7)
    out, found = MODEL(**batch, past_key_values=cache), []
    cache = out.past_key_values
    for step in range(3):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        out = MODEL(input_ids=token + step, attention_mask=mask, past_key_values=cache)
        if step == 0:
            if move is not None:
                move(cache)
            mask, token = mask[order], token[order]
        found.append(out.logits if step else out.logits[order])
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", MOVES)
def test_moved_rows_go_on_as_they_were(name, positions, side):
    move, order = MOVES[name]
    batch, all_rows = inputs(ROWS, side), list(range(len(ROWS)))
    with plan("three", 0.5, positions).on(MODEL):
        moved = steps(batch, order, None, move)
        still = steps(batch, all_rows, None)
    for found, expected in zip(moved, still, strict=True):
        assert (found - expected[order]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["encoder", "two"])
@pytest.mark.parametrize("cache", CACHES)
def test_rows_of_every_kind_of_cache(cache, kind):
    move, order = MOVES["reordered"]
    batch = inputs(ROWS)
    with plan(kind, 0.5).on(MODEL):
        moved = steps(batch, order, CACHES[cache](), move)
        still = steps(batch, list(range(len(ROWS))), None)
    for found, expected in zip(moved, still, strict=True):
        assert (found - expected[order]).abs().max() < 1e-5


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_on_a_cache_of_the_callers_own(cache):
    """A first and a second turn on a cache that was made outside are those of the cache that the engine makes."""
    batch, turn = inputs(ROWS[:2]), torch.tensor([[11, 12, 13]]).expand(2, -1)
    found = []
    with plan("two", 0.5).on(MODEL):
        for given in (None, CACHES[cache]()):
            first = MODEL.generate(
                **batch, max_new_tokens=4, do_sample=False, past_key_values=given, return_dict_in_generate=True
            )
            ids_ = torch.cat([first.sequences, turn], 1)
            mask = torch.nn.functional.pad(
                batch["attention_mask"], (0, ids_.shape[1] - batch["input_ids"].shape[1]), value=1
            )
            second = MODEL.generate(
                input_ids=ids_,
                attention_mask=mask,
                past_key_values=first.past_key_values,
                max_new_tokens=4,
                do_sample=False,
            )
            found.append((first.sequences, second))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_a_pruned_cache_outside_of_its_plan_is_refused():
    batch, more = inputs([ids(1)]), {"input_ids": torch.tensor([[5]])}
    with plan("encoder", 0.5).on(MODEL):
        cache = MODEL(**batch).past_key_values
        expected = MODEL(**more, past_key_values=cache).logits
    with pytest.raises(ValueError, match=r"go on with it inside plan.on"):
        MODEL(**more, past_key_values=cache)
    cache.crop(-1)
    with plan("encoder", 0.5).on(MODEL):
        assert torch.equal(MODEL(**more, past_key_values=cache).logits, expected)
    cache.reset()
    MODEL(**more, past_key_values=cache)


@torch.no_grad()
def test_cutting_into_a_pruned_prompt_is_refused():
    batch = inputs([ids(1)])
    with plan("two", 0.5).on(MODEL):
        cache = MODEL(**batch).past_key_values
        MODEL(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)
        cache.crop(-2)
        with pytest.raises(ValueError, match="cut into a prompt"):
            cache.crop(-1)


@torch.no_grad()
def test_a_cache_that_was_reset_takes_the_next_picture():
    batch, other = inputs([ids(1)]), inputs([ids(2, seed=1)], seed=4)
    static = StaticCache(config=MODEL.model.language_model.config, max_cache_len=160)
    for cache in (DynamicCache(), static):
        with plan("two", 0.5).on(MODEL) as engine:
            expected = MODEL(**other).logits
            MODEL(**batch, past_key_values=cache)
            cache.reset()
            assert (MODEL(**other, past_key_values=cache).logits - expected).abs().max() < 1e-5
            engine.verify()


TURNS = [[[11, 12, 13], [14]], [[15], [17, 18, 19]], [[20], [21]]]


@torch.no_grad()
def conversation(batch, turns, cache):
    """Logits behind each of some further turns, whose rows differ in length; positions as `generate` counts them."""
    ids_, mask, found = batch["input_ids"], batch["attention_mask"], []
    for turn in [None, *turns]:
        if turn is not None:
            longest = max(map(len, turn))
            ids_ = torch.tensor([[0] * (longest - len(part)) + part for part in turn])
            mask = torch.cat([mask, (ids_ != 0).long()], 1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids_.shape[1] :]
        given = {"pixel_values": batch["pixel_values"]} if turn is None else {}
        out = MODEL(
            input_ids=ids_, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **given
        )
        cache = out.past_key_values
        found.append(out.logits[:, -1])
    return found


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("kind", ["encoder", "two"])
def test_padding_in_later_turns_counts_for_nothing(kind, positions, cache):
    """Rows of a conversation whose questions differ in length go on as each would alone."""
    rows = [ids(1), ids(2, seed=1)]
    batch = inputs(rows)
    with plan(kind, 0.5, positions).on(MODEL):
        found = conversation(batch, TURNS, CACHES[cache]())
        for number, row in enumerate(rows):
            alone = {**inputs([row]), "pixel_values": batch["pixel_values"][number : number + 1 + number]}
            expected = conversation(alone, [[turn[number]] for turn in TURNS], None)
            for mine, one in zip(found, expected, strict=True):
                assert (mine[number] - one[0]).abs().max() < 1e-5


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_generate_takes_padded_turns_on_every_kind_of_cache(positions, cache):
    """`generate` makes the mask of a static cache itself; the tokens are those of the cache that the engine makes."""
    batch, answers = inputs([ids(1), ids(2, seed=1)]), []
    with plan("two", 0.5, positions).on(MODEL):
        for given in (None, CACHES[cache]()):
            ids_, mask, said, pictures = batch["input_ids"], batch["attention_mask"], [], batch
            for turn in TURNS:
                out = MODEL.generate(
                    **{**pictures, "input_ids": ids_, "attention_mask": mask}, past_key_values=given, max_new_tokens=3,
                    do_sample=False, return_dict_in_generate=True, output_logits=True,
                )  # fmt: skip
                said += list(out.logits)
                longest = max(map(len, turn))
                more = torch.tensor([[0] * (longest - len(part)) + part for part in turn])
                mask = torch.cat([mask, mask.new_ones(2, 3), (more != 0).long()], 1)
                ids_, given, pictures = torch.cat([out.sequences, more], 1), out.past_key_values, {}
            answers.append(torch.stack(said))
    assert (answers[0] - answers[1]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_static_caches_of_families_whose_masks_are_mappings(name, tmp_path):
    """`generate` hands their language models a mask for each kind of layer: the tokens are those of a dynamic cache."""
    backbone = load_backbone(FAMILIES[name].save(tmp_path / name))
    asked = [{"type": "image"}, {"type": "text", "text": "what colour is the circle ?"}]
    text = backbone.processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
    batch = backbone.processor(images=[picture((48, 48))], text=text, return_tensors="pt")
    options = {"max_new_tokens": 5, "do_sample": False}
    with plan("two", 0.5).on(backbone.model) as engine:
        expected = backbone.model.generate(**batch, **options)
        assert torch.equal(backbone.model.generate(**batch, **options, cache_implementation="static"), expected)
        engine.verify()
