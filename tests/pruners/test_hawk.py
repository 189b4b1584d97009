"""HAWK equals a plain loop over heads, words and tokens; its weights come from a file or a list."""

import json
import math

import pytest
import torch
from tiny import TOKENS, ids, inputs, tiny_llava

import learnpruner
from learnpruner import Plan, Stage, View
from learnpruner.core.signals import TEXT_MASK, TEXT_QUERIES, TOKEN_KEYS
from learnpruner.pruners.hawk import HAWK

WEIGHTS = [0.5, 0.1, 0.0, 0.4]


def looped(queries, keys, weights, norm):
    """queries (H, T, d), keys (H, N, d) -> a score a token."""
    total = [0.0] * keys.shape[1]
    for q, k, weight in zip(queries, keys, weights, strict=True):
        found = [sum(float(word @ key) for word in q) / len(q) / math.sqrt(q.shape[1]) for key in k]
        if norm == "l2":
            length = math.sqrt(sum(x * x for x in found))
            found = [x / length for x in found]
        elif norm == "minmax":
            found = [(x - min(found)) / (max(found) - min(found)) for x in found]
        else:
            exps = [math.exp(x - max(found)) for x in found]
            found = [x / sum(exps) for x in exps]
        total = [t + weight * x for t, x in zip(total, found, strict=True)]
    return torch.tensor(total)


@pytest.mark.parametrize("norm", ["l2", "minmax", "softmax"])
@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_it_equals_a_plain_loop(norm, weights):
    texts, left = (5, 2), (12, 7)
    mask, valid = (torch.arange(n) >= n - torch.tensor(have)[:, None] for n, have in ((5, texts), (12, left)))
    queries, keys = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 12, 8)
    view = View(torch.zeros(2, 12, 1), valid, None, {TEXT_QUERIES: queries, TOKEN_KEYS: keys, TEXT_MASK: mask})
    scores = HAWK(weights, norm).score(view)
    for row in range(2):
        expected = looped(queries[row][:, mask[row]], keys[row][:, valid[row]], weights or [0.25] * 4, norm)
        assert torch.allclose(scores[row][valid[row]], expected, atol=1e-6)


@torch.no_grad()
def test_it_keeps_what_the_unmodified_models_first_layer_matches():
    model, batch = tiny_llava(), inputs([ids(1), ids(1, seed=1, after=9)])
    with Plan([Stage(HAWK(WEIGHTS), 0)], 0.25).on(model) as engine:
        model(**batch)
    layer, words = model.model.language_model.layers[0], model.get_input_embeddings()
    features = model.get_image_features(batch["pixel_values"]).pooler_output
    for row in range(2):
        visual = (batch["input_ids"][row] == 120).nonzero()[:, 0]
        x = layer.input_layernorm(words(batch["input_ids"][row, visual.max() + 1 :]))
        y = layer.input_layernorm(features[row].view(TOKENS, -1))
        q = layer.self_attn.q_proj(x).view(-1, 4, 16).transpose(0, 1)
        k = layer.self_attn.k_proj(y).view(-1, 2, 16).transpose(0, 1).repeat_interleave(2, 0)
        best = looped(q, k, WEIGHTS, "l2").topk(9).indices.sort().values
        assert engine.record.kept[0][row].nonzero()[:, 0].tolist() == best.tolist()


def test_weights_come_from_a_file_and_travel_with_an_export(tmp_path):
    (tmp_path / "heads.json").write_text(json.dumps({"weights": WEIGHTS}))
    plan = Plan([Stage(HAWK(str(tmp_path / "heads.json")), 0)], 0.25)
    (tmp_path / "heads.json").rename(tmp_path / "away.json")
    assert plan.stages[0].pruner.weights == WEIGHTS
    assert learnpruner.load(plan.save(tmp_path / "plan")).stages[0].pruner.weights == WEIGHTS


def test_without_a_file_all_heads_weigh_alike_and_a_warning_says_so(tmp_path, caplog):
    assert HAWK(str(tmp_path / "none.json")).weights is None
    assert "benchmark=heads" in caplog.text


@pytest.mark.parametrize("text", ["", "{}", '{"weights": 3}', '{"weights": ["a"]}'])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, text):
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(ValueError, match="benchmark=heads"):
        HAWK(str(tmp_path / "heads.json"))


def test_weights_of_another_model_are_refused():
    batch = inputs([ids(1)])
    with (
        pytest.raises(ValueError, match="28 heads and this language model has 4"),
        Plan([Stage(HAWK([1.0] * 28), 0)], 0.5).on(model := tiny_llava()),
    ):
        model(**batch)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="l2, minmax, softmax"):
        HAWK(norm="l1")
