"""What is not supported is refused in one sentence, before anything runs."""

import pytest
import torch
from plans import plan
from tiny import ids, inputs, tiny_llava
from transformers import DynamicCache, GenerationConfig

from learnpruner import Plan, ScorePruner, Signal, Stage
from learnpruner.backbones.family import ModelFamily
from learnpruner.backbones.registry import family_of
from learnpruner.engine.engine import attach_engine
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.uniform import UniformPruner
from learnpruner.utils.errors import UserError

MODEL = tiny_llava()


def refused(match, run, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        run(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("use_cache=False", {"use_cache": False}),
        ("use_cache=False", {"generation_config": GenerationConfig(use_cache=False)}),
        ("prefill_chunk_size", {"prefill_chunk_size": 8}),
        ("inputs_embeds=", {"inputs_embeds": torch.zeros(1, 4, 64)}),
        ("mm_encoder_outputs=", {"mm_encoder_outputs": {"image": 1}}),
    ],
)
def test_settings_of_generate(match, options):
    with plan().on(MODEL):
        refused(match, MODEL.generate, **inputs([ids(1)]), **options)


def test_arguments_of_forward():
    batch = inputs([ids(1)])
    with plan().on(MODEL):
        features = MODEL.get_image_features(batch["pixel_values"])
        embeds = MODEL.get_input_embeddings()(batch["input_ids"])
        words = batch["input_ids"]
        refused("mm_encoder_outputs=", MODEL, input_ids=words, mm_encoder_outputs={"image": features})
        refused("inputs_embeds=", MODEL, inputs_embeds=embeds)
        refused("inputs_embeds=", MODEL.model, inputs_embeds=embeds)


def test_generate_in_masked_mode():
    with plan().on(MODEL, "masked"):
        refused("mode='masked'", MODEL.generate, **inputs([ids(1)]))


def test_a_new_image_in_a_later_turn():
    batch = inputs([ids(1)])
    with plan().on(MODEL):
        first = MODEL.generate(**batch, max_new_tokens=2, return_dict_in_generate=True)
        again = inputs([first.sequences[0].tolist() + ids(1)])
        refused("new image in a later turn", MODEL.generate, **again, past_key_values=first.past_key_values)
        refused("new image in a later turn", MODEL, **again, past_key_values=first.past_key_values)


def test_a_cache_that_was_filled_without_the_plan():
    cache = DynamicCache(config=MODEL.model.language_model.config)
    MODEL(**inputs([ids(0)]), past_key_values=cache)
    with plan().on(MODEL):
        refused("filled cache", MODEL, **inputs([ids(1)]), past_key_values=cache)


def test_reentrant_checkpointing():
    model = tiny_llava().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with plan().on(model, "masked"):
        refused("use_reentrant=False", model, **inputs([ids(1)]))


def test_sliding_windows():
    model = tiny_llava()
    model.model.language_model.config.sliding_window = 16
    refused("sliding-window", plan().attach, model)
    model.model.language_model.config.sliding_window = None
    model.model.language_model.config.layer_types = ["full_attention"] * 5 + ["sliding_attention"]
    refused("sliding-window", plan().attach, model)


def test_compact_positions_with_several_rotary_axes():
    class Axes(ModelFamily):
        rotary_axes = 3

    refused("M-RoPE", attach_engine, plan(positions="compact"), Axes(MODEL))
    Plan.detach(Plan(), MODEL) if attach_engine(plan(), Axes(MODEL)) else None


def test_query_rows_of_another_shape():
    with plan().on(MODEL) as engine:
        engine.query_rows(torch.ones(1, 3))
        refused("query_rows", MODEL, **inputs([ids(1)]))


class Asking(ScorePruner):
    def __init__(self, name, layer=None):
        super().__init__()
        self.needs = frozenset({Signal(name, layer)})


