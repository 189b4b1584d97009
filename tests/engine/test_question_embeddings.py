"""What stages before the LLM read of the question equals what a plain loop reads from the prompt."""

import pytest
import torch
from plans import Norm, Seen
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Signal, Stage

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1, after=9), ids(0, seed=2), ids(1, after=4, seed=3)]
EMBEDS, IDS, MASK = Signal("text_embeds"), Signal("text_ids"), Signal("text_mask")


def questions(rows, images_of, model=MODEL):
    """The embeddings of the words after the last image, for each image, in order."""
    table = model.get_input_embeddings().weight
    words = [row[len(row) - row[::-1].index(IMAGE) :] for row in rows if IMAGE in row]
    return [table[w] for w, count in zip(words, images_of, strict=True) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("at", ["encoder", 0])
def test_each_image_gets_its_own_rows_question(side, at):
    pruner = Seen(EMBEDS, IDS, MASK)
    with Plan([Stage(pruner, at)], 0.5).on(MODEL):
        MODEL(**inputs(ROWS, side))
    expected = questions(ROWS, [1, 2, 1])
    assert pruner.seen[MASK].sum(1).tolist() == [6, 9, 9, 4]
    for embeds, mask, words in zip(pruner.seen[EMBEDS], pruner.seen[MASK], expected, strict=True):
        assert torch.equal(embeds[mask], words)
    for ids_, mask, words in zip(pruner.seen[IDS], pruner.seen[MASK], expected, strict=True):
        assert torch.equal(MODEL.get_input_embeddings()(ids_[mask]), words)


def test_generation_with_beams_reads_the_same_question():
    pruner = Seen(EMBEDS, MASK)
    with Plan([Stage(pruner, 0)], 0.5).on(MODEL):
        MODEL.generate(**inputs(ROWS), max_new_tokens=2, num_beams=2)
    for embeds, mask, words in zip(pruner.seen[EMBEDS], pruner.seen[MASK], questions(ROWS, [1, 2, 1]), strict=True):
        assert torch.equal(embeds[mask], words)


@torch.no_grad()
def test_answers_are_no_part_of_the_question():
    batch, pruner = inputs([ids(1, after=6)]), Seen(EMBEDS, MASK)
    labels = batch["input_ids"].clone()
    labels[:, :-2] = -100
    with Plan([Stage(pruner, "encoder")], 0.5).on(MODEL, "masked"):
        MODEL(**batch, labels=labels)
    words = batch["input_ids"][0, 4 + TOKENS : -2]
    assert torch.equal(pruner.seen[EMBEDS][0], MODEL.get_input_embeddings().weight[words])


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4], ids=lambda h: f"{h} key-value heads")
@pytest.mark.parametrize("behind", [False, True], ids=["first", "behind another stage"])
def test_projections_are_those_of_the_first_layer(heads, behind):
    """The dot products, rotated by no position, equal a plain loop over heads with the layer's own weights."""
    model, batch = tiny_llava(num_key_value_heads=heads), inputs(ROWS)
    queries, keys = Signal("text_queries"), Signal("token_keys")
    pruner = Seen(queries, keys, MASK)
    stages = [Stage(Norm(), "encoder", 2), Stage(pruner, 0, 1)] if behind else [Stage(pruner, 0)]
    with Plan(stages, 0.5).on(model) as engine:
        model(**batch)
    layer, d = model.model.language_model.layers[0], 16
    features = torch.stack(list(model.get_image_features(batch["pixel_values"]).pooler_output)).view(4, TOKENS, -1)
    expected = questions(ROWS, [1, 2, 1], model)
    for image in range(4):
        seen = features[image][engine.record.kept[0][image]] if behind else features[image]
        words = expected[image]
        q, k = layer.self_attn.q_proj(layer.input_layernorm(words)), layer.self_attn.k_proj(layer.input_layernorm(seen))
        for head in range(4):
            group = head * heads // 4
            dots = q[:, head * d : (head + 1) * d] @ k[:, group * d : (group + 1) * d].T
            found = pruner.seen[queries][image, head][pruner.seen[MASK][image]] @ pruner.seen[keys][image, head].T
            assert torch.allclose(found, dots, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["text_queries", "token_keys"])
def test_projections_are_refused_before_the_projector(name):
    with (
        pytest.raises(ValueError, match="not available at 'encoder'"),
        Plan([Stage(Seen(Signal(name)), "encoder")], 0.5).on(MODEL),
    ):
        pass


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_part_of_a_question_that_the_caller_marks(side):
    batch, pruner = inputs(ROWS, side), Seen(EMBEDS, MASK)
    with Plan([Stage(pruner, 0)], 0.5).on(MODEL) as engine:
        MODEL(**batch)
        expected = dict(pruner.seen)
        engine.query_rows(
            (batch["input_ids"] != IMAGE).flip(1).cumprod(1).flip(1).bool() | ~batch["attention_mask"].bool()
        )
        MODEL(**batch)
    assert torch.equal(pruner.seen[MASK], expected[MASK]) and torch.equal(pruner.seen[EMBEDS], expected[EMBEDS])


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2, 5])
def test_projections_are_those_of_the_layer_that_is_named(layer):
    queries, keys = Signal("text_queries", layer), Signal("token_keys", layer)
    pruner, batch = Seen(queries, keys), inputs([ids(1)])
    with Plan([Stage(pruner, 0)], 0.5).on(MODEL):
        MODEL(**batch)
    block = MODEL.model.language_model.layers[layer]
    q = block.self_attn.q_proj(block.input_layernorm(questions([ids(1)], [1])[0]))
    features = MODEL.get_image_features(batch["pixel_values"]).pooler_output[0].view(TOKENS, -1)
    k = block.self_attn.k_proj(block.input_layernorm(features))
    assert torch.allclose(pruner.seen[queries][0].transpose(0, 1).flatten(1), q, atol=1e-5)
    assert torch.allclose(pruner.seen[keys][0, ::2].transpose(0, 1).flatten(1), k, atol=1e-4)
