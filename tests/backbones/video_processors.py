"""Videos through the families' own processors; test_videos.py runs this, where torchvision is or something stands in for it."""

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from plans import plan

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.benchmarks.video import VideoClip
from learnpruner.evaluation.generation import generate_and_verify

NAMES = [name for name, family in FAMILIES.items() if family.videos]
FRAMES = 8
EACH = {
    "llava_onevision": FRAMES * 4 + 1,
    "video_llava": FRAMES * 17,
}  # placeholders: pooled frames and a line break; [CLS]
QUESTIONS = ["is there a red square", "how many objects are on the left"]


def clip(seed, taken=range(0, 80, 10), total=80, rate=10.0):
    """Eight frames of noise out of eighty, which last eight seconds."""
    draw = np.random.default_rng(seed)
    frames = [Image.fromarray(draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in taken]
    return VideoClip(frames, taken, total, rate)


@pytest.fixture(scope="module", params=NAMES)
def backbone(request, tmp_path_factory):
    found = load_backbone(FAMILIES[request.param].save(tmp_path_factory.mktemp(request.param)))
    found.model.name = request.param
    return found


def test_every_frame_that_was_chosen_is_shown(backbone):
    inputs = encode_prompts(backbone, [clip(0)], QUESTIONS[:1])
    shown = int(backbone.family.placeholders(inputs["input_ids"]).sum())
    if backbone.model.name in EACH:
        assert inputs["pixel_values_videos"].shape[1] == FRAMES and shown == EACH[backbone.model.name]
    else:
        ((steps, height, width),) = inputs["video_grid_thw"].tolist()
        assert steps == FRAMES // 2 and shown == steps * height * width // 4


def test_time_in_the_prompt_is_the_videos_own(backbone):
    """Frame 10 k of a video of ten frames a second is shown at second k."""
    inputs = encode_prompts(backbone, [clip(0)], QUESTIONS[:1])
    if backbone.model.name == "qwen2_5_vl":
        assert inputs["second_per_grid_ts"] == pytest.approx([2.0])
    if backbone.model.name == "qwen3_vl":
        said = backbone.processor.tokenizer.decode(inputs["input_ids"][0])
        assert all(f"<{second} seconds>" in said for second in (0.5, 2.5, 4.5, 6.5))  # of two frames each


@torch.no_grad()
def test_keep_all_is_the_unmodified_model(backbone):
    inputs = encode_prompts(backbone, [clip(0), clip(1)], QUESTIONS)
    expected = backbone.model(**inputs).logits
    with plan("two", 1.0).on(backbone.model):
        found = backbone.model(**inputs).logits
    where = inputs["attention_mask"].bool()
    assert torch.equal(found[where], expected[where])


def test_a_batch_answers_as_its_rows_alone_within_the_budget(backbone):
    pruned = plan("two", 0.5)
    both = generate_and_verify(backbone, pruned, encode_prompts(backbone, [clip(0), clip(1)], QUESTIONS), 4)
    for number in range(2):
        inputs = encode_prompts(backbone, [clip(number)], [QUESTIONS[number]])
        assert generate_and_verify(backbone, pruned, inputs, 4) == [both[number]]
