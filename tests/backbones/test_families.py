"""Every property of the engine on every model family: real classes, real processors, tiny random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from families import FAMILIES, picture
from plans import KINDS, Norm, masked_reference, plan, real
from torch import nn

from learnpruner import Plan, Pruner, Selection, Signal, Stage
from learnpruner.backbones import family_of, load_backbone
from learnpruner.core.selection import top_k_selection
from learnpruner.engine.kv_lengths import check_prefill_lengths
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.pruners.fastervlm import FasterVLM
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention

MEDIA = [
    (name, medium) for name, family in FAMILIES.items() for medium in ("image", "video")[: 1 + bool(family.videos)]
]
WORDS = "is there a red square on the left of any blue circle ? how many objects are".split()
MIXED = ((1, 6), (2, 4), (0, 5), (1, 11))  # images and words of each row
NEW = 4


class Case:
    """A family with prompts that show images, or videos."""

    def __init__(self, folder, medium):
        self.backbone, self.medium = load_backbone(folder), medium
        self.model, self.family = self.backbone.model, self.backbone.family

    def rows(self, rows=MIXED, only=None):
        """A batch, padded on the left: (images, words) a row; `only` takes one row of it."""
        firsts = [sum(count for count, _ in rows[:i]) for i in range(len(rows))]
        shown = [list(range(first, first + count)) for first, (count, _) in zip(firsts, rows, strict=True)]
        words = [WORDS[:count] for _, count in rows]
        if only is not None:
            shown, words = [shown[only]], [words[only]]
        return self.images(shown, words) if self.medium == "image" else self.videos(shown, words)

    def images(self, shown, words):
        processor, sizes = self.backbone.processor, FAMILIES[self.name].sizes
        texts = [
            " ".join([*(f"what {processor.image_token}" for _ in s), *w]) for s, w in zip(shown, words, strict=True)
        ]
        pictures = [[picture(sizes[i % len(sizes)], i) for i in row] for row in shown]
        visuals = {"images": pictures} if any(pictures) else {}
        return dict(processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **visuals))

    def videos(self, shown, words):
        """The same by hand: the processor's text, and frames of noise."""
        visuals, left = (
            FAMILIES[self.name].videos([number for row in shown for number in row]) if any(shown) else ({}, [])
        )
        texts = []
        for row, said in zip(shown, words, strict=True):
            texts.append(" ".join([*(f"what {left.pop(0)}" for _ in row), *said]))
        tokens = self.backbone.processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        batch = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        if self.family.rotary_axes > 1:
            batch["mm_token_type_ids"] = 2 * self.family.placeholders(batch["input_ids"])
        return {**batch, **visuals}

    @torch.no_grad()
    def logits(self, batch, with_plan=None, mode="physical"):
        if with_plan is None:
            return self.model(**batch).logits, None
        with with_plan.on(self.model, mode) as engine:
            return self.model(**batch).logits, engine.record

    def generate(self, batch, with_plan=None, **options):
        options = {"max_new_tokens": NEW, "do_sample": False, **options}
        if with_plan is None:
            return self.model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :], None
        with with_plan.on(self.model) as engine:
            found = self.model.generate(**batch, **options)
        return found[:, batch["input_ids"].shape[1] :], engine.record

    def text(self, batch):
        """Positions of text: (B, L)."""
        return real(batch) & ~self.family.placeholders(batch["input_ids"])

    def counts(self, pruned, record):
        """Tokens that each stage should keep of each image, from the plan alone."""
        return [pruned.counts(n, self.family.layers) for n in record.sizes.tolist()]


@pytest.fixture(scope="module", params=MEDIA, ids="-".join)
def case(request, tmp_path_factory):
    name, medium = request.param
    made = Case(FAMILIES[name].save(tmp_path_factory.mktemp(name)), medium)
    made.name = name
    return made


def widest(found, expected, where):
    return (found - expected)[where].abs().max()


@pytest.mark.parametrize("kind", ["two", "three"])
def test_keep_all_is_the_unmodified_model_bit_for_bit(case, kind):
    batch = case.rows()
    found, record = case.logits(batch, plan(kind, 1.0))
    assert torch.equal(found[real(batch)], case.logits(batch)[0][real(batch)])
    assert all(tokens.tolist() == [n[0] for n in case.counts(plan(kind, 1.0), record)] for tokens in record.tokens)


