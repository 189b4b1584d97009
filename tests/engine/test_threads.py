"""Several threads on one model that carries a plan: each answers as it would alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plans import plan
from tiny import ids, inputs, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.engine.call_state import current_call, open_call
from learnpruner.pruners.fastervlm import FasterVLM
from learnpruner.pruners.text_attention import TextAttention

THREADS, EACH = 4, 50
MODEL = tiny_llava(layers=4)


def two_stages():
    return Plan([Stage(FasterVLM(), "encoder", 2), Stage(TextAttention(), 2, 1)], 0.5)


def jobs():
    """Prompts of all kinds, one after the other: one image, two, none, two rows."""
    kinds = [[ids(1)], [ids(2, seed=1)], [ids(0, seed=2)], [ids(1, after=9), ids(2, seed=3)]]
    return [inputs(kinds[number % 4], seed=number) for number in range(EACH)]


def together(work):
    """Run work(thread) in several threads that start at once; their results."""
    barrier = threading.Barrier(THREADS)

    def run(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def answers(batches, engine):
    """New tokens, and how many tokens each stage kept."""
    found = []
    for batch in batches:
        tokens = MODEL.generate(**batch, max_new_tokens=3, do_sample=False)
        if "pixel_values" in batch:
            engine.verify()
            found.append((tokens, [stage.tolist() for stage in engine.record.tokens]))
        else:
            found.append((tokens, None))
    return found


def same(found, expected):
    return all(torch.equal(a, b) and kept == wanted for (a, kept), (b, wanted) in zip(found, expected, strict=True))


def test_four_threads_generate_as_one():
    batches = jobs()
    with two_stages().on(MODEL) as engine:
        expected = answers(batches, engine)
        order = [batches[number:] + batches[:number] for number in range(THREADS)]  # each another at the same time
        wanted = [expected[number:] + expected[:number] for number in range(THREADS)]
        found = together(lambda number: answers(order[number], engine))
    assert all(same(*pair) for pair in zip(found, wanted, strict=True))


def test_threads_with_budgets_of_their_own():
    batches, pruned = jobs()[:12], two_stages()
    ratios = (0.3, 0.5, 0.8, 1.0)
    with pruned.on(MODEL) as engine:

        def answer(number):
            with pruned.budget(ratios[number]):
                return answers(batches, engine)

        alone = [answer(number) for number in range(THREADS)]
        found = together(answer)
    assert all(same(*pair) for pair in zip(found, alone, strict=True))
    assert len({str(kept) for one in found for _, kept in one}) >= THREADS


def test_what_one_thread_sets_and_sees_is_its_own():
    batch = inputs([ids(1)])
    with plan("two", 0.5).on(MODEL) as engine, torch.no_grad():
        MODEL(**batch)
        mine = engine.record

        def other(number):
            assert engine.record is None
            with pytest.raises(RuntimeError, match="in this thread"):
                engine.verify()
            engine.query_rows(torch.ones(3, 3, dtype=torch.bool))
            with pytest.raises(ValueError, match="query_rows"):
                MODEL(**batch)

        together(other)
        assert engine.record is mine
        MODEL(**batch)


def test_behind_a_call_inside_another_the_outer_one_goes_on():
    with open_call("engine", "outer", None) as outer:
        with open_call("another engine", "inner", None) as inner:
            assert current_call("engine") is outer and current_call("another engine") is inner and inner.outer is outer
        assert current_call("engine") is outer and current_call("another engine") is None
    assert current_call("engine") is None
