"""Downsampling: as many tokens as is said, and what unmodified Hugging Face answers to the smaller picture."""

import json
import math

import pytest
import torch
from families import FAMILIES, picture
from PIL import Image

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison.method_runs import OK, REFUSED
from learnpruner.comparison.task import ComparisonTask
from learnpruner.evaluation.downsampling import (
    Downsampling,
    build_contestants,
    check_downsampling,
    downsampled_grid,
    downsampled_prompts,
    generate_downsampled,
    smaller_picture,
)
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan.pruner_configs import PrunerConfigs

FIXED, NATIVE = ("llava", "llava_siglip"), ("qwen2_5_vl", "qwen3_vl")
RATIOS = (1.0, 0.5, 0.25, 0.1, 0.03)
QUESTIONS = ["what color is the circle ?", "how many ?"]


def made(name):
    return Backbone(*reversed(FAMILIES[name].make()), name)


@pytest.fixture(scope="module", params=(*FIXED, *NATIVE))
def backbone(request):
    torch.set_num_threads(1)
    return made(request.param)


def answers(backbone, contestant, images, questions):
    with torch.inference_mode():
        if contestant is not None:
            return generate_downsampled(backbone, contestant, images, questions, 5)
        return generate_and_verify(backbone, None, encode_prompts(backbone, images, questions), 5)


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (8, 6), (1, 5), (36, 36)])
def test_a_smaller_grid_has_the_shape_and_at_most_the_tokens(rows, columns):
    for kept in range(1, rows * columns + 1):
        height, width = downsampled_grid(rows, columns, kept / (rows * columns))
        assert 1 <= height * width <= kept and height <= rows and width <= columns
        assert abs(height - rows * math.sqrt(kept / rows / columns)) < 1.01
    assert downsampled_grid(rows, columns, 1.0) == (rows, columns)


def test_the_budgets_of_the_table_on_576_tokens():
    found = [Downsampling(ratio).tokens(576, 32) for ratio in (0.5, 0.222, 0.111, 0.055, 0.028, 0.014)]
    assert [one["entering"] for one in found] == [272, 121, 64, 30, 16, 6]
    assert all(one["entering"] == one["averaged"] == one["final"] for one in found)