def test_masked_keep_all_equals_the_unmodified_model(case):
    batch = case.rows()
    found, _ = case.logits(batch, plan("three", 1.0), "masked")
    assert widest(found, case.logits(batch)[0], real(batch)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_equals_masking_with_the_same_kept_sets(case, kind):
    batch = case.rows()
    found, record = case.logits(batch, plan(kind, 0.5))
    expected = masked_reference(case.model, batch, record.cuts, record.alive)
    assert widest(found, expected, case.text(batch)) < 1e-5
    masked, again = case.logits(batch, plan(kind, 0.5), "masked")
    assert widest(masked, found, case.text(batch)) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(record.kept, again.kept, strict=True))


@pytest.mark.parametrize("kind", ["two", "three"])
def test_each_image_keeps_its_share_and_the_rest_of_the_prompt_stays(case, kind):
    batch, pruned = case.rows(), plan(kind, 0.5)
    _, record = case.logits(batch, pruned)
    counts, before = case.counts(pruned, record), sum(cut == 0 for cut in record.cuts)
    for number, tokens in enumerate(record.tokens[:before]):
        assert tokens.tolist() == [one[number] for one in counts]
    assert [int(tokens.sum()) for tokens in record.tokens] == [sum(stage) for stage in zip(*counts, strict=True)]
    structural = record.visual.clone()
    structural[record.visual] = record.slots < 0
    assert all((alive | ~(structural | case.text(batch))).all() for alive in record.alive)


@pytest.mark.parametrize("kind", ["two", "three"])
def test_a_batch_equals_its_rows_alone(case, kind):
    batch, pruned = case.rows(), plan(kind, 0.5)
    found, _ = case.logits(batch, pruned)
    for number in range(len(MIXED)):
        alone = case.rows(only=number)
        expected, _ = case.logits(alone, pruned)
        assert (found[number][real(batch)[number]] - expected[0])[case.text(alone)[0]].abs().max() < 1e-5


def test_a_stage_acts_from_the_first_layer_to_which_the_tower_adds_nothing_more(case):
    """Behind layer 0, but in Qwen3-VL, whose tower adds to the tokens behind the first two."""
    first = 2 if case.name == "qwen3_vl" else 1
    assert case.family.earliest_cut == first
    batch, pruned = case.rows(), Plan([Stage(Norm(), first)], 0.7).eval()
    found, record = case.logits(batch, pruned)
    expected = masked_reference(case.model, batch, record.cuts, record.alive)
    assert widest(found, expected, case.text(batch)) < 1e-5
    for cut in range(1, first):
        with pytest.raises(ValueError, match=f"layer {cut} is refused.*choose 0, or {first} or later"):
            Plan([Stage(Norm(), cut)], 0.9).attach(case.model)


def test_pruning_changes_rows_with_images_only(case):
    batch = case.rows()
    change = (case.logits(batch, plan("two", 0.5))[0] - case.logits(batch)[0])[:, -1].abs().amax(-1)
    assert [bool(c > 1e-3) for c in change] == [images > 0 for images, _ in MIXED]


@pytest.mark.parametrize("kind", ["two", "three"])
def test_a_batch_generates_as_its_rows_alone_and_every_cache_holds_its_budget(case, kind):
    batch, pruned = case.rows(), plan(kind, 0.5)
    found, record = case.generate(batch, pruned)
    check_prefill_lengths(record)
    assert max(record.cached) < batch["input_ids"].shape[1]
    for number in range(len(MIXED)):
        alone = case.rows(only=number)
        expected, record = case.generate(alone, pruned)
        assert torch.equal(found[number], expected[0])
        if record is not None:
            text, counts = int((~record.visual).sum() + (record.slots < 0).sum()), case.counts(pruned, record)
            totals = [sum(int(s) for s in (record.slots >= 0).sum()[None]), *map(sum, zip(*counts, strict=True))]
            stages = [sum(cut <= layer for cut in record.cuts) for layer in range(case.family.layers)]
            assert record.cached == [text + totals[stage] for stage in stages]


@torch.no_grad()
def test_cached_decoding_equals_recomputation_with_frozen_kept_sets(case):
    batch = case.rows(((1, 6),))
    found, record = case.generate(batch, plan("two", 0.5))
    alive, new = list(record.alive), []
    for _ in range(NEW):
        new.append(masked_reference(case.model, batch, record.cuts, alive)[:, -1].argmax(-1, keepdim=True))
        batch = dict(batch)
        batch["input_ids"] = torch.cat([batch["input_ids"], new[-1]], 1)
        for name in ("attention_mask", "mm_token_type_ids"):
            if name in batch:
                batch[name] = nn.functional.pad(batch[name], (0, 1), value=int(name == "attention_mask"))
        alive = [nn.functional.pad(mask, (0, 1), value=True) for mask in alive]
    assert torch.equal(found, torch.cat(new, 1))


