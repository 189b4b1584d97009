"""Scores from the rows that are needed equal those of full eager attention."""

import pytest
import torch
from plans import Seen, text
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Signal, Stage
from learnpruner.engine import attention_scores as scores
from learnpruner.engine.attention_scores import cls_attention_rows, mean_text_attention
from learnpruner.engine.prompt import question_rows

ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2), ids(1, after=80, seed=3)]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["physical", "masked"])
@pytest.mark.parametrize("layer", [None, 0, 3])
@pytest.mark.parametrize("heads", [1, 2, 4], ids=lambda h: f"{h} key-value heads")
def test_text_attention_equals_eager_attention(mode, layer, heads):
    batch, signal = inputs(ROWS), Signal("text_attention", layer)
    pruner = Seen(signal)
    model = tiny_llava(num_key_value_heads=heads)
    with Plan([Stage(pruner, 4)], 1.0).on(model, mode):
        model(**batch)
    eager = tiny_llava(attention="eager", num_key_value_heads=heads)
    attention = eager(**batch, output_attentions=True).attentions[3 if layer is None else layer]  # (B, H, L, L)
    visual = batch["input_ids"] == IMAGE
    rows = question_rows(visual, batch["attention_mask"].bool(), None)
    for row in range(len(ROWS)):
        expected = attention[row].mean(0)[rows[row]].mean(0)[visual[row]]
        found = pruner.seen[signal][row][-len(expected) :] if len(expected) else torch.zeros(0)
        assert torch.allclose(found, expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 0])
def test_cls_attention_equals_eager_attention(layer):
    batch, signal = inputs(ROWS), Signal("cls_attention", layer)
    pruner = Seen(signal)
    model = tiny_llava()
    with Plan([Stage(pruner, "encoder")], 0.5).on(model):
        model(**batch)
    eager = tiny_llava(attention="eager")
    attention = eager.model.vision_tower(batch["pixel_values"], output_attentions=True).attentions
    expected = attention[1 if layer is None else layer][:, :, 0, 1:]
    assert pruner.seen[signal].shape == (4, 4, TOKENS)
    assert torch.allclose(pruner.seen[signal], expected, atol=1e-6, rtol=0)


def test_long_questions_are_scored_in_chunks(monkeypatch):
    query, key = torch.randn(2, 4, 50, 8), torch.randn(2, 2, 50, 8)
    rows, counted = torch.arange(20, 50).expand(2, -1), torch.rand(2, 30) > 0.3
    whole = mean_text_attention(query, key, 0.3, rows, counted, torch.zeros(2, 50))
    monkeypatch.setattr(scores, "ROWS_AT_ONCE", 7)
    assert torch.allclose(mean_text_attention(query, key, 0.3, rows, counted, torch.zeros(2, 50)), whole, atol=1e-7)


def test_scores_are_computed_in_fp32():
    query = torch.randn(1, 2, 10, 8, dtype=torch.bfloat16)
    assert cls_attention_rows(query, query, 0.3).dtype == torch.float32
    counted = torch.ones(1, 2, dtype=torch.bool)
    assert (
        mean_text_attention(query, query, 0.3, torch.tensor([[8, 9]]), counted, torch.zeros(1, 10)).dtype
        == torch.float32
    )


def test_the_question_is_the_text_after_the_last_image():
    batch = inputs(ROWS, "right")
    rows = question_rows(batch["input_ids"] == IMAGE, batch["attention_mask"].bool(), None)
    assert rows.sum(1).tolist() == [6, 6, 7, 80]
    assert not (rows & ~text(batch)).any()
    assert rows[1].nonzero().min() == 1 + 2 * (3 + TOKENS)


def test_a_prompt_that_ends_in_an_image_asks_with_its_last_token():
    visual = torch.tensor([[False, True, True], [False, True, False]])
    attention = torch.tensor([[True, True, True], [True, True, False]])
    assert question_rows(visual, attention, None).tolist() == [[False, False, True], [False, True, False]]
