"""Masked mode: the values of physical inference, and gradient for the pruner, dropped tokens included."""

import math

import pytest
import torch
from plans import KINDS, Norm, plan, real, text
from tiny import TOKENS, ids, inputs, tiny_llava
from torch import nn

from learnpruner import Plan, Selection, Stage
from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import top_k_selection
from learnpruner.engine.masks import bias_depth
from learnpruner.engine.packing import forward_fill
from learnpruner.pruners.fastv import FastV
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1), ids(0, seed=2), ids(1, after=11, seed=3)]


class Fixed(Pruner):
    """Keeps the best of given scores, with a gate that is a leaf: its gradient can be read."""

    def __init__(self, scores, soft=False):
        super().__init__()
        self.scores, self.soft = scores, soft

    def forward(self, view, keep):
        chosen = top_k_selection(self.scores, keep)
        hard = chosen.mask(self.scores.shape[1]).float()
        self.gate = hard.requires_grad_()
        return Selection(chosen.index, gate=self.gate)


def straight_through(logits, keep, valid):
    soft = logits.sigmoid()
    return (logits > 0).float() + soft - soft.detach()


def learned(stages=2, width=32):
    torch.manual_seed(3)
    pruner = LearnedPruner(width)
    pruner.relaxation = straight_through
    second = [Stage(TextAttention(), 2, 1)] if stages == 2 else []
    return Plan([Stage(pruner, "encoder", 3), *second], 0.25).train()


def last_text_loss(logits, batch):
    """Only rows of text count: a dropped token's own output may not."""
    return logits[text(batch)].float().log_softmax(-1)[:, :7].sum() / 10


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_forward_equals_physical_inference(kind, side):
    batch, pruned = inputs(ROWS, side), plan(kind, 0.5)
    with pruned.on(MODEL) as engine:
        expected = MODEL(**batch).logits
        kept = engine.record.kept
    with pruned.on(MODEL, "masked") as engine:
        found = MODEL(**batch).logits
        again = engine.record.kept
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert (found - expected)[real(batch)].abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_masked_keep_all_equals_the_unmodified_model(kind):
    batch = inputs(ROWS)
    with plan(kind, 1.0).on(MODEL, "masked"):
        found = MODEL(**batch).logits
    assert (found - MODEL(**batch).logits)[real(batch)].abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("pool", [0, 3, 100])
@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_pool_changes_no_value(pool, kind, positions):
    batch, pruned = inputs(ROWS), plan(kind, 0.25, positions)
    with pruned.on(MODEL, "masked"):
        expected = MODEL(**batch).logits
    with pruned.on(MODEL, "masked", pool=pool):
        found = MODEL(**batch).logits
    assert (found - expected)[real(batch)].abs().max() < 1e-5


def gate_gradient(pool=None, pruned=None, batch=None):
    batch = inputs([ids(1), ids(1, after=9, seed=5)]) if batch is None else batch
    fixed = Fixed(torch.randn(2, TOKENS, generator=torch.Generator().manual_seed(1)))
    pruned = pruned or Plan([Stage(fixed, "encoder", 3), Stage(TextAttention(), 2)], 0.25)
    fixed = pruned.stages[0].pruner
    with pruned.on(MODEL, "masked", pool=pool) as engine:
        last_text_loss(MODEL(**batch).logits, batch).backward()
    return fixed.gate.grad, engine.record.kept[0]


def test_dropped_tokens_receive_gradient_as_large_as_kept_ones():
    grad, kept = gate_gradient()
    assert (grad[~kept] != 0).all()
    assert 0.1 < grad[~kept].abs().mean() / grad[kept].abs().mean() < 10