def test_beams_equal_the_unmodified_model_at_keep_all_and_a_row_alone_when_pruned(case):
    batch = case.rows(MIXED[:3])
    keep_all, _ = case.generate(batch, plan("three", 1.0), num_beams=2)
    assert torch.equal(keep_all, case.generate(batch, num_beams=2)[0])
    found, _ = case.generate(batch, plan("three", 0.5), num_beams=2)
    assert torch.equal(found[:1], case.generate(case.rows(MIXED[:3], only=0), plan("three", 0.5), num_beams=2)[0])


class Same(Pruner):
    """Merges every kept token with itself alone."""

    def forward(self, view, keep):
        chosen = top_k_selection(view.tokens.float().norm(dim=-1), keep, view.valid)
        return Selection(chosen.index, chosen.valid, nn.functional.one_hot(chosen.index, view.tokens.shape[1]).float())


class Doubled(Same):
    """What it keeps counts twice."""

    def forward(self, view, keep):
        chosen = super().forward(view, keep)
        return Selection(chosen.index, chosen.valid, 2 * chosen.merge)


@pytest.mark.parametrize("at", ["encoder", 0])
@pytest.mark.parametrize("mode", ["physical", "masked"])
def test_tokens_that_merge_reach_the_language_model(case, at, mode):
    batch = case.rows()
    expected, _ = case.logits(batch, Plan([Stage(Norm(), at)], 0.5), mode)
    same, _ = case.logits(batch, Plan([Stage(Same(), at)], 0.5), mode)
    doubled, _ = case.logits(batch, Plan([Stage(Doubled(), at)], 0.5), mode)
    assert widest(same, expected, case.text(batch)) < 1e-5
    assert widest(doubled, expected, case.text(batch)) > 1e-3


class Tell(Norm):
    """Notes the tokens that it is shown."""

    together = True

    def score(self, view):
        self.seen = view.tokens
        return super().score(view)


class Across(Norm):
    """Chooses across the images of a prompt, and notes what it was told of their planes."""

    joint = True

    def __init__(self):
        super().__init__()
        self.told = []

    def score(self, view):
        self.told.append((view.tokens.shape[1], view.grid, view.frames))
        return super().score(view)


def test_behind_a_stage_that_has_dropped_tokens_no_plane_is_claimed(case):
    """One image is then one frame without a grid, whatever number happens to be left of a video's frames."""
    first, later = Across(), Across()
    batch = case.rows(((1, 6), (2, 4)))
    _, record = case.logits(batch, Plan([Stage(first, "encoder", 3), Stage(later, 0, 1)], 0.25))
    for n, grid, frames in first.told:
        assert grid is None or grid[0] * grid[1] * frames == n
    assert [(grid, frames) for _, grid, frames in later.told] == [(None, 1), (None, 2)]
    assert record.tokens[1].sum() < record.tokens[0].sum() < record.sizes.sum()


@torch.no_grad()
def test_a_method_is_shown_each_token_at_its_place_in_the_prompt(case):
    """A change to one feature moves the embeddings of the unmodified model exactly where it moves the method's tokens."""
    batch, pruner, embeds, spots = case.rows(((2, 4), (1, 6))), Tell(), [], []
    unit = getattr(case.family, "merged", 1) ** 2  # features of a token

    def nudge(module, args):
        features = args[0].clone(memory_format=torch.contiguous_format)
        features.view(-1, unit, features.shape[-1])[spots] += torch.arange(features.shape[-1]).sin()
        return (features, *args[1:])

    handles = [
        case.family.projector.register_forward_pre_hook(nudge),
        case.family.language_model.register_forward_pre_hook(
            lambda m, a, kw: embeds.append(kw["inputs_embeds"]), with_kwargs=True
        ),
    ]
    found = []
    for spots in ([], [0], [5], [11], [17], [22], [30]):  # noqa: B007  nudge reads it
        case.logits(batch)
        _, record = case.logits(batch, Plan([Stage(pruner, "encoder")], 0.5))
        found.append((embeds[0][record.visual], pruner.seen.flatten(0, 1)))
        embeds.clear()
    for handle in handles:
        handle.remove()
    real, moved = record.slots >= 0, 0
    for shown, seen in found[1:]:
        in_prompt = (shown - found[0][0]).abs().amax(-1)[real] > 1e-6
        in_method = (seen - found[0][1]).abs().amax(-1)[record.slots[real]] > 1e-6
        assert torch.equal(in_prompt, in_method)
        moved += int(in_method.any())
    assert moved >= 3


