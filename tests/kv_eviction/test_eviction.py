"""Eviction on an unmodified model: what it keeps, what it computes, and that it leaves no trace."""

import copy

import pytest
import torch
from plans import KINDS, plan
from tiny import LAYERS, TOKENS, ids, inputs, tiny_llava
from transformers import DynamicCache

from learnpruner.backbones import family_of
from learnpruner.kv_eviction import Eviction, load_eviction
from learnpruner.kv_eviction.cache import _SLOT_TENSORS, EvictingLayer
from learnpruner.kv_eviction.policies.random import RandomEviction, hash_uniform
from learnpruner.kv_eviction.policies.streaming_llm import StreamingLLM
from learnpruner.kv_eviction.policies.trimkv import MakeEachTokenCount, TrimKV
from tests.kv_eviction.loop import Fading, Loop

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2)]
NEW, HEADS = 8, 2
POLICIES = {
    "recent": StreamingLLM,
    "spread": lambda: RandomEviction(3),
    "head": Fading,
    "cache": lambda: Fading("cache"),
    "gates": lambda: TrimKV(16),
    "global gates": lambda: MakeEachTokenCount(16),
}


def generate(batch, eviction=None, model=MODEL, **options):
    """New tokens, and the cache."""
    options = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, **options}
    if eviction is None:
        out = model.generate(**batch, **options)
    else:
        with eviction.on(model) as engine:
            out = model.generate(**batch, **options)
            out.evictions = engine.evictions
    out.new = out.sequences[:, batch["input_ids"].shape[1] :]
    return out


