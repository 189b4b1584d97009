"""The embedded backbone's pre-training: packing, resuming, processor, export."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from learnpruner.data.scenes import (
    CANVAS,
    COLOR_NAMES,
    COLUMN_NAMES,
    GRID,
    MOST_DIGITS,
    NO_LABEL,
    OUTLINES,
    PATCH,
    ROW_NAMES,
    TEXTURES,
    make_scene,
)
from learnpruner.nano.language import _CUT, late_dropout_mask, packed_answer_logits, pad_patches, sample_patches
from learnpruner.nano.model import (
    WORD_ID,
    WORDS,
    NanoShape,
    build_nano_model,
    build_nano_processor,
    initialise_weights,
    normalise_pixels,
)
from learnpruner.nano.questions import AFTER_IMAGE, pack_question_rows
from learnpruner.nano.stage import PretrainStage, run_pretrain_stage, warmup_decay
from learnpruner.nano.symbols import patch_symbols
from learnpruner.nano.tuning import patch_features
from learnpruner.nano.vision import caption_loss, dense_patch_targets, patch_pixels, to_windows, tower_states

ROOT = Path(__file__).parents[2]
SMALL = NanoShape(vision_width=32, vision_layers=3, text_width=32, text_layers=2, heads=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    built = build_nano_model(SMALL).eval()
    initialise_weights(built)
    return built


def test_packed_turns_equal_separate_prompts(model) -> None:
    """Isolation: a turn's logits in the pack are those of plain Hugging Face on the prompt with this turn alone."""
    scenes = [make_scene("train", i, questions=3) for i in range(2)]
    pixels = normalise_pixels(torch.from_numpy(np.stack([s.image for s in scenes])))
    every = torch.arange(GRID * GRID).expand(2, -1)
    features = model.model.get_image_features(pixels).pooler_output
    with torch.no_grad():
        batch = pack_question_rows([s.questions for s in scenes], every)
        packed = packed_answer_logits(model, torch.stack(list(features)), batch)
        for b, scene in enumerate(scenes):
            start = 2 + GRID * GRID
            for question in scene.questions:
                words = question.text.replace("?", " ?").split() + ["ASSISTANT:"] + question.answer.split() + ["</s>"]
                ids = [
                    WORD_ID["<s>"],
                    WORD_ID["USER:"],
                    *[WORD_ID["<image>"]] * GRID * GRID,
                    *(WORD_ID[w] for w in words),
                ]
                alone = model(input_ids=torch.tensor([ids]), pixel_values=pixels[b : b + 1]).logits[0, -len(words) :]
                torch.testing.assert_close(packed[b, start : start + len(words)], alone, atol=1e-4, rtol=0)
                start += len(words)


def test_sampled_patches_hold_every_fact() -> None:
    rng = np.random.default_rng(0)
    for index in range(30):
        scene = make_scene("train", index, questions=0, render=False)
        chosen = sample_patches(scene, rng, copies=1, background=2)
        assert set(range(len(scene.things) + 1)) == set(scene.labels.thing[chosen])
        assert scene.labels.mark[chosen].any()
        for plate in scene.plates:
            assert all(np.isin(part, chosen).any() for part in scene.digit_patches(plate))
        assert np.isin(sample_patches(scene, rng, 99, 0), np.flatnonzero(scene.labels.thing)).all()
    patches, valid = pad_patches([np.array([1, 5, 7]), np.array([2])])
    assert patches.tolist() == [[1, 5, 7], [2, 0, 0]] and valid.tolist() == [[True] * 3, [True, False, False]]


def test_padded_patches_do_not_change_answers(model) -> None:
    torch.manual_seed(1)
    question = make_scene("train", 0, questions=2, render=False).questions
    visual = torch.randn(1, 9, 32)
    places = torch.arange(9)[None] * 3
    valid = (torch.arange(9) < 6)[None]
    with torch.no_grad():
        padded = packed_answer_logits(model, visual, pack_question_rows([question], places, valid))
        alone = packed_answer_logits(model, visual[:, :6], pack_question_rows([question], places[:, :6]))
    torch.testing.assert_close(padded[:, 2 + 9 :], alone[:, 2 + 6 :], atol=1e-5, rtol=0)
    assert pack_question_rows([question], places).positions[0, 2 + 9] == AFTER_IMAGE


