"""What stages inside the LLM read equals the unmodified model's own eager attention, keys and hidden states."""

import pytest
import torch
from plans import Norm, Seen
from tiny import IMAGE, LAYERS, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Signal, Stage
from learnpruner.engine import llm_signals as inside
from learnpruner.engine import question_embeddings as question_of
from learnpruner.engine import vision_signals as tower
from learnpruner.engine.prompt import question_rows

ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2), ids(1, after=9, seed=3)]
CUT = 4
NAMES = [
    "text_rows", "last_attention", "next_attention", "next_text_attention", "keys", "text_keys", "states", "text_states", "text_mask",
    "text_embeds", "entered_embeds", "entered_mask", "text_attention",
]  # fmt: skip
BEFORE = torch.tensor([1, 3, 2, 0])


@torch.no_grad()
def seen(model, batch, stages=(), mode="physical", ratio=1.0, **options):
    pruner = Seen(*NAMES)
    with Plan([*stages, Stage(pruner, CUT)], ratio, **options).on(model, mode):
        model(**batch)
    return pruner.seen


@torch.no_grad()
def eager(batch, **text):
    model = tiny_llava(attention="eager", **text)
    out = model(**batch, output_attentions=True, output_hidden_states=True, use_cache=True)
    return model, out


def placed_keys(model, batch, layer):
    """A layer's keys of every prompt on its own, laid out over the batch."""
    mask = batch["attention_mask"].bool()
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        keys = model(**batch, position_ids=positions, use_cache=True).past_key_values.layers[layer].keys
    return keys.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mode", ["physical", "masked"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("heads", [1, 2, 4], ids=lambda h: f"{h} key-value heads")
def test_signals_equal_the_unmodified_model(mode, side, heads):
    batch = inputs(ROWS, side)
    found = seen(tiny_llava(num_key_value_heads=heads), batch, mode=mode)
    model, out = eager(batch, num_key_value_heads=heads)
    visual = batch["input_ids"] == IMAGE
    asked = question_rows(visual, batch["attention_mask"].bool(), None)
    keys = placed_keys(model, batch, CUT - 1)
    states = model.model.language_model.norm(out.hidden_states[CUT])
    words = model.get_input_embeddings()(batch["input_ids"])
    assert found["text_mask"].sum(1).tolist() == asked.sum(1).tolist() == [6, 6, 7, 9]
    for row in range(len(ROWS)):
        v, q = visual[row], asked[row]
        last, real, n = q.nonzero().max(), found["text_mask"][row], int(v.sum())

        def close(name, values, part=slice(None), row=row):
            assert torch.allclose(found[name][row][part], values, atol=2e-6, rtol=0), name

        attention = out.attentions[CUT - 1][row]
        some = slice(found["keys"].shape[1] - n, None)
        close("last_attention", attention[:, last, v], (slice(None), some))
        close("next_attention", out.attentions[CUT][row][:, last, v], (slice(None), some))
        close("next_text_attention", out.attentions[CUT][row][:, q][..., v].mean((0, 1)), some)
        assert torch.allclose(found["text_rows"][row][:, real][..., some], attention[:, q][..., v], atol=2e-6, rtol=0)
        assert torch.allclose(found["keys"][row][some], keys[row][v], atol=1e-4)
        assert torch.allclose(found["text_keys"][row][real], keys[row][q], atol=1e-4)
        assert torch.allclose(found["states"][row][some], states[row][v], atol=1e-4)
        assert torch.allclose(found["text_states"][row][real], states[row][q], atol=1e-4)
        assert torch.equal(found["text_embeds"][row][real], words[row][q])
        assert int(found["entered_mask"][row].sum()) == n


def test_embeddings_of_visual_tokens_are_the_projected_features():
    batch, model = inputs(ROWS), tiny_llava()
    found = seen(model, batch)
    features = torch.cat(list(model.get_image_features(batch["pixel_values"]).pooler_output)).flatten(0, -2)
    assert torch.allclose(found["entered_embeds"][found["entered_mask"]], features, atol=1e-5)


