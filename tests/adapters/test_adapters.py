"""A plan with an adapter is the plan on the adapted model, on every family; the model itself is never changed."""

from __future__ import annotations

import copy
import functools
import gc
import json
import weakref

import pytest
import torch
from families import FAMILIES, picture
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from plans import plan
from safetensors.torch import load_file, save_file
from tiny import ids, inputs, tiny_llava
from torch import nn

import learnpruner
from learnpruner.adapters import LoraAdapter, ProjectorAdapter
from learnpruner.backbones import family_of, load_backbone
from learnpruner.engine.shared_vision import shared_vision

KINDS = {"lora": lambda: LoraAdapter(r=3, alpha=6), "projector": ProjectorAdapter}
WORDS = "is there a red square on the left of any blue circle ?".split()


def disturb(adaptation, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for weight in adaptation.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)


def made(kind, model, stages="two", ratio=0.5):
    """A plan with an adapter that has learned something."""
    found = plan(stages, ratio)
    found.adaptation = KINDS[kind]()
    torch.manual_seed(0)
    found.prepare(family_of(model)).eval()
    disturb(found.adaptation)
    return found


load = functools.partial(learnpruner.load, allow=("plans",))


def bare(found):
    """The same plan without its adapter."""
    return learnpruner.Plan(list(found.stages), found.prune_ratio, found.positions).eval()


TARGETS = r".*language_model\..*_proj"


def by_hand(model, kind, folder, r=3, alpha=6, targets=TARGETS):
    """Another instance of the model, with the exported weights put on by peft, or as the projector's.

    Of the folder only the weights are read: rank, scale and targets are said here once more.
    """
    model = copy.deepcopy(model)
    if kind == "lora":
        tuned = get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, target_modules=targets))
        told = set_peft_model_state_dict(tuned, load_file(folder / "adapter" / "adapter_model.safetensors"))
        assert not told.unexpected_keys
        return tuned.eval()
    family_of(model).projector.load_state_dict(load_file(folder / "adapter" / "projector.safetensors"))
    return model