def test_late_layers_read_the_mask_of_their_own() -> None:
    torch.manual_seed(0)
    deep = build_nano_model(NanoShape(32, 3, 32, text_layers=_CUT + 2, heads=2)).eval()
    initialise_weights(deep)
    batch = pack_question_rows([make_scene("train", 0, questions=2, render=False).questions], torch.arange(9)[None] * 3)
    visual = torch.randn(1, 9, 32)
    hidden = late_dropout_mask(batch, np.random.default_rng(0))
    text = [i for i in range(hidden.shape[-1]) if not 2 <= i < 11]
    assert torch.equal(hidden[..., text], batch.mask[..., text]), "only image tokens are hidden"
    assert hidden[..., 11:, 2:11].sum() < 0.7 * batch.mask[..., 11:, 2:11].sum()
    with torch.no_grad():
        plain = packed_answer_logits(deep, visual, batch)
        assert torch.equal(packed_answer_logits(deep, visual, batch, late=batch.mask), plain)
        assert not torch.allclose(packed_answer_logits(deep, visual, batch, late=hidden), plain, atol=1e-3)
        whole = dataclasses.replace(batch, mask=hidden)
        assert not torch.allclose(
            packed_answer_logits(deep, visual, whole), packed_answer_logits(deep, visual, batch, hidden), atol=1e-3
        )
        assert torch.equal(packed_answer_logits(deep, visual, batch), plain), "no hook stays behind"


def test_symbols_and_labels_tell_what_a_patch_shows_itself() -> None:
    scene = make_scene("train", 3, questions=0, render=False)
    says, targets = patch_symbols(scene), {name: values[0] for name, values in dense_patch_targets([scene]).items()}
    words = [{WORDS[i] for i in row if i < len(WORDS)} - {"<pad>"} for row in says]
    for i, thing in enumerate(scene.things):
        patch = int(np.flatnonzero(scene.labels.thing == i + 1)[0])
        named = {thing.color, thing.row, thing.column, *(("plate",) if thing.is_plate else ("object", thing.outline))}
        assert named <= words[patch] and targets["thing"][patch] == 1
        assert targets["outline"][patch] == OUTLINES.index(thing.outline)
    for plate in scene.plates:
        digits = plate.number.split()
        for place, part in enumerate(scene.digit_patches(plate)):
            for patch in part:
                assert {word for word in words[patch] if word.isdigit()} == {digits[place]}, "its own digit alone"
                read = [int(targets[name][patch]) for name in ("digit", "place", "last")]
                assert read == [int(digits[place]), place, place + 1 == len(digits)]
                rows = {int(i) - len(WORDS) for i in says[patch] if i >= len(WORDS)}
                assert rows == {place} | ({MOST_DIGITS} if place + 1 == len(digits) else set())
    loose = np.flatnonzero((scene.labels.digit != NO_LABEL) & (scene.labels.place == NO_LABEL))
    for patch in loose:
        assert words[patch] == {str(scene.labels.digit[patch])} and len(WORDS) + MOST_DIGITS + 1 in says[patch]
    free = np.flatnonzero(scene.labels.free)
    for patch in (free[0], free[-1]):
        side = "right" if patch % GRID >= GRID // 2 else "left"
        texture = scene.background[side == "right"]
        assert words[patch] == {"background", side, texture}
        assert targets["background"][patch] == TEXTURES.index(texture)


def test_the_caption_tells_of_each_color_how_many_and_what_the_largest_is() -> None:
    """Perfect readings cost nothing; readings without a preference cost the logarithms of the numbers of classes."""
    scenes = [make_scene("train", i, questions=0, render=False) for i in range(3)]
    sizes = (4, len(OUTLINES), 3, 3)
    loss, _ = caption_loss(torch.zeros(3, len(COLOR_NAMES) * sum(sizes)), scenes)
    assert loss.item() == pytest.approx(sum(np.log(sizes)), abs=1e-4)
    told = torch.zeros(3, len(COLOR_NAMES), sum(sizes))
    for row, scene in enumerate(scenes):
        for color, name in enumerate(COLOR_NAMES):
            alike = sorted((t for t in scene.things if t.color == name), key=lambda t: -len(t.patches))
            told[row, color, min(3, len(alike))] = 50
            if alike:
                places = (OUTLINES.index(alike[0].outline), ROW_NAMES.index(alike[0].row))
                starts = np.cumsum((0, *sizes))[1:]
                for start, place in zip(starts, (*places, COLUMN_NAMES.index(alike[0].column)), strict=False):
                    told[row, color, start + place] = 50
    loss, right = caption_loss(told.flatten(1), scenes)
    assert loss.item() < 1e-4 and right == 1.0


def test_dense_pixels_are_the_patch_s_own() -> None:
    pixels = torch.randn(2, 3, CANVAS, CANVAS)
    own = patch_pixels(pixels)
    assert torch.equal(own[1, GRID * 5 + 7].view(3, PATCH, PATCH), pixels[1, :, 40:48, 56:64])