def test_behind_another_stage_both_modes_see_the_same():
    batch, model = inputs(ROWS), tiny_llava()
    stages = [Stage(Norm(), "encoder", 2), Stage(Norm(), 2, 1)]
    physical, masked = (seen(model, batch, stages, mode, 0.5) for mode in ("physical", "masked"))
    real = physical["text_mask"]
    assert torch.equal(real, masked["text_mask"])
    assert physical["entered_mask"].sum(1).tolist() == masked["entered_mask"].sum(1).tolist()
    for name in ("last_attention", "next_attention", "keys", "states", "text_rows", "next_text_attention"):
        for row, images in enumerate([1, 2, 0, 1]):
            n = images * (physical["keys"].shape[1] // 2)
            part = slice(physical["keys"].shape[1] - n, None)
            a, b = (
                x[name][row][part] if name in ("keys", "states") else x[name][row][..., part]
                for x in (physical, masked)
            )
            if name == "text_rows":
                a, b = a[:, real[row]], b[:, real[row]]
            assert torch.allclose(a, b, atol=1e-4), name


def test_compact_positions_are_those_of_the_next_layer():
    """With renumbered tokens, what the next layer would attend to is what it then does attend to."""
    batch, model = inputs([ids(1), ids(1, seed=1, after=8)]), tiny_llava()
    read, stages = Seen("next_attention"), [Stage(Norm(), "encoder", 1), Stage(Norm(), 2, 1)]
    later = Seen("last_attention")
    plan = Plan([*stages, Stage(read, CUT, 1), Stage(later, CUT + 1, 1)], 0.5, "compact")
    with torch.no_grad(), plan.on(model):
        model(**batch)
    assert CUT + 1 < LAYERS
    assert torch.allclose(read.seen["next_attention"], later.seen["last_attention"], atol=1e-6)


def test_what_was_read_is_let_go():
    batch, model = inputs([ids(1)]), tiny_llava()
    with torch.no_grad(), Plan([Stage(Seen(*NAMES), CUT)], 0.9).on(model):
        session = model(**batch).past_key_values.session
    assert not session.inside.seen
    assert session.inside.embeds is None


@torch.no_grad()
@pytest.mark.parametrize("at", ["encoder", 0, CUT])
def test_each_signal_runs_over_tokens_and_words_along_the_dimensions_that_it_says(at):
    """36 tokens and 7 words, which no other dimension has; all tokens entered the language model."""
    names = set(inside.LLM_SIGNALS) if at == CUT else {*tower.TOWER_SIGNALS, *question_of.QUESTION_SIGNALS}
    names -= {"cls_state"} if at == 0 else question_of.PROJECTED_SIGNALS
    model, pruner = tiny_llava(), Seen(*names)
    with Plan([Stage(pruner, at)], 0.9).on(model):
        model(**inputs([ids(1, after=7), ids(1, after=7, seed=1)]))
    for name, value in pruner.seen.items():
        signal, shape = Signal(name), list(value.shape)
        tokens = [axis for axis, size in enumerate(shape) if size == TOKENS and not name.startswith("entered_")]
        assert (tokens or [None]) == [signal.axis], name
        assert ([axis for axis, size in enumerate(shape) if size == 7] or [None]) == [signal.text_axis], name


@torch.no_grad()
def test_rows_whose_questions_differ_in_length_are_shown_apart():
    class Views(Seen):
        together = False

        def score(self, view):
            views.append(view)
            return view.tokens[..., 0]

    views, model = [], tiny_llava()
    with Plan([Stage(Views("text_attention", "text_mask"), CUT)], 0.9).on(model):
        model(**inputs([ids(1), ids(1, after=9, seed=1), ids(1, seed=2)]))
    assert sorted(view[Signal("text_mask")].shape for view in views) == [(1, 9), (2, 6)]
    assert all(view[Signal("text_mask")].all() for view in views)
