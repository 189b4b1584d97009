"""Signals of the vision tower equal those of the unmodified tower with full eager attention."""

import pytest
import torch
from plans import Seen
from tiny import HEADS, TOKENS, WIDTH, ids, inputs, tiny_llava
from transformers import LlavaForConditionalGeneration

from learnpruner import Plan, Signal, Stage
from learnpruner.engine import vision_signals as tower

BATCH = inputs([ids(1), ids(2, seed=1), ids(0, seed=2)])
LAYERS = {None: 1, 0: 0, -1: 2, "9/24": 0, "16/24": 1, "24/24": 2}  # of three; the projector reads the second's output
layers = pytest.mark.parametrize("layer", LAYERS)


@torch.no_grad()
def seen(*signals):
    """What a stage at the encoder is given."""
    pruner, model = Seen(*signals), tiny_llava()
    with Plan([Stage(pruner, "encoder")], 0.5).on(model):
        model(**BATCH)
    return pruner.seen


@pytest.fixture(scope="module")
def eager():
    """The eager tower with its attention maps and hidden states."""
    found = tiny_llava(attention="eager").model.vision_tower
    with torch.no_grad():
        return found, found(BATCH["pixel_values"], output_attentions=True, output_hidden_states=True)


def projected(eager, part, layer):
    """A layer's queries or keys, heads side by side: (I, 1 + N, C)."""
    found, output = eager
    block = found.encoder.layers[layer]
    with torch.no_grad():
        return getattr(block.self_attn, f"{part}_proj")(block.layer_norm1(output.hidden_states[layer]))


@layers
def test_received_attention_is_the_column_mean_of_the_map(eager, layer):
    signal = Signal("received_attention", layer)
    expected = eager[1].attentions[LAYERS[layer]].mean(1).mean(1)[:, 1:]
    assert torch.allclose(seen(signal)[signal], expected, atol=1e-6, rtol=0)


@layers
def test_keys_are_the_projections_of_the_patches(eager, layer):
    signal = Signal("vision_keys", layer)
    expected = projected(eager, "k", LAYERS[layer])[:, 1:].unflatten(-1, (HEADS, -1)).transpose(1, 2)
    found = seen(signal)[signal]
    assert found.shape == (3, HEADS, TOKENS, WIDTH // HEADS)
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


@layers
def test_the_joined_cls_row_is_attention_with_one_head(eager, layer):
    signal = Signal("cls_attention_joined", layer)
    query, key = (projected(eager, part, LAYERS[layer]) for part in "qk")
    expected = (query @ key.transpose(1, 2) / WIDTH**0.5).softmax(-1)[:, 0, 1:]
    assert torch.allclose(seen(signal)[signal], expected, atol=1e-6, rtol=0)


def test_the_cls_state_lies_beside_the_features(eager):
    signal = Signal("cls_state")
    assert torch.allclose(seen(signal)[signal], eager[1].hidden_states[-2][:, 0], atol=1e-4, rtol=1e-5)


def test_the_states_of_the_patches_are_what_the_projector_reads(eager):
    signal = Signal("vision_states")
    assert torch.allclose(seen(signal)[signal], eager[1].hidden_states[-2][:, 1:], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_where_the_projector_reads_several_layers_states_are_the_last_and_cls_is_all_of_them():
    config = tiny_llava().config
    config.vision_feature_layer = [1, -2, 0]
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    states, cls, tokens = (
        Signal("vision_states"),
        Signal("cls_state"),
        Seen(Signal("vision_states"), Signal("cls_state")),
    )
    with Plan([Stage(tokens, "encoder")], 0.5).on(model):
        model(**BATCH)
    expected = model.model.vision_tower(BATCH["pixel_values"], output_hidden_states=True).hidden_states
    assert torch.equal(tokens.seen[states], expected[0][:, 1:])
    assert torch.equal(tokens.seen[cls], torch.cat([expected[layer][:, 0] for layer in (1, -2, 0)], -1))


def test_several_signals_of_one_layer_come_together():
    signals = [Signal(name, layer) for name in sorted(tower.TOWER_ATTENTION_SIGNALS) for layer in (None, 1, -1)]
    together = seen(*signals)
    for signal in signals:
        assert torch.equal(together[signal], seen(signal)[signal])
    assert torch.equal(together[Signal("vision_keys")], together[Signal("vision_keys", 1)])


def test_a_later_stage_sees_signals_of_what_is_left():
    """The second of two stages before the LLM is given the rows of the tokens that the first one kept."""
    first, second = Seen(Signal("vision_keys")), Seen(*(Signal(name) for name in sorted(tower.TOWER_ATTENTION_SIGNALS)))
    model = tiny_llava()
    with torch.no_grad(), Plan([Stage(first, "encoder", 2), Stage(second, "encoder", 1)], 0.25).on(model) as engine:
        model(**BATCH)
    index = engine.record.selections[0].index
    whole = seen(*second.needs)
    for signal, found in second.seen.items():
        for image in range(3):
            assert torch.equal(found[image], whole[signal][image].index_select(signal.axis - 1, index[image]))


def test_long_sequences_are_read_in_chunks(monkeypatch):
    query, key = torch.randn(2, 4, 50, 8), torch.randn(2, 4, 50, 8)
    whole = (query @ key.transpose(-1, -2) * 0.3).softmax(-1).mean(1).mean(1)
    monkeypatch.setattr(tower, "ROWS_AT_ONCE", 7)
    assert torch.allclose(tower.received_attention(query, key, 0.3), whole, atol=1e-7)


def test_attention_is_computed_in_fp32():
    query = torch.randn(1, 2, 10, 8, dtype=torch.bfloat16)
    assert (
        tower.received_attention(query, query, 0.3).dtype == tower.joined_cls_row(query, query).dtype == torch.float32
    )


def test_a_tower_without_cls_gives_all_of_its_sequence():
    query, key = torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
    assert tower.read_tower_signal("received_attention", query, key, 0.3, has_cls=False).shape == (1, 10)
    assert torch.equal(tower.read_tower_signal("vision_keys", query, key, 0.3, has_cls=False), key)
    assert tower.read_tower_signal("vision_keys", query, key, 0.3, has_cls=True).shape == (1, 2, 9, 8)
