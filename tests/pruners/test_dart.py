"""DART keeps what a plain loop over tokens keeps, and exactly as many as were asked for."""

import pytest
import torch
from tiny import TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.core.signals import KEYS, STATES, TEXT_KEYS, TEXT_MASK, TEXT_STATES
from learnpruner.pruners.dart import DART


def looped(keys, states, text_keys, text_states, keep, visual_pivots=4, text_pivots=4):
    """The rule for one image: lists of vectors -> the kept tokens, ascending."""

    def largest(vectors, count):
        norms = [sum(abs(x) for x in v.tolist()) for v in vectors]
        return sorted(range(len(norms)), key=lambda i: (-norms[i], i))[:count]

    def cosine(a, b):
        return float((a @ b) / (a.norm() * b.norm()))

    mine = largest(keys, min(visual_pivots, keep))
    asking = [states[i] for i in mine] + [text_states[i] for i in largest(text_keys, text_pivots)]
    kept, share, more = set(mine), *divmod(keep - len(mine), len(asking))
    for number, pivot in enumerate(asking):
        free = [j for j in range(len(keys)) if j not in kept]
        free.sort(key=lambda j: (cosine(states[j], pivot), j))
        kept |= set(free[: share + (number < more)])
    return sorted(kept)


def view(n=30, texts=(6, 3, 0), valid=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b, t = len(texts), max(texts)
    mask = torch.arange(t) >= t - torch.tensor(texts)[:, None]
    keys, states = torch.randn(b, n, 8, generator=generator), torch.randn(b, n, 16, generator=generator)
    text_keys, text_states = torch.randn(b, t, 8, generator=generator), torch.randn(b, t, 16, generator=generator)
    seen = {KEYS: keys, STATES: states, TEXT_KEYS: text_keys, TEXT_STATES: text_states, TEXT_MASK: mask}
    return View(states, valid, None, seen)


@pytest.mark.parametrize("keep", [1, 3, 4, 5, 11, 12, 20, 29, 30])
def test_it_equals_a_plain_loop(keep):
    v = view()
    chosen = DART()(v, torch.tensor([keep] * 3))
    for row in range(3):
        real = v[TEXT_MASK][row]
        expected = looped(v[KEYS][row], v[STATES][row], v[TEXT_KEYS][row][real], v[TEXT_STATES][row][real], keep)
        assert chosen.index[row].tolist() == expected
        assert len(expected) == keep


def test_rows_may_keep_different_counts_of_different_candidates():
    valid = torch.arange(30) >= torch.tensor([0, 10, 25])[:, None]
    v, keep = view(valid=valid), torch.tensor([12, 7, 9])
    chosen = DART(2, 3)(v, keep)
    assert chosen.valid.sum(1).tolist() == [12, 7, 5]
    for row in range(3):
        part, real = valid[row], v[TEXT_MASK][row]
        count, before = min(int(keep[row]), int(part.sum())), int((~part).sum())
        expected = looped(
            v[KEYS][row][part], v[STATES][row][part], v[TEXT_KEYS][row][real], v[TEXT_STATES][row][real], count, 2, 3
        )
        assert chosen.index[row][chosen.valid[row]].tolist() == [j + before for j in expected]


@torch.no_grad()
def test_it_keeps_what_the_unmodified_models_keys_and_states_say():
    rows = [ids(1), ids(1, seed=1, after=9)]
    batch, model, plan = inputs(rows), tiny_llava(), Plan([Stage(DART(), 2)], 0.6)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)  # as `generate` counts: padding turns no key
    out = tiny_llava(attention="eager")(**batch, position_ids=positions, output_hidden_states=True)
    keys = out.past_key_values.layers[1].keys.transpose(1, 2).flatten(2)
    states = model.model.language_model.norm(out.hidden_states[2])
    with plan.on(model) as engine:
        model(**batch)
    visual, (keep,) = batch["input_ids"] == 120, plan.counts(TOKENS, 6)
    for row in range(2):
        v, after = visual[row], torch.arange(visual.shape[1]) > visual[row].nonzero().max()
        expected = looped(keys[row][v], states[row][v], keys[row][after], states[row][after], keep)
        assert engine.record.kept[0][row].nonzero()[:, 0].tolist() == expected


def test_equal_tokens_are_kept_in_order():
    v = view()
    same = {signal: torch.ones_like(value) for signal, value in v.signals.items()}
    chosen = DART()(View(v.tokens, None, None, same), torch.tensor([9, 9, 9]))
    assert chosen.index.tolist() == [list(range(9))] * 3