def loop(batch, eviction, model=MODEL):
    """Logits of cached greedy decoding by plain calls of the model, (B, NEW, V)."""
    cache, given, found = DynamicCache(config=model.model.language_model.config), dict(batch), []
    given["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), eviction.on(model):
        for _ in range(NEW):
            found.append(model(**given, past_key_values=cache).logits[:, -1])
            mask = torch.nn.functional.pad(given["attention_mask"], (0, 1), value=1)
            given = {
                "input_ids": found[-1].argmax(-1)[:, None],
                "attention_mask": mask,
                "position_ids": given["position_ids"][:, -1:] + 1,
            }
    return torch.stack(found, 1), cache


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_a_budget_that_holds_everything_is_the_unmodified_model(make, options):
    batch, everything = inputs(ROWS), Eviction(make(), 200, 1).prepare(family_of(MODEL))
    torch.manual_seed(1)
    expected = generate(batch, output_logits=True, **options)
    torch.manual_seed(1)
    found = generate(batch, everything, output_logits=True, **options)
    assert torch.equal(found.new, expected.new)
    assert all(torch.equal(a, b) for a, b in zip(found.logits, expected.logits, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("kind", "sinks"), [("recent", 4), ("head", None), ("cache", None)])
def test_evicting_equals_masking_in_a_plain_loop(kind, sinks, every, attention):
    model = MODEL if attention == "sdpa" else tiny_llava(attention="eager")
    batch = inputs(ROWS)
    reference = Loop(model, 20, every, "cache" if kind == "cache" else "head", sinks)
    expected = reference.run(batch, NEW)
    found, cache = loop(batch, Eviction(POLICIES[kind](), 20, every), model)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    for layer, rows in zip(cache.layers, reference.alive, strict=True):
        for b, row in enumerate(rows):
            for g, columns in enumerate(row):
                assert layer.column[b, g][layer.valid[b, g]].tolist() == columns


def test_evicting_changes_what_is_generated():
    batch = inputs(ROWS)
    assert not torch.equal(generate(batch, Eviction(Fading(), 8, 1)).new, generate(batch).new)


@pytest.mark.parametrize("budget", [5, 20, 40])
def test_every_layer_and_head_holds_its_budget(budget):
    out = generate(inputs(ROWS[:1]), Eviction(Fading(), budget, 1))
    assert out.evictions == NEW
    for layer in out.past_key_values.layers:
        assert isinstance(layer, EvictingLayer)
        assert layer.keys.shape == layer.values.shape == (1, HEADS, budget, 16)
        assert layer.valid.sum(-1).tolist() == [[budget] * HEADS]
        assert layer.get_seq_length() == len(ROWS[0]) + NEW - 1


def test_one_budget_for_the_whole_cache_is_spread_unevenly():
    layers = generate(inputs(ROWS[:2]), Eviction(Fading("cache"), 15, 1)).past_key_values.layers
    counts = torch.stack([layer.valid.sum(-1) for layer in layers])  # (layers, B, G)
    assert counts.sum((0, 2)).tolist() == [15 * LAYERS * HEADS] * 2
    assert counts.unique().numel() > 2
    assert [layer.held for layer in layers] == counts.amax((1, 2)).tolist()


def test_between_evictions_a_head_holds_the_new_tokens_too():
    eviction, batch = Eviction(Fading(), 20, 4), inputs(ROWS[:1])
    held = [generate(batch, eviction, max_new_tokens=n).past_key_values.layers[0].held for n in range(1, 10)]
    assert held == [20, 21, 22, 23, 20, 21, 22, 23, 20]


def test_a_recent_window_keeps_sinks_and_the_newest():
    layer = generate(inputs(ROWS[:1]), Eviction(StreamingLLM(2), 6, 1)).past_key_values.layers[3]
    last = len(ROWS[0]) + NEW - 2
    assert layer.column[0, 0].tolist() == [0, 1, last - 3, last - 2, last - 1, last]


def test_a_spread_keeps_the_newest_and_another_even_sample_in_each_head():
    cache = generate(inputs(ROWS[:1]), Eviction(RandomEviction(4), 20, 1)).past_key_values
    last = len(ROWS[0]) + NEW - 2
    kept = {tuple(head.tolist()) for layer in cache.layers for head in layer.column[0]}
    assert len(kept) == LAYERS * HEADS
    assert all(head[-4:] == tuple(range(last - 3, last + 1)) for head in kept)
    first = generate(inputs(ROWS[:1]), Eviction(RandomEviction(4), 20, 1), max_new_tokens=1).past_key_values.layers[0]
    assert set(cache.layers[0].column[0, 0].tolist()) - set(range(last - NEW - 3, last + 1)) <= set(
        first.column[0, 0].tolist()
    )
    chances = hash_uniform(torch.arange(4000), torch.tensor(3))
    assert chances.histc(10, 0, 1).sub(400).abs().max() < 80
    assert torch.corrcoef(torch.stack([chances, hash_uniform(torch.arange(4000), torch.tensor(4))]))[0, 1].abs() < 0.06


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_a_batch_with_left_padding_generates_as_its_rows_alone(make, options):
    batch, eviction = inputs(ROWS), Eviction(make(), 14, 2)
    eviction.prepare(family_of(MODEL))
    found, first = generate(batch, eviction, **options).new, 0
    for number, row in enumerate(ROWS):
        alone = inputs([row])
        if "pixel_values" in alone:
            alone["pixel_values"] = batch["pixel_values"][first : first + len(alone["pixel_values"])]
            first += len(alone["pixel_values"])
        assert torch.equal(found[number], generate(alone, eviction, **options).new[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_plan_and_an_eviction_compose_in_any_order(kind, positions):
    batch, pruned, eviction = inputs(ROWS), plan(kind, 0.5, positions), Eviction(Fading(), 14, 2)
    with pruned.on(MODEL) as engine:
        one = generate(batch, eviction)
        engine.verify()
    with eviction.on(MODEL), pruned.on(MODEL):
        two = generate(batch)
    assert torch.equal(one.new, two.new)
    assert {layer.valid.sum(-1).max().item() for layer in one.past_key_values.layers} <= {14, 15}
    with pruned.on(MODEL):
        whole, everything = generate(batch), generate(batch, Eviction(Fading(), 200, 1))
    assert torch.equal(whole.new, everything.new)
    assert not torch.equal(whole.new, one.new)


def test_a_plans_layers_keep_the_budget_or_what_the_plan_leaves():
    pruned, batch = plan("two", 0.25), inputs(ROWS[:1])
    text = len(ROWS[0]) - TOKENS
    counts = [pruned.counts(TOKENS, LAYERS)[cut] for cut in (0, 0, 1, 1, 1, 1)]
    with pruned.on(MODEL):
        layers = generate(batch, Eviction(Fading(), 19, 1), max_new_tokens=1).past_key_values.layers
    assert [layer.held for layer in layers] == [min(19, text + count) for count in counts]
    assert len({layer.held for layer in layers}) == 2


def second_turn(first, batch, eviction, new=4):
    """A text turn on the first turn's cache; padding that followed a finished answer is masked."""
    turn = torch.tensor([[11, 12, 13, 14]]).expand(len(first.sequences), -1)
    whole = torch.cat([first.sequences, turn], 1)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, whole.shape[1] - batch["input_ids"].shape[1]), value=1)
    given = {"input_ids": whole, "attention_mask": mask}
    with eviction.on(MODEL):
        return MODEL.generate(**given, past_key_values=first.past_key_values, max_new_tokens=new)[:, whole.shape[1] :]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["padded", "unpadded"])
def test_a_second_turn_goes_on_with_the_shortened_cache(rows):
    batch, eviction = inputs(rows), Eviction(Fading(), 20, 1)
    first = generate(batch, eviction)
    fork = copy.deepcopy(first.past_key_values)
    found = second_turn(first, batch, eviction)
    assert all(layer.held == 20 for layer in first.past_key_values.layers)
    assert torch.equal(found, token_by_token(first, fork, batch, eviction))


@torch.no_grad()
def token_by_token(first, cache, batch, eviction, new=4):
    """The second turn read in one call, then a plain loop over single tokens."""
    rows, said = len(first.sequences), []
    unread = torch.cat([first.sequences[:, -1:], torch.tensor([[11, 12, 13, 14]]).expand(rows, -1)], 1)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, NEW + 4), value=1)
    with eviction.on(MODEL):
        for _ in range(new):
            positions = (mask.cumsum(1) - 1)[:, -unread.shape[1] :]
            given = {"input_ids": unread, "attention_mask": mask, "position_ids": positions}
            unread = MODEL(**given, past_key_values=cache).logits[:, -1].argmax(-1)[:, None]
            said.append(unread)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.cat(said, 1)