@pytest.mark.parametrize(
    ("match", "stages"),
    [
        ("too few to leave each stage one token", [Stage(Asking("text_attention"), 2)]),
        ("layers 0 to 5", [Stage(Asking("text_attention"), 6)]),
        ("'text_attention' is not available at 'encoder'", [Stage(Asking("text_attention"), "encoder")]),
        ("'_nothing' is not available at 0", [Stage(Asking("_nothing"), 0)]),
        ("'image_key' is not available at 2", [Stage(Asking("image_key"), 2)]),
        ("layer 2 cannot read the attention of layer 2", [Stage(Asking("text_attention", 2), 2)]),
        ("width 48, the backbone has 32", [Stage(LearnedPruner(48), "encoder")]),
        ("list them by depth", [Stage(LearnedPruner(), 0), Stage(LearnedPruner(), "encoder", 2)]),
        ("list them by depth", [Stage(Asking("text_attention"), 3), Stage(Asking("text_attention"), 2)]),
    ],
)
def test_plans_that_do_not_fit(match, stages):
    ratio = 0.1 if "too few" in match else 0.5
    refused(match, lambda: Plan(stages, ratio).attach(MODEL))
    assert "generate" not in MODEL.__dict__


@pytest.mark.parametrize(
    ("match", "mode", "pool"),
    [("choose 'physical' or 'masked'", "soft", None), ("pool=3", "physical", 3), ("pool=-1", "masked", -1)],
)
def test_modes_that_do_not_exist(match, mode, pool):
    refused(match, plan().attach, MODEL, mode, pool)


def test_what_is_no_model_of_hugging_face():
    refused("A plan goes on a Hugging Face model, not on a Linear", plan().attach, torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("match", "at", "name", "layer"),
    [
        ("layers 0 to 2, or -1 for the last", "encoder", "vision_keys", 3),
        ("layers 0 to 2, or -1 for the last", 0, "received_attention", -4),
        ("layers 0 to 2, or -1 for the last", "encoder", "cls_attention", "30/24"),
        ("a fraction of depth such as '9/24'", "encoder", "cls_attention", "last"),
        ("put the stage at 'encoder', not 0", 0, "cls_state", None),
    ],
)
def test_signals_that_the_tower_does_not_have(match, at, name, layer):
    refused(match, lambda: Plan([Stage(Asking(name, layer), at)], 0.5).attach(MODEL))


@pytest.mark.parametrize("name", ["cls_attention", "cls_attention_joined", "cls_state"])
def test_a_tower_without_cls(name):
    class Without(ModelFamily):
        has_cls = False

    refused("has no .CLS. token", attach_engine, Plan([Stage(Asking(name), "encoder")], 0.5), Without(MODEL))
    allowed = Plan([Stage(Asking("vision_keys"), "encoder")], 0.5)
    assert attach_engine(allowed, Without(MODEL)) is not None
    allowed.detach(MODEL)


@pytest.mark.parametrize("at", ["encoder", 0])
def test_scores_that_are_no_numbers_choose_nothing(at):
    """Of one token of one row, too."""

    class Odd(ScorePruner):
        def score(self, view):
            scores = view.tokens.float().mean(-1).clone()
            scores[-1, -1] = torch.nan
            return scores

    model, batch = tiny_llava(), inputs([ids(1), ids(1, seed=1)])
    with torch.no_grad(), Plan([Stage(Odd(), at)], 0.5).on(model), pytest.raises(UserError, match="no numbers"):
        model(**batch)


def test_weights_that_overflow_are_told_of_at_the_first_prompt():
    plan = Plan([Stage(LearnedPruner(), "encoder"), Stage(UniformPruner(), 2)], 0.5)
    model, batch = tiny_llava(), inputs([ids(1)])
    plan.prepare(family_of(model)).eval()
    with torch.no_grad():
        for weight in plan.stages[0].pruner.parameters():
            weight.mul_(1e38)
        with plan.on(model), pytest.raises(UserError, match="load another export"):
            model.generate(**batch, max_new_tokens=2)
