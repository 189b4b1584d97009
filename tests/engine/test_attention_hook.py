"""A driver sees a layer's own queries and keys, and computes with them in fp32 whatever precision is around it."""

import copy

import torch
from plans import Norm, masked_reference
from tiny import ids, inputs, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import Signal
from learnpruner.engine.attention_hook import hooked_attention, install_hook, is_hooked, remove_hook
from learnpruner.engine.driver import AttentionHook
from learnpruner.pruners.text_attention import TextAttention


def test_scores_are_in_fp32_under_autocast():
    model, seen = tiny_llava(layers=2), []
    attention = model.model.language_model.layers[0].self_attn
    query, key = (torch.randn(1, 4, 5, 16, generator=torch.Generator().manual_seed(n)) for n in range(2))
    install_hook(attention)
    driver = AttentionHook(watch=lambda q, k, scaling: seen.append(q @ k.transpose(-1, -2) * scaling))
    with torch.autocast("cpu", torch.bfloat16):
        hooked_attention(attention, query, key, key, None, scaling=0.25, learnpruner=driver)
    remove_hook(attention)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], query @ key.transpose(-1, -2) * 0.25)


class Reading(ScorePruner):
    """Keeps what it read, for the test to look at."""

    needs = frozenset({Signal("text_attention")})

    def score(self, view):
        self.read = view[Signal("text_attention")]
        return self.read


@torch.no_grad()
def test_a_stage_reads_probabilities_in_fp32_under_autocast():
    """What it reads is no value of 16 bits: those fall on a coarse grid."""
    model, batch, reading = tiny_llava(), inputs([ids(1), ids(1, after=9, seed=1)]), Reading()
    with torch.autocast("cpu", torch.bfloat16), Plan([Stage(reading, 2)], 0.5).on(model):
        model(**batch)
    assert reading.read.dtype == torch.float32
    assert (reading.read != reading.read.bfloat16()).float().mean() > 0.9


@torch.no_grad()
def test_two_stages_at_one_layer_decode_on_what_the_second_left():
    """The later stage's sequence is the layers': also for the tokens that follow."""
    model, batch = tiny_llava(), inputs([ids(1), ids(2, seed=1)])
    twice = Plan([Stage(Norm(), 3, 2), Stage(TextAttention(), 3, 1)], 0.7).eval()
    with twice.on(model) as engine:
        out, token = model(**batch), torch.tensor([[7], [9]])
        engine.verify()
        kept = engine.record.alive
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        found = model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values).logits[:, -1]
    assert (kept[0].sum(1) > kept[1].sum(1)).all()
    whole = {**batch, "input_ids": torch.cat([batch["input_ids"], token], 1), "attention_mask": mask}
    alive = [torch.nn.functional.pad(part, (0, 1), value=True) for part in kept]
    expected = masked_reference(model, whole, (3, 3), alive)[:, -1]
    assert (found - expected).abs().max() < 1e-5


def test_a_hook_leaves_a_layers_config_as_it_was():
    model = tiny_llava(layers=2)
    first, second = (layer.self_attn for layer in model.model.language_model.layers)
    config, held = first.config, dict(vars(first.config))
    assert config is second.config
    install_hook(first)
    assert vars(config) == held and second.config is config
    assert set(vars(first.config)) == set(held)
    twin = copy.deepcopy(model).model.language_model.layers[0].self_attn
    for attention, own in ((twin, None), (first, config)):
        assert is_hooked(attention)
        remove_hook(attention)
        assert (
            not is_hooked(attention) and attention.config._attn_implementation == held["_attn_implementation_internal"]
        )
        assert own is None or attention.config is own