def test_tokens_of_the_pool_receive_the_same_gradient():
    full, kept = gate_gradient()
    part, _ = gate_gradient(pool=5)
    reached = (part != 0) & ~kept
    assert reached.sum(1).tolist() == [5, 5]
    assert torch.allclose(part[reached | kept], full[reached | kept], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_with_a_pool_later_layers_run_on_fewer_tokens():
    lengths = []
    layers = MODEL.model.language_model.layers
    hooks = [layer.register_forward_hook(lambda m, args, out: lengths.append(args[0].shape[1])) for layer in layers]
    pruned, words = plan("two", 0.25), len(ids(1)) - TOKENS
    with pruned.on(MODEL, "masked", pool=5):
        MODEL(**inputs([ids(1)]))
    for hook in hooks:
        hook.remove()
    first, second = pruned.counts(TOKENS, 6)
    assert lengths == [words + first + 5] * 2 + [words + second + 5] * 4


def test_the_hard_mask_has_the_gradient_of_multiplied_attention_weights():
    """Against a dense reference: eager attention in float64 with p = e^s m / sum e^s m."""
    model, batch = tiny_llava(layers=2, dtype=torch.float64), inputs([ids(1)])
    batch["pixel_values"] = batch["pixel_values"].double()
    fixed = Fixed(torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(1)))
    with Plan([Stage(fixed, "encoder")], 0.25).on(model, "masked") as engine:
        out = model(**batch)
        last_text_loss(out.logits, batch).backward()
    kept = engine.record.alive[0]
    multiplier = kept.double().requires_grad_()
    logits = dense_reference(model, batch, multiplier)
    rank = forward_fill(torch.arange(kept.shape[1])[None], kept, kept.shape[1])[0]
    last_text_loss(logits[:, rank], batch).backward()
    expected = multiplier.grad[0][batch["input_ids"][0] == 120]
    assert torch.allclose(fixed.gate.grad[0].double(), expected, rtol=1e-3, atol=1e-6)


def dense_reference(model, batch, multiplier):
    """The language model with attention weights multiplied by m (B, L), dropped ones included."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    lm = model.model.language_model
    features = model.get_image_features(batch["pixel_values"]).pooler_output[0]
    x = model.get_input_embeddings()(batch["input_ids"])
    x = x.masked_scatter((batch["input_ids"] == 120)[..., None], features)
    length = x.shape[1]
    cos, sin = lm.rotary_emb(x, torch.arange(length)[None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for layer in lm.layers:
        a, h = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (f(h).view(1, length, -1, a.head_dim).transpose(1, 2) for f in (a.q_proj, a.k_proj, a.v_proj))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = repeat_kv(k, a.num_key_value_groups), repeat_kv(v, a.num_key_value_groups)
        s = (q @ k.transpose(-1, -2) * a.scaling).masked_fill(~causal, -1e30)
        p = (s - s.amax(-1, keepdim=True)).exp() * (multiplier[:, None, None] + 1e-30)
        x = x + a.o_proj((p / p.sum(-1, keepdim=True) @ v).transpose(1, 2).reshape(1, length, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(lm.norm(x))


def gradients(pruned, model=MODEL, batch=None, dtype=None, pool=None):
    batch = batch or inputs(ROWS)
    pruned.zero_grad()
    with (
        pruned.on(model, "masked", pool=pool),
        torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        last_text_loss(model(**batch).logits, batch).backward()
    return [p.grad.clone() for p in pruned.parameters()]


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("pool", [None, 4])
def test_gradient_reaches_the_pruner_and_nothing_else(stages, pool):
    model = tiny_llava().requires_grad_(True)  # even a backbone that someone forgot to freeze would show it
    model.requires_grad_(False)
    found = gradients(learned(stages), model, pool=pool)
    assert all(grad.abs().max() > 0 and grad.isfinite().all() for grad in found)
    assert all(p.grad is None for p in model.parameters())


def test_gradient_checkpointing_changes_no_gradient():
    plain, model = gradients(learned()), tiny_llava()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    runs = []
    handle = model.model.language_model.layers[3].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    found = gradients(learned(), model)
    handle.remove()
    assert len(runs) == 2  # once forward, once again in the backward pass
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_bfloat16_autocast_trains_in_the_same_direction():
    full, half = gradients(learned(1)), gradients(learned(1), dtype=torch.bfloat16)
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (full, half))
    assert torch.cosine_similarity(a, b, dim=0) > 0.9


def test_in_training_mode_the_gate_decides_and_the_record_carries_it():
    pruned = learned(1)
    with pruned.on(MODEL, "masked") as engine:
        MODEL(**inputs(ROWS))
    gate = engine.record.selections[0].gate
    assert gate.requires_grad
    assert torch.equal(engine.record.kept[0], gate > 0.5)


@torch.no_grad()
def test_a_later_stage_asks_the_question_not_the_answer():
    """Text attention reads prompt rows only: appended answers change nothing when labels, or query_rows, mark them."""
    question, pruned = ids(1), plan("two")
    whole = inputs([[*question, 17, 18, 19]])
    labels = torch.full_like(whole["input_ids"], -100)
    labels[:, -3:] = whole["input_ids"][:, -3:]
    rows = torch.zeros_like(labels, dtype=torch.bool)
    rows[:, len(question) - 6 : len(question)] = True
    with pruned.on(MODEL, "masked") as engine:
        MODEL(**inputs([question]))
        expected = engine.record.kept[1]
        MODEL(**whole, labels=labels)
        assert torch.equal(engine.record.kept[1], expected)
        engine.query_rows(rows)
        MODEL(**whole)
        assert torch.equal(engine.record.kept[1], expected)
        engine.query_rows(rows.roll(3, 1))
        MODEL(**whole)
        assert not torch.equal(engine.record.kept[1], expected)


def test_sums_of_gates_close_a_token_once():
    """A token that an earlier stage dropped is no candidate later: the later gate leaves it open for gradient."""
    batch = inputs([ids(1)])
    first = Fixed(torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(1)))
    with Plan([Stage(first, "encoder", 2), Stage(Norm(), 0, 1)], 0.25).on(MODEL, "masked") as engine:
        last_text_loss(MODEL(**batch).logits, batch).backward()
    never, later = ~engine.record.kept[0], engine.record.kept[0] & ~engine.record.kept[1]
    assert (first.gate.grad[never] != 0).all()
    assert later.any()


def test_a_pruner_in_the_middle_of_the_model_learns_too():
    class Deep(Pruner):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(64, 1)

        def forward(self, view, keep):
            scores = self.score(view.tokens)[..., 0]
            chosen = top_k_selection(scores.detach(), keep, view.valid)
            soft = scores.sigmoid()
            return Selection(chosen.index, chosen.valid, gate=chosen.mask(scores.shape[1]) + soft - soft.detach())

    pruned, batch = Plan([Stage(Deep(), 3)], 0.75), inputs(ROWS)
    with pruned.on(MODEL, "masked"):
        last_text_loss(MODEL(**batch).logits, batch).backward()
    assert all(p.grad.abs().max() > 0 for p in pruned.parameters())


@pytest.mark.parametrize("kind", ["last", "mean"])
@pytest.mark.parametrize("after", [0, 6], ids=["beside its like", "beside a question"])
@torch.no_grad()
def test_a_prompt_that_ends_with_an_image_asks_by_the_last_token_left(kind, after):
    """Stage 1 may drop the image's last token: then the last that is left asks, in both modes, under both paddings."""
    pruner = FastV() if kind == "last" else TextAttention()
    pruned = Plan(
        [Stage(Fixed(torch.arange(TOKENS, 0.0, -1)[None].expand(2, -1)), "encoder", 2), Stage(pruner, 3, 1)], 0.5
    )
    pruned.eval()
    for side in ("left", "right"):
        batch, kept = inputs([ids(1, after=0), ids(1, before=9, after=after, seed=1)], side), []
        for mode in ("physical", "masked"):
            with pruned.on(MODEL, mode) as engine:
                MODEL(**batch)
            kept.append(engine.record.kept[1])
        assert torch.equal(*kept)
        alone = inputs([ids(1, after=0)])
        short = Plan([Stage(Fixed(torch.arange(TOKENS, 0.0, -1)[None]), "encoder", 2), Stage(pruner, 3, 1)], 0.5).eval()
        with short.on(MODEL) as engine:
            MODEL(**alone)
        assert torch.equal(engine.record.kept[1][0], kept[0][0])