def test_a_token_of_a_medium_that_is_not_shown_is_text(case):
    """In the middle of the question, as one may write it; the model takes it as a word."""
    config, batch = case.model.config, case.rows()
    other = config.image_token_id if case.medium == "video" else getattr(config, "video_token_id", 5)  # else a word
    last = batch["input_ids"].shape[1] - 3
    batch["input_ids"][:, last] = other
    expected, _ = case.logits(batch)
    found, record = case.logits(batch, plan("three", 1.0))
    assert torch.equal(found[real(batch)], expected[real(batch)])
    assert not record.visual[:, last].any()
    found, record = case.logits(batch, plan("two", 0.5))
    expected = masked_reference(case.model, batch, record.cuts, record.alive)
    text = real(batch) & ~record.visual
    assert text[:, last].all() and widest(found, expected, text) < 1e-5


def test_a_call_that_reads_images_otherwise_than_the_config_is_refused(case):
    other = {
        "vision_feature_layer": 1,
        "vision_feature_select_strategy": "other",
        "vision_aspect_ratio": "anyres_max_9",
    }
    own = {name: value for name in other if (value := getattr(case.model.config, name, None)) is not None}
    for name in own:
        with pytest.raises(ValueError, match=f"{name}=.* is not supported under a plan") as caught:
            case.logits({**case.rows(), name: other[name]}, plan("two", 0.5))
        assert "\n" not in str(caught.value)
    assert torch.equal(*(case.logits({**case.rows(), **given}, plan("two", 0.5))[0] for given in ({}, own)))


def straight_through(logits, keep, valid):
    soft = logits.sigmoid()
    return (logits > 0).float() + soft - soft.detach()


@pytest.mark.parametrize("pool", [None, 3])
def test_gradient_reaches_the_pruner_and_nothing_else(case, pool):
    pruner, batch = LearnedPruner(case.family.feature_width), case.rows()
    pruner.relaxation = straight_through
    pruned = Plan([Stage(pruner, "encoder", 3), Stage(TextAttention(), 3, 1)], 0.25).train()
    with pruned.on(case.model, "masked", pool=pool):
        case.model(**batch).logits[case.text(batch)].log_softmax(-1)[:, :7].sum().backward()
    assert all(p.grad.abs().max() > 0 and p.grad.isfinite().all() for p in pruner.parameters())
    assert all(p.grad is None for p in case.model.parameters())


def test_a_method_that_reads_cls_is_refused_where_there_is_none(case):
    batch, pruned = case.rows(), Plan([Stage(FasterVLM(), "encoder")], 0.5)
    if not case.family.has_cls:
        with pytest.raises(ValueError, match=r"has no \[CLS\]"):
            pruned.attach(case.model)
        return
    found, record = case.logits(batch, pruned)
    assert widest(found, masked_reference(case.model, batch, record.cuts, record.alive), case.text(batch)) < 1e-5
    for number in (1, 3):
        alone, again = case.logits(case.rows(only=number), pruned)
        assert (found[number][real(batch)[number]] - alone[0])[again.visual[0].logical_not()].abs().max() < 1e-5


@torch.no_grad()
def test_the_projector_reads_the_layer_of_the_tower_that_the_adapter_names(case):
    batch, seen = case.rows(((1, 5),)), {}
    tower = case.family.towers[-1 if case.medium == "video" else 0]
    layer = case.family.layers_of(tower)[case.family.feature_layer]
    handles = [
        layer.register_forward_hook(lambda m, a, out: seen.update(made=out if torch.is_tensor(out) else out[0])),
        case.family.projector.register_forward_pre_hook(lambda m, a: seen.update(read=a[0])),
    ]
    case.logits(batch)
    for handle in handles:
        handle.remove()
    read = seen["read"]
    assert read.shape[-1] == case.family.feature_width
    assert torch.equal(read, seen["made"][..., -read.shape[-2] :, :])  # behind [CLS], where it is dropped


class Received(Norm):
    """Notes what each patch receives in the tower."""

    together = True

    needs = frozenset({Signal("received_attention")})

    def score(self, view):
        self.seen = view[Signal("received_attention")]
        return self.seen