@pytest.mark.parametrize("ratio", RATIOS)
def test_as_many_tokens_enter_as_is_said(backbone, ratio):
    sizes = FAMILIES[backbone.name].sizes
    images = [picture(size, i) for i, size in enumerate(sizes)]
    inputs = downsampled_prompts(backbone, images, ["what ?"] * len(images), ratio)
    counts = backbone.family.placeholders(inputs["input_ids"]).sum(1).tolist()
    if backbone.name in FIXED:
        assert counts == [Downsampling(ratio).tokens(backbone.family.tokens, 6)["entering"]] * len(images)
    else:
        merge = backbone.processor.image_processor.merge_size
        whole = backbone.processor.image_processor(images=images, return_tensors="pt")["image_grid_thw"]
        grids = [downsampled_grid(h // merge, w // merge, ratio) for _, h, w in whole.tolist()]
        assert counts == [math.prod(grid) for grid in grids]
        assert counts == (inputs["image_grid_thw"].prod(-1) // merge**2).tolist()
    seen = []
    hook = backbone.family.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    answers(backbone, Downsampling(ratio), images[:1], ["what ?"])
    hook.remove()
    text = inputs["attention_mask"][0].sum().item() - counts[0]
    assert seen[0].shape[1] == text + counts[0]


def plainly_smaller(image, backbone, ratio):
    """The picture cropped or stretched as the processor would, then resized."""
    if backbone.name in FIXED:
        side = min(image.size)
        left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if backbone.name in FIXED:
        rows, columns = downsampled_grid(6, 6, ratio)
        return image.resize((columns * 8, rows * 8), Image.Resampling.BICUBIC)
    _, height, width = backbone.processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"][
        0
    ].tolist()
    rows, columns = downsampled_grid(height // 2, width // 2, ratio)
    return image.resize((columns * 8, rows * 8), Image.Resampling.BICUBIC)


@torch.inference_mode()
def plainly_answered(backbone, image, question):
    """Hugging Face alone: the tower with interpolated positions where it has one size, its features put in by hand."""
    processor, model = backbone.processor, backbone.model
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    options = {"do_resize": False, **({"do_center_crop": False} if backbone.name in FIXED else {})}
    inputs = processor(text=[prompt], images=[image], return_tensors="pt", **options)
    settings = {"do_sample": False, "max_new_tokens": 5}
    if backbone.name in NATIVE:
        new = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    else:
        found = model.model.get_image_features(inputs["pixel_values"], interpolate_pos_encoding=True)
        features = torch.cat([*found.pooler_output])
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        embeddings[inputs["input_ids"] == model.config.image_token_id] = features.reshape(-1, features.shape[-1])
        new = model.generate(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], **settings)
    return processor.decode(new[0], skip_special_tokens=True)


@pytest.mark.parametrize("ratio", (0.5, 0.1))
def test_the_answers_are_hugging_faces_on_the_smaller_picture(backbone, ratio):
    images = [picture(size, i) for i, size in enumerate(FAMILIES[backbone.name].sizes[1:3])]
    given = answers(backbone, Downsampling(ratio), images, QUESTIONS)
    small = [plainly_smaller(image, backbone, ratio) for image in images]
    assert given == [plainly_answered(backbone, *one) for one in zip(small, QUESTIONS, strict=True)]
    assert given != answers(backbone, None, images, QUESTIONS)


def test_a_picture_of_the_towers_size_stays_as_it_is():
    backbone = made("llava")
    images = [picture((48, 48), i) for i in range(2)]
    assert smaller_picture(backbone, images[0], 1.0).tobytes() == images[0].tobytes()
    assert answers(backbone, Downsampling(1.0), images, QUESTIONS) == answers(backbone, None, images, QUESTIONS)


def test_pictures_padded_to_squares_are_shown_whole():
    backbone = Backbone(*reversed(FAMILIES["llava"].make()), "llava", image_aspect="pad")
    inputs = downsampled_prompts(backbone, [Image.new("RGB", (90, 40), "white")], ["what ?"], 0.25)
    rows = inputs["pixel_values"][0].mean((0, 2))
    assert inputs["pixel_values"].shape == (1, 3, 24, 24) and rows[0] < 0.1 < 1 < rows[12] and rows[-1] < 0.1


def test_nothing_is_left_on_the_model(backbone):
    tower = backbone.family.tower
    before = len(tower._forward_pre_hooks)
    images = [picture((48, 48))]
    whole = answers(backbone, None, images, QUESTIONS[:1])
    answers(backbone, Downsampling(0.25), images, QUESTIONS[:1])
    assert len(tower._forward_pre_hooks) == before
    assert answers(backbone, None, images, QUESTIONS[:1]) == whole


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "video_llava"])
def test_families_that_cut_pictures_up_refuse_in_a_sentence(name, caplog):
    backbone = made(name)
    with pytest.raises(ValueError, match="downsampling is not possible on"):
        check_downsampling(backbone)
    built = build_contestants(PrunerConfigs(), {"small": "downsampling", "random": "random"}, 0.5, backbone)
    assert list(built) == ["random"] and "the baseline small is left out" in caplog.text


def test_videos_are_refused():
    backbone = made("qwen2_5_vl")
    with pytest.raises(ValueError, match="this benchmark shows videos"):
        downsampled_prompts(backbone, [[picture((48, 48))] * 4], ["what ?"], 0.5)


def test_a_budget_is_a_share():
    with pytest.raises(ValueError, match=r"prune_ratio=1\.5 is refused"):
        Downsampling(1.5)


def test_it_is_a_baseline_and_keeps_its_place():
    backbone = made("llava")
    names = {"random": "random", "small": "downsampling", "uniform": "uniform"}
    built = build_contestants(PrunerConfigs(), names, 0.25, backbone)
    assert list(built) == [*names] and built["small"] == Downsampling(0.25)


@pytest.mark.parametrize(("name", "status"), [("llava", OK), ("qwen2_5_vl", OK), ("llava_next", REFUSED)])
def test_it_is_a_row_of_the_table_with_its_own_count(name, status, tmp_path):
    backbone = made(name)
    task = ComparisonTask(ScenesBenchmark(), 3, 2, 2, methods=["random"], selection_repeats=0, downsampling=True)
    context = TaskContext(backbone, tmp_path, budgets=[0.5, 0.1])
    path, text = task.run(context)
    rows = {(row["method"], row["prune_ratio"]): row for row in json.loads(path.read_text())["rows"]}
    found = [rows["downsampling", ratio] for ratio in (0.5, 0.1)]
    assert [one["status"] for one in found] == [status] * 2
    assert "downsampling" in text and "downsampling" in (tmp_path / "peers.md").read_text()
    if status == OK:
        tokens = backbone.family.tokens
        assert [one["tokens"] for one in found] == [Downsampling(ratio).tokens(tokens, 6) for ratio in (0.5, 0.1)]
        assert all(one["accuracy"] is not None and one["prefill_ratio"] > 0 for one in found)
    else:
        assert "no fewer tokens" in found[0]["why"]