@pytest.mark.parametrize("pool", [None, 4])
def test_backward_behind_the_block_under_gradient_checkpointing(pool):
    model, batch = tiny_llava(), inputs(ROWS)
    expected = gradients(learned(), model, batch, pool=pool)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpoints = [layer._gradient_checkpointing_func for layer in model.model.language_model.layers]
    pruned = learned()
    with pruned.on(model, "masked", pool=pool):
        loss = last_text_loss(model(**batch).logits, batch)
    assert [layer._gradient_checkpointing_func for layer in model.model.language_model.layers] == checkpoints
    loss.backward()
    for parameter, gradient in zip(pruned.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient) or pool is not None
        assert parameter.grad.isfinite().all()
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(**batch).logits, tiny_llava()(**batch).logits)


@pytest.mark.parametrize("scaling", [1.0, 0.5, 0.125, 0.0884, 0.07])
def test_what_a_closed_gate_leaves_is_little_and_still_a_number(scaling):
    """Its gradient is scaled back by the same factor: a weight that rounds to 0 would have none."""
    for dtype, least in ((torch.float32, 20), (torch.bfloat16, 20), (torch.float16, 8)):
        found = bias_depth(scaling, dtype)
        assert found >= least and torch.tensor(-found).exp().to(dtype) > 0
        assert math.log2(found / scaling) == round(math.log2(found / scaling))