@torch.no_grad()
def test_what_patches_receive_in_the_tower_is_the_plain_softmax(case):
    batch, pruner, states = case.rows(((1, 5),)), Received(), []
    pruned = Plan([Stage(pruner, "encoder")], 0.5)
    if not case.family.tower_is_watchable:
        with pytest.raises(ValueError, match="as one sequence"):
            pruned.attach(case.model)
        return
    tower = case.family.towers[-1 if case.medium == "video" else 0]
    attention = case.family.layers_of(tower)[case.family.feature_layer].self_attn
    handle = attention.register_forward_pre_hook(
        lambda m, args, kw: states.append((args or (kw["hidden_states"],))[0]), with_kwargs=True
    )
    case.logits(batch, pruned)
    handle.remove()
    query, key = (
        part(states[0]).unflatten(-1, (4, -1)).transpose(1, 2) for part in (attention.q_proj, attention.k_proj)
    )
    weights = (query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5)).softmax(-1)
    first = weights.mean((1, 2))[0, int(case.family.has_cls) :]  # of the base image, or the first frame
    if case.medium == "image" or case.family.projector_is_pointwise:
        assert (pruner.seen[0, : len(first)] - first).abs().max() < 1e-6
    assert pruner.seen.shape[1] == len(first) or not torch.equal(
        pruner.seen[0, : len(first)], pruner.seen[0, -len(first) :]
    )


def test_images_and_videos_in_one_call_are_refused(case):
    if case.medium == "video":
        with plan("two").on(case.model), pytest.raises(ValueError, match="calls of their own"):
            case.model(**case.rows(), pixel_values=torch.zeros(1))


def test_attaching_and_detaching_leave_no_trace(case):
    def state():
        hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in case.model.modules()]
        kinds = [m.config._attn_implementation for m in case.model.modules() if hasattr(m, "config")]
        return hooks, kinds, sorted(case.model.__dict__), list(case.model.state_dict())

    batch, before = case.rows(), copy.deepcopy(state())
    expected, _ = case.logits(batch)
    for mode in ("physical", "masked"):
        case.logits(batch, plan("three", 0.5), mode)
    assert state() == before
    assert torch.equal(case.logits(batch)[0], expected)


@torch.no_grad()
def test_a_shared_run_of_the_tower_changes_nothing(case):
    batch, pruned, runs = case.rows(), plan("two", 0.5), []
    layers = [case.family.layers_of(tower)[0] for tower in case.family.towers]
    handles = [layer.register_forward_hook(lambda *_: runs.append(1)) for layer in layers]
    expected, unpruned = case.logits(batch, pruned)[0], case.logits(batch)[0]
    runs.clear()
    with shared_vision(case.model):
        first, again, last = case.logits(batch)[0], case.logits(batch, pruned)[0], case.logits(batch, pruned)[0]
    for handle in handles:
        handle.remove()
    assert torch.equal(first, unpruned) and torch.equal(again, expected) and torch.equal(last, expected)
    assert len(runs) == 1


def test_text_alone_passes_untouched(case):
    batch = case.rows(((0, 5), (0, 9)))
    found, record = case.logits(batch, plan("three", 0.5))
    assert torch.equal(found, case.logits(batch)[0]) and record is None


@pytest.mark.parametrize("side", [4, 5, 6])
def test_the_grid_of_a_pooled_frame_is_that_of_its_placeholders(side):
    family = family_of(FAMILIES["llava_onevision"].make()[1])
    vision = family.config.vision_config
    vision.image_size = family.inner_model.config.vision_config.image_size = side * vision.patch_size
    call = {"pixel_values_videos": torch.zeros(1, 3, 1)}
    (shown,) = family.pack(torch.ones(3, side * side, 1), call, 0.0)
    (grids,) = family.grids([shown[:, 0] > 0.5], call)
    assert len(grids) == 3 and sum(height * width for height, width in grids) == int(shown.sum())


def test_the_key_of_a_picture_in_patches_tells_their_order():
    family = family_of(FAMILIES["qwen2_5_vl"].make()[1])
    call = {"pixel_values": torch.zeros(1), "image_grid_thw": torch.tensor([[1, 2, 2], [1, 2, 2]])}
    found = family.image_values(torch.tensor([3, 5, 7, 9, 5, 3, 7, 9]), torch.tensor([0, 4]), call)
    assert len(found) == 2 and found[0] != found[1]