def test_tokens_that_a_later_turn_masks_are_evicted_first():
    batch, eviction = inputs(ROWS[:1]), Eviction(StreamingLLM(0), 30, 1)
    first = generate(batch, eviction)
    masked = len(ROWS[0]) + NEW - 3
    whole = torch.cat([first.sequences, torch.tensor([[11, 12]])], 1)
    mask = torch.ones_like(whole)
    mask[:, masked] = 0
    with eviction.on(MODEL):
        MODEL.generate(input_ids=whole, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=1)
    layer = first.past_key_values.layers[0]
    assert masked not in layer.column[0, 0].tolist()
    assert masked - 1 in layer.column[0, 0].tolist()


def test_detaching_leaves_no_trace():
    def hooks():
        return [
            (name, len(module._forward_pre_hooks), len(module._forward_hooks)) for name, module in MODEL.named_modules()
        ]

    before, known, batch = hooks(), set(MODEL.__dict__), inputs(ROWS)
    expected = generate(batch).new
    with pytest.raises(RuntimeError), Eviction(Fading(), 9).on(MODEL):
        assert hooks() != before
        raise RuntimeError
    assert hooks() == before
    assert set(MODEL.__dict__) == known
    assert torch.equal(generate(batch).new, expected)


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_an_export_gives_the_same_tokens_and_takes_another_budget(make, tmp_path):
    torch.manual_seed(3)
    batch, eviction = inputs(ROWS), Eviction(make(), 12, 2)
    if isinstance(eviction.policy, Fading):
        with pytest.raises(ValueError, match="allow="):
            load_eviction(eviction.save(tmp_path))
        return
    eviction.prepare(family_of(MODEL))
    loaded = load_eviction(eviction.save(tmp_path, "tiny"))
    assert torch.equal(generate(batch, loaded).new, generate(batch, eviction).new)
    again = load_eviction(tmp_path, budget=20, evict_interval=1)
    assert (again.budget, again.evict_interval) == (20, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_implementation": "static"}, "dynamic cache"),
        ({"use_cache": False}, "use_cache"),
        ({"prompt_lookup_num_tokens": 2, "max_new_tokens": 30}, "prompt lookup"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_a_sentence(options, words):
    row = ids(1, after=4) + [7, 8, 9, 7, 8]
    with pytest.raises(ValueError, match=words):
        generate(inputs([row]), Eviction(Fading(), 12, 1), **options)


def test_caches_and_policies_that_do_not_belong_together_are_refused():
    batch, eviction = inputs(ROWS[:1]), Eviction(Fading(), 12, 1)
    plain, shortened = generate(batch).past_key_values, generate(batch, eviction)
    with pytest.raises(ValueError, match="without the eviction policy"), eviction.on(MODEL):
        MODEL(input_ids=torch.tensor([[5]]), past_key_values=plain)
    with pytest.raises(ValueError, match=r"inside eviction\.on"):
        MODEL(input_ids=torch.tensor([[5]]), past_key_values=shortened.past_key_values)
    with pytest.raises(ValueError, match="already carries"), eviction.on(MODEL), eviction.on(MODEL):
        pass
    with pytest.raises(ValueError, match="nothing to detach"):
        eviction.detach(MODEL)
    wider = Eviction(TrimKV(16), 12).prepare(family_of(tiny_llava(layers=4)))
    with pytest.raises(ValueError, match="train gates"), wider.on(MODEL):
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Eviction(Fading(), 0), "budget is 0"),
        (lambda: Eviction(Fading(), 4, 0), "evict_interval is 0"),
        (lambda: Eviction(StreamingLLM(4), 4), "sinks=4"),
        (lambda: StreamingLLM(-1), "sinks is -1"),
        (lambda: RandomEviction(-1), "recent is -1"),
        (lambda: Eviction(RandomEviction(4), 4), "recent=4"),
        (lambda: TrimKV(0), "width is 0"),
        (lambda: TrimKV(4, pool="layer"), "pool='layer'"),
        (lambda: TrimKV(4, form="keys"), "form='keys'"),
        (lambda: MakeEachTokenCount(5).prepare(8, 2, 2), "width=5"),
    ],
)
def test_settings_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "given", "rows"),
    [
        ("reorder_cache", torch.tensor([1, 0]), [1, 0]),
        ("batch_select_indices", torch.tensor([1]), [1]),
        ("batch_repeat_interleave", 2, [0, 0, 1, 1]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_whatever_moves_rows_of_a_cache_moves_all_that_is_kept_beside_them(method, given, rows):
    eviction = Eviction(TrimKV(16), 30)
    _, cache = loop(inputs(ROWS[:2]), eviction)
    layers = [layer for layer in cache.layers if isinstance(layer, EvictingLayer)]
    before = [{name: getattr(layer, name) for name in ("keys", "values", "length", *_SLOT_TENSORS)} for layer in layers]
    getattr(cache, method)(given)
    for layer, held in zip(layers, before, strict=True):
        assert held["marks"] is not None and not torch.equal(held["marks"][0], held["marks"][1])
        for name, value in held.items():
            assert torch.equal(getattr(layer, name), value[rows]), name