class Case:
    def __init__(self, name, kind, folder):
        self.name, self.kind, self.folder = name, kind, folder
        backbone = load_backbone(FAMILIES[name].save(folder / "model"))
        self.model, self.processor = backbone.model, backbone.processor
        made(kind, self.model).save(folder / "plan", "some/backbone")
        self.reference = by_hand(self.model, kind, folder / "plan")

    def plan(self, stages="two", ratio=0.5):
        found = made(self.kind, self.model, stages, ratio)
        return found

    def rows(self, counts=((1, 6), (2, 4), (0, 5))):
        sizes, token = FAMILIES[self.name].sizes, self.processor.image_token
        texts = [" ".join([*(f"what {token}" for _ in range(images)), *WORDS[:words]]) for images, words in counts]
        shown = [[picture(sizes[i], i) for i in range(images)] for images, _ in counts]
        return dict(self.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt"))


@pytest.fixture(scope="module", params=[(name, kind) for name in FAMILIES for kind in KINDS], ids="-".join)
def case(request, tmp_path_factory):
    return Case(*request.param, tmp_path_factory.mktemp("adapt"))


@torch.no_grad()
def logits(model, batch, with_plan=None, mode="physical"):
    if with_plan is None:
        return model(**batch).logits
    with with_plan.on(model, mode):
        return model(**batch).logits


def real(batch):
    return batch["attention_mask"].bool()


@pytest.mark.parametrize("stages", ["two", "three"])
def test_keep_all_equals_the_adapted_model_bit_for_bit(case, stages):
    batch = case.rows()
    found, expected = logits(case.model, batch, case.plan(stages, 1.0)), logits(case.reference, batch)
    assert torch.equal(found[real(batch)], expected[real(batch)])
    assert (found - logits(case.model, batch))[real(batch)].abs().max() > 1e-2
    masked = logits(case.model, batch, case.plan(stages, 1.0), "masked")
    assert (masked - expected)[real(batch)].abs().max() < 1e-5


@pytest.mark.parametrize("stages", ["two", "three"])
def test_a_plan_with_an_adapter_is_the_plan_on_the_adapted_model(case, stages):
    batch, with_adapter = case.rows(), case.plan(stages)
    found = logits(case.model, batch, with_adapter)
    assert torch.equal(found, logits(case.reference, batch, bare(with_adapter)))
    assert (found - logits(case.model, batch, bare(with_adapter)))[:, -1].abs().max() > 1e-2


def test_dropping_equals_masking(case):
    batch, with_adapter = case.rows(), case.plan()
    text = real(batch) & ~family_of(case.model).placeholders(batch["input_ids"])
    difference = logits(case.model, batch, with_adapter) - logits(case.model, batch, with_adapter, "masked")
    assert difference[text].abs().max() < 1e-5


def test_it_generates_as_the_adapted_model(case):
    batch, options = case.rows(), {"max_new_tokens": 6, "do_sample": False}
    with_adapter = case.plan()
    with with_adapter.on(case.model) as engine:
        found = case.model.generate(**batch, **options)
    engine.verify()
    with bare(with_adapter).on(case.reference):
        assert torch.equal(found, case.reference.generate(**batch, **options))
    with_adapter.attach(case.model)
    assert torch.equal(found, case.model.generate(**batch, **options))
    with_adapter.detach(case.model)


def state(model):
    """Everything that could be left behind: modules in order, their attributes, weights by identity, flags and hooks."""
    modules = [(name, id(module), sorted(module.__dict__), module.training) for name, module in model.named_modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    weights = [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()]
    return modules, hooks, weights, [type(m) for m in model.modules()], sorted(model.__dict__)


def test_it_leaves_no_trace(case):
    batch, with_adapter = case.rows(), case.plan()
    before, weights = logits(case.model, batch), {k: v.clone() for k, v in case.model.state_dict().items()}
    was = state(case.model)
    for _ in range(2):
        with with_adapter.on(case.model):
            assert state(case.model) != was
            case.model(**batch)
        assert state(case.model) == was
    with pytest.raises(KeyError), with_adapter.on(case.model):
        raise KeyError
    assert state(case.model) == was
    assert torch.equal(logits(case.model, batch), before)
    assert all(torch.equal(value, weights[name]) for name, value in case.model.state_dict().items())


def test_what_is_saved_under_a_plan_is_the_unmodified_model(case, tmp_path):
    """Base names and base weights, whichever part is asked; other weights are loaded into the model, not into the plan."""
    batch, with_adapter = case.rows(), case.plan()
    expected, weights = logits(case.model, batch), {k: v.clone() for k, v in case.model.state_dict().items()}
    language = {k: v.clone() for k, v in family_of(case.model).language_model.state_dict().items()}
    with with_adapter.on(case.model):
        case.model(**batch)
        case.model.save_pretrained(tmp_path)
        for found, own in (
            (case.model.state_dict(), weights),
            (family_of(case.model).language_model.state_dict(), language),
        ):
            assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)
        with pytest.raises(ValueError, match="detach it before weights are loaded"):
            case.model.load_state_dict(weights)
        with pytest.raises(ValueError, match="detach it before the model is copied"):
            copy.deepcopy(case.model)
    again, report = type(case.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again.eval(), batch), expected)
    case.model.load_state_dict(weights)


def test_with_one_run_of_the_tower_for_many_plans_each_has_its_own_adapter(case):
    batch, plans = case.rows(), [case.plan(), bare(case.plan()), case.plan(ratio=1.0)]
    disturb(plans[2].adaptation, seed=5)
    alone = [logits(case.model, batch), *(logits(case.model, batch, one) for one in plans)]
    with shared_vision(case.model):
        shared = [logits(case.model, batch), *(logits(case.model, batch, one) for one in plans)]
        again = logits(case.model, batch)
    for one, other in zip(alone, shared, strict=True):
        assert (one - other)[real(batch)].abs().max() < 1e-5
    assert (again - alone[0])[real(batch)].abs().max() < 1e-5


def test_peft_loads_the_exported_folder_by_itself(case):
    if case.kind == "lora":
        batch = case.rows()
        loaded = PeftModel.from_pretrained(copy.deepcopy(case.model), case.folder / "plan" / "adapter").eval()
        assert torch.equal(logits(loaded, batch), logits(case.reference, batch))


