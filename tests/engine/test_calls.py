"""Which forward passes a plan prunes, and what an interrupted or an unusual call leaves behind: nothing."""

import pytest
import torch
from plans import KINDS, Norm, plan, real
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from learnpruner import Plan, Stage
from learnpruner.pruners.fastervlm import FasterVLM

MODEL = tiny_llava()
NEW = 5
LONG_AND_SHORT = [ids(1, after=9), ids(1, after=4, seed=1)]


@pytest.mark.parametrize("rows", [LONG_AND_SHORT, [ids(0, after=60), ids(1, seed=1)]], ids=["shown", "blind"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_right_padding_where_the_longest_row_loses_nothing(kind, rows):
    batch = inputs(rows, "right")
    batch["labels"] = batch["input_ids"].masked_fill(~real(batch) | (batch["input_ids"] == IMAGE), -100)
    expected = MODEL(**batch)
    with plan(kind, 1.0).on(MODEL):
        found = MODEL(**batch)
    assert (found.logits - expected.logits)[real(batch)].abs().max() < 1e-5
    assert abs(found.loss - expected.loss) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_right_padding_where_text_alone_is_longest(kind):
    """The packed sequence is as long as the prompt, since a row that shows nothing is the longest; others still moved."""
    rows, pruned = [ids(0, after=60), ids(1, seed=1)], plan(kind, 0.5)
    batch = inputs(rows, "right")
    with pruned.on(MODEL):
        found = MODEL(**batch).logits
        for number, row in enumerate(rows):
            alone = inputs([row])
            expected = MODEL(**alone).logits[0]
            shown = torch.tensor(row) != IMAGE
            assert (found[number, : len(row)] - expected)[shown].abs().max() < 1e-5


class Classifier(LogitsProcessor):
    """Runs the model beside its generation, as guidance does, on a text or a prompt of its own."""

    def __init__(self, **given):
        self.given, self.heard = given, []

    def __call__(self, input_ids, scores):
        self.heard.append(MODEL(**self.given).logits[:, -1])
        return scores


def beside(batch, other):
    judge = Classifier(**other)
    out = MODEL.generate(**batch, max_new_tokens=3, do_sample=False, logits_processor=LogitsProcessorList([judge]))
    return out, judge.heard


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_text_beside_generation_passes_untouched(kind):
    batch, other = inputs([ids(1)]), {"input_ids": torch.tensor([[1, 5, 9, 17]])}
    expected = MODEL(**other).logits[:, -1]
    with plan(kind, 0.5).on(MODEL):
        alone = MODEL.generate(**batch, max_new_tokens=3, do_sample=False)
        out, heard = beside(batch, other)
    assert torch.equal(out, alone)
    assert all(torch.equal(one, expected) for one in heard)


@torch.no_grad()
def test_another_prompt_with_an_image_beside_generation_is_pruned_as_on_its_own():
    batch, other = inputs([ids(1)]), inputs([ids(1, seed=5)], seed=5)
    with plan("two", 0.5).on(MODEL):
        expected, alone = MODEL(**other).logits[:, -1], MODEL.generate(**batch, max_new_tokens=3, do_sample=False)
        out, heard = beside(batch, other)
    assert torch.equal(out, alone)
    assert all(torch.equal(one, expected) for one in heard)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_guidance_equals_a_loop_of_pruned_and_unpruned_steps(kind):
    """`guidance_scale`: log-probabilities of the pruned prompt, and of the text so far alone by the unpruned model."""
    batch, scale = inputs([ids(1)]), 1.5
    twin, sequence = tiny_llava(), []
    with plan(kind, 0.5).on(MODEL):
        found = MODEL.generate(**batch, max_new_tokens=NEW, do_sample=False, guidance_scale=scale)
        out = MODEL(**batch)
        for _ in range(NEW):
            with_image = out.logits[0, -1].log_softmax(-1)
            text = torch.tensor([[batch["input_ids"][0, -1].item(), *sequence]])
            without = twin(input_ids=text).logits[0, -1].log_softmax(-1)
            sequence.append(int((scale * (with_image - without) + without).argmax()))
            out = MODEL(input_ids=torch.tensor([[sequence[-1]]]), past_key_values=out.past_key_values)
    assert found[0, -NEW:].tolist() == sequence


class Interrupt:
    """Breaks off the next forward pass in a layer of the language model, as Ctrl-C would."""

    def __init__(self, layer):
        self.handle = MODEL.model.language_model.layers[layer].register_forward_hook(self)

    def __call__(self, *_):
        self.handle.remove()
        raise KeyboardInterrupt


@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("entry", ["forward", "core", "generate"])
@torch.no_grad()
def test_an_interrupted_call_leaves_nothing_to_the_next(entry, layer):
    batch, other = inputs([ids(1)]), inputs([ids(2, seed=3)], seed=3)
    call = {
        "forward": MODEL,
        "core": MODEL.model,
        "generate": lambda **given: MODEL.generate(**given, max_new_tokens=2),
    }[entry]
    text = {"input_ids": torch.tensor([[1, 5, 9]])}
    untouched = MODEL(**text).logits
    with plan("two", 0.5).on(MODEL):
        expected = MODEL(**other).logits
        core = MODEL.model(**other).last_hidden_state
        Interrupt(layer)
        with pytest.raises(KeyboardInterrupt):
            call(**batch)
        assert torch.equal(MODEL.model(**other).last_hidden_state, core)
        Interrupt(layer)
        with pytest.raises(KeyboardInterrupt):
            call(**batch)
        assert torch.equal(MODEL(**text).logits, untouched)
        assert torch.equal(MODEL(**other).logits, expected)


@pytest.mark.parametrize(
    "positions",
    [
        torch.cat([torch.arange(30), torch.arange(len(ids(1)) - 30)])[None],
        torch.arange(len(ids(1)))[None] * 2,
    ],
    ids=["anew", "gaps"],
)
def test_several_samples_in_one_row_are_refused(positions):
    batch = inputs([ids(1)])
    del batch["attention_mask"]
    with plan().on(MODEL):
        with pytest.raises(ValueError, match="packed in one row"):
            MODEL(**batch, position_ids=positions)
        with pytest.raises(ValueError, match="packed in one row"):
            MODEL(**batch, cu_seq_lens_q=torch.tensor([0, 30, len(ids(1))]))
        MODEL(**batch, position_ids=torch.arange(7, 7 + len(ids(1)))[None])  # an offset alone packs nothing
        three = inputs([ids(1)] * 3)  # as many rows as M-RoPE has axes
        del three["attention_mask"]
        with pytest.raises(ValueError, match="packed in one row"):
            MODEL(**three, position_ids=positions.expand(3, -1))


def test_masks_that_are_not_one_flag_a_token_are_refused():
    batch = inputs([ids(1)])
    length = len(ids(1))
    with plan().on(MODEL):
        for shape in ((1, 1, length, length), (1, length + 1), (1, length, length)):
            with pytest.raises(ValueError, match="one flag a token"):
                MODEL(**{**batch, "attention_mask": torch.ones(shape)})


def test_pictures_without_ids_are_refused():
    with plan().on(MODEL), pytest.raises(ValueError, match="without input_ids"):
        MODEL(pixel_values=inputs([ids(1)])["pixel_values"])


@pytest.mark.parametrize("where", ["call", "config", "model"])
def test_a_dynamic_cache_by_name(where):
    batch, options = inputs([ids(1), ids(2, seed=1)]), {"max_new_tokens": NEW, "do_sample": False}
    with plan("two", 0.5).on(MODEL) as engine:
        expected = MODEL.generate(**batch, **options)
        if where == "call":
            found = MODEL.generate(**batch, **options, cache_implementation="dynamic")
        elif where == "config":
            config = GenerationConfig(**options, cache_implementation="dynamic", pad_token_id=0)
            found = MODEL.generate(**batch, generation_config=config)
        else:
            MODEL.generation_config.cache_implementation = "dynamic"
            try:
                found = MODEL.generate(**batch, **options)
            finally:
                MODEL.generation_config.cache_implementation = None
        engine.verify()
    assert torch.equal(found, expected)


def test_an_unpruned_draft_of_a_pruned_model_changes_no_token():
    batch, draft = inputs([ids(1)]), tiny_llava(layers=2, seed=3)
    with plan("two", 0.5).on(MODEL):
        expected = MODEL.generate(**batch, max_new_tokens=12, do_sample=False)
        assert torch.equal(MODEL.generate(**batch, max_new_tokens=12, do_sample=False, assistant_model=draft), expected)


def test_a_pruned_draft_is_refused_by_name_of_who_may_carry_the_plan():
    draft = tiny_llava(layers=4, seed=3)
    with plan("inside", 0.6).on(draft), pytest.raises(ValueError, match="only the model can carry a plan"):
        MODEL.generate(**inputs([ids(1)]), max_new_tokens=4, assistant_model=draft)


@torch.no_grad()
def test_a_budget_set_on_an_attached_plan_takes_effect():
    batch, pruned = inputs([ids(1)]), Plan([Stage(Norm(), "encoder")], 0.5)
    with pruned.on(MODEL) as engine:
        MODEL(**batch)
        assert engine.record.tokens[0].item() == TOKENS // 2
        pruned.prune_ratio = 0.25
        MODEL(**batch)
        assert engine.record.tokens[0].item() == TOKENS // 4
        assert pruned.describe(TOKENS, 6).startswith(f"keeping {TOKENS // 4}.0")
        with pruned.budget(1 / 3):
            MODEL(**batch)
            assert engine.record.tokens[0].item() == TOKENS // 3
        MODEL(**batch)
        assert engine.record.tokens[0].item() == TOKENS // 4


def test_what_an_attached_plan_cannot_change_is_refused():
    pruned = plan("two", 0.5)
    with pruned.on(MODEL):
        for ratio in (7, 0, "many", 0.001):
            with pytest.raises(ValueError, match=r"prune_ratio|infeasible"):
                pruned.prune_ratio = ratio
            with pytest.raises(ValueError, match=r"prune_ratio|infeasible"), pruned.budget(ratio):
                pass
        assert pruned.prune_ratio == 0.5
        for part, name, value in (
            (pruned, "positions", "compact"),
            (pruned, "stages", []),
            (pruned, "adaptation", None),
            (pruned.stages[0], "at", 2),
            (pruned.stages[0], "token_share", 2.0),
            (pruned.stages[1], "pruner", Norm()),
        ):
            with pytest.raises(ValueError, match=f"{name} of a .* detach it first"):
                setattr(part, name, value)
    pruned.positions, pruned.stages[0].token_share = "compact", 2.0


def test_an_attachment_that_fails_leaves_no_trace():
    model = tiny_llava()

    class Broken(Plan):
        @property
        def adaptation(self):
            raise RuntimeError("no adapter today")

        @adaptation.setter
        def adaptation(self, value):
            pass

    broken, before = Broken([Stage(FasterVLM(), "encoder")], 0.5), set(model.__dict__)
    with pytest.raises(RuntimeError, match="no adapter today"):
        broken.attach(model)
    assert set(model.__dict__) == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    with plan().on(model):
        pass