def test_windows_are_the_four_quadrants() -> None:
    raster = torch.arange(GRID * GRID).view(1, -1)
    quadrants = to_windows(raster)
    square = raster.view(GRID, GRID)
    for number, (y, x) in enumerate([(0, 0), (0, 12), (12, 0), (12, 12)]):
        assert torch.equal(quadrants[number], square[y : y + 12, x : x + 12].flatten())


def test_features_are_what_llava_reads(model) -> None:
    pixels = normalise_pixels(torch.from_numpy(make_scene("train", 0, questions=0).image)[None])
    with torch.no_grad():
        ours = tower_states(model.model.vision_tower, pixels, windows=False)[:, 1:]
        theirs = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(patch_features(model, pixels), theirs, atol=0.1, rtol=0.1)


def test_processor_knows_every_word_and_delivers_our_pixels() -> None:
    processor = build_nano_processor()
    scene = make_scene("train", 1)
    batch = processor(images=Image.fromarray(scene.image), text="USER: <image>\nis it? ASSISTANT:", return_tensors="pt")
    torch.testing.assert_close(batch["pixel_values"], normalise_pixels(torch.from_numpy(scene.image)[None]))
    assert (batch["input_ids"] == WORD_ID["<image>"]).sum() == GRID * GRID
    for index in range(200):
        for question in make_scene("test", index, render=False).questions:
            ids = processor.tokenizer(f"{question.text} {question.answer}")["input_ids"]
            assert WORD_ID["<unk>"] not in ids, question.text


def test_a_resumed_stage_repeats_the_uninterrupted_one(tmp_path) -> None:
    def losses(folder: Path, stops: list[int]) -> list[float]:
        seen: list[float] = []
        for stop in stops:
            torch.manual_seed(0)
            layer = nn.Linear(4, 1)

            def loss(step: int, layer: nn.Linear = layer, stop: int = stop) -> tuple[torch.Tensor, dict[str, float]]:
                if step == stop:
                    raise KeyboardInterrupt
                x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
                value = (layer(x) - x.sum(1, keepdim=True)).pow(2).mean()
                seen.append(value.item())
                return value, {}

            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
            try:
                run_pretrain_stage(
                    PretrainStage("toy", 12, {"layer": layer}, [optimizer], loss, warmup=3, save_every=4), folder
                )
            except KeyboardInterrupt:
                assert (folder / "toy.pt").exists()
        return seen

    whole = losses(tmp_path / "whole", [99])
    broken = losses(tmp_path / "broken", [8, 99])
    assert len(whole) == 12 and broken == whole


def test_snapshots_of_another_number_of_steps_are_refused(tmp_path) -> None:
    """As of a trial with --scale below 1, in the folder that the whole training uses too."""

    def run(steps: int) -> None:
        layer = nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        run_pretrain_stage(
            PretrainStage("toy", steps, {"layer": layer}, [optimizer], lambda _: (layer(torch.ones(4)).sum(), {})),
            tmp_path,
        )

    run(2)
    run(2)
    with pytest.raises(ValueError, match=r"toy.pt is of 2 steps, and 5 are asked for: give another --work"):
        run(5)


def test_rate_warms_up_stays_and_falls() -> None:
    stage = PretrainStage("x", 100, {}, [], lambda step: (torch.zeros(()), {}), warmup=10, decay=0.5)
    assert warmup_decay(0, stage) == pytest.approx(0.1)
    assert warmup_decay(30, stage) == 1.0
    assert warmup_decay(75, stage) == pytest.approx(0.5)
    assert warmup_decay(99, stage) == pytest.approx(0.02)


def test_pretraining_runs_resumes_and_leaves_a_folder_that_transformers_loads(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "learnpruner.nano.pretrain",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
    ]
    command += ["--scale", "0.0001", "--threads", "1"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    saved = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert len(saved) < 25 * 2**20
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == saved, "finished steps must not run again"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    scene = make_scene("test", 0)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": scene.questions[0].text}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert prompt == f"USER: <image>\n{scene.questions[0].text} ASSISTANT:"
    batch = processor(images=Image.fromarray(scene.image), text=prompt, return_tensors="pt")
    assert model.generate(**batch, max_new_tokens=2).shape[1] > batch["input_ids"].shape[1]


def test_bad_scale_is_one_sentence() -> None:
    command = [sys.executable, "-m", "learnpruner.nano.pretrain", "--scale", "0"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "argument --scale: '0' is refused; give a number above 0." in found.stderr