def test_the_update_is_alpha_over_r_times_b_a(tmp_path):
    """Each projection computes W x + 6/3 B A x, with the weights of the exported file."""
    model = tiny_llava()
    with_adapter = made("lora", model)
    weights = load_file(with_adapter.save(tmp_path) / "adapter" / "adapter_model.safetensors")
    merged = copy.deepcopy(model)
    for name, module in merged.named_modules():
        low = [weights.get(f"base_model.model.{name}.lora_{half}.weight") for half in "AB"]
        if low[0] is not None:
            module.weight.data += 6 / 3 * low[1] @ low[0]
    batch = inputs([ids(1)])
    expected = logits(merged, batch, bare(with_adapter))
    torch.testing.assert_close(logits(model, batch, with_adapter), expected, atol=1e-4, rtol=1e-4)
    assert (expected - logits(model, batch, bare(with_adapter))).abs().max() > 1e-2


def test_an_export_carries_the_adapter(case):
    folder, batch = case.folder / "plan", case.rows()
    loaded = load(folder)
    assert json.loads((folder / "config.json").read_text())["adapter"]["kind"] == case.kind
    assert not any("adapt" in name for name in load_file(folder / "model.safetensors"))
    assert torch.equal(logits(case.model, batch, loaded), logits(case.model, batch, case.plan()))
    again = loaded.save(case.folder / "again", "some/backbone")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path.name
    assert load(folder, prune_ratio=0.75).adapts == loaded.adapts


@pytest.mark.parametrize("kind", KINDS)
def test_masked_gradient_reaches_the_adapter_and_not_the_model(kind):
    model, batch = tiny_llava(), inputs([ids(1), ids(1, seed=4)])
    with_adapter = made(kind, model).train()
    with with_adapter.on(model, "masked"):
        model(**batch).logits.square().mean().backward()
    for name, weight in with_adapter.adaptation.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_peft_s_freezing_does_not_reach_the_user_s_model():
    model = tiny_llava().requires_grad_(True)
    with made("lora", model).on(model):
        pass
    assert all(weight.requires_grad for weight in model.parameters()) and not hasattr(model, "peft_config")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_half_precision_computes_in_half_precision(kind):
    model, batch = tiny_llava(dtype=torch.bfloat16), inputs([ids(1)])
    with_adapter = made(kind, model)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    found, expected = logits(model, batch, with_adapter), logits(model, batch, bare(with_adapter))
    assert found.dtype == torch.bfloat16 and not torch.equal(found, expected)
    assert {weight.dtype for weight in with_adapter.adaptation.parameters()} == {torch.float32}


def test_dropout_is_for_training():
    model, batch = tiny_llava(), inputs([ids(1)])
    with_adapter = plan()
    with_adapter.adaptation = LoraAdapter(dropout=0.5)
    disturb(with_adapter.prepare(family_of(model)).adaptation)
    one, other = (logits(model, batch, with_adapter.eval()) for _ in range(2))
    assert torch.equal(one, other)
    one, other = (logits(model, batch, with_adapter.train()) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(logits(model, batch, with_adapter.eval()), logits(model, batch, with_adapter))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing(kind):
    model, batch = tiny_llava(), inputs([ids(1)])
    with_adapter = plan()
    with_adapter.adaptation = KINDS[kind]()
    assert torch.equal(logits(model, batch, with_adapter), logits(model, batch, bare(with_adapter)))


def test_one_plan_on_two_models_and_a_model_can_be_freed():
    models, batch = [tiny_llava(seed=1), tiny_llava(seed=2)], inputs([ids(1)])
    with_adapter = made("lora", models[0])
    alone = [logits(model, batch, with_adapter) for model in models]
    with with_adapter.on(models[0]), with_adapter.on(models[1]), torch.no_grad():
        assert all(torch.equal(model(**batch).logits, one) for model, one in zip(models, alone, strict=True))
    gone = weakref.ref(models.pop())
    gc.collect()
    assert gone() is None


def test_tables_and_folders_say_what_is_adapted():
    assert (plan().adapts, plan().tag) == (None, "r0.25")
    with_adapter = made("lora", tiny_llava())
    assert (with_adapter.adapts, with_adapter.tag) == ("adapts the LLM: LoRA r 3", "r0.5-lora")
    assert with_adapter.describe(36, 6).endswith("from layer 2; adapts the LLM: LoRA r 3")


def refused(match, run, *args):
    with pytest.raises(ValueError, match=match) as caught:
        run(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_for_another_backbone_is_refused(kind, tmp_path):
    made(kind, tiny_llava()).save(tmp_path)
    loaded = load(tmp_path)
    refused("was made for another backbone", loaded.attach, tiny_llava(hidden_size=32, intermediate_size=64))
    if kind == "lora":
        refused("was made for another backbone", load(tmp_path).attach, tiny_llava(layers=4))


def test_a_refused_adapter_leaves_the_model_free(tmp_path):
    made("lora", tiny_llava()).save(tmp_path)
    model = tiny_llava(layers=4)
    was = state(model)
    refused("another backbone", load(tmp_path).attach, model)
    assert state(model) == was
    with plan().on(model):
        pass


@pytest.mark.parametrize(
    ("targets", "match"),
    [("query", "matches no layer .* called .*q_proj"), (".*self_attn", "a LlamaAttention: it must match linear")],
)
def test_targets_that_are_no_linear_layers_are_refused(targets, match):
    with_adapter = plan()
    with_adapter.adaptation = LoraAdapter(target_modules=targets)
    refused(match, with_adapter.attach, tiny_llava())


def test_some_layers_can_be_chosen(tmp_path):
    model = tiny_llava()
    with_adapter = plan()
    with_adapter.adaptation = LoraAdapter(target_modules=r"layers\.[01]\..*(q|v)_proj")
    disturb(with_adapter.prepare(family_of(model)).adaptation)
    assert len(with_adapter.adaptation.weights) == 2 * 2 * 2
    batch = inputs([ids(1)])
    with_adapter.save(tmp_path)
    reference = by_hand(model, "lora", tmp_path, 8, 16, r".*language_model\.layers\.[01]\..*(q|v)_proj")
    assert torch.equal(logits(model, batch, with_adapter.eval()), logits(reference, batch, bare(with_adapter)))


def test_without_peft_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with_adapter = plan()
    with_adapter.adaptation = LoraAdapter()
    refused("needs peft: install it, or choose adapter=projector", with_adapter.attach, tiny_llava())


def test_a_quantized_projector_is_refused():
    model = tiny_llava()
    weight = model.model.multi_modal_projector.linear_1.weight
    packed = nn.Parameter(weight.data.to(torch.uint8), requires_grad=False)
    model.model.multi_modal_projector.linear_1.weight = packed
    with_adapter = plan()
    with_adapter.adaptation = ProjectorAdapter()
    refused("projector is quantized and cannot be adapted: choose adapter=lora", with_adapter.attach, model)


def test_a_model_that_carries_peft_layers_is_refused(tmp_path):
    made("lora", tiny_llava()).save(tmp_path)
    model = by_hand(tiny_llava(), "lora", tmp_path)
    refused("merge_and_unload", load(tmp_path).attach, model)


def test_gradient_checkpointing_with_lora_is_refused():
    model = tiny_llava().train()
    with_adapter = made("lora", model).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    refused("Gradient checkpointing", with_adapter.attach, model)


@pytest.mark.parametrize("broken", ["gone", "cut", "other kind", "unknown setting"])
def test_a_damaged_adapter_is_refused(broken, tmp_path):
    made("lora", tiny_llava()).save(tmp_path)
    path, config = (
        tmp_path / "adapter" / "adapter_model.safetensors",
        json.loads((tmp_path / "config.json").read_text()),
    )
    if broken == "gone":
        path.unlink()
    elif broken == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif broken == "other kind":
        config["adapter"]["kind"] = "prefix"
    else:
        config["adapter"]["rank"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("of kind 'prefix'" if broken == "other kind" else "missing or damaged", load, tmp_path)


def test_an_adapter_with_a_layer_too_few_is_refused(tmp_path):
    made("lora", tiny_llava()).save(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(min(weights))
    save_file(weights, path)
    refused("is missing in the adapter", load(tmp_path).attach, tiny_llava())
