"""Random batches: rows of words and pictures, or videos, of different sizes, padded on either side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any

import torch
from families import FAMILIES, clips, picture
from torch import Tensor

from fuzz.subjects import WORDS, Subject

CLIPS = {"llava_onevision": {"side": 32, "each": 4, "more": 1}, "video_llava": {"side": 32, "each": 17}}


@dataclass(frozen=True)
class Shown:
    """One picture, or video. size: (height, width) in pixels, or (steps, height, width) of a video in patches."""

    seed: int
    size: tuple[int, ...]


Row = tuple["str | Shown", ...]


def shown(row: Row) -> list[Shown]:
    """What a row shows, in order."""
    return [piece for piece in row if isinstance(piece, Shown)]


def describe(row: Row) -> str:
    """A row in short: 2 words, a picture, 5 words as "2[48x48]5"."""
    return "".join(
        str(len(list(run))) if words else "".join(f"[{'x'.join(map(str, one.size))}]" for one in run)
        for words, run in groupby(row, lambda piece: isinstance(piece, str))
    )


def draw(rng: Random, name: str, medium: str) -> list[Row]:
    """One to four rows of zero to three pictures, at least one picture in all."""
    steps = rng.choice([1, 2, 3])  # of all videos: most families stack them
    while True:
        rows = [_row(rng, name, medium, steps) for _ in range(rng.choice([1, 2, 2, 3, 4]))]
        if any(map(shown, rows)):
            return rows


def _row(rng: Random, name: str, medium: str, steps: int) -> Row:
    """Words before, among and behind the pictures, or none of them."""
    count = rng.choice([0, 1, 1, 1, 2, 3])
    if not count:
        return tuple(_words(rng, rng.choice([1, 4, 12, 60, 150])))
    pieces: list[str | Shown] = []
    for _ in range(count):
        pieces += [
            *_words(rng, rng.choice([0, 0, 1, 2, 5])),
            Shown(rng.randrange(10**6), _size(rng, name, medium, steps)),
        ]
    return (*pieces, *_words(rng, rng.choice([0, 1, 3, 6, 11, 40])))


def _words(rng: Random, count: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(count)]


def _size(rng: Random, name: str, medium: str, steps: int) -> tuple[int, ...]:
    if medium == "image":
        return rng.choice(FAMILIES[name].sizes)
    if name.startswith("qwen"):
        return rng.choice([1, 2, 3]), rng.choice([4, 6, 8]), rng.choice([4, 6, 8])
    return (steps,)


def encode(on: Subject, medium: str, rows: Sequence[Row], side: str = "left") -> dict[str, Tensor]:
    """The inputs of a call."""
    return _images(on, rows, side) if medium == "image" else _videos(on, rows, side)


def _images(on: Subject, rows: Sequence[Row], side: str) -> dict[str, Any]:
    mark = on.processor.image_token
    mark = f"<|vision_start|>{mark}<|vision_end|>" if on.family.rotary_axes > 1 else mark  # adjacent ones would be one
    texts = [" ".join(mark if isinstance(piece, Shown) else piece for piece in row) for row in rows]
    pictures = [[picture(one.size, one.seed) for one in shown(row)] for row in rows]
    visuals = {"images": pictures} if any(pictures) else {}
    return dict(on.processor(text=texts, padding=True, padding_side=side, return_tensors="pt", **visuals))


def _videos(on: Subject, rows: Sequence[Row], side: str) -> dict[str, Any]:
    """By hand: the video processors of Hugging Face need torchvision."""
    videos = [_patches(on, one) if on.family.rotary_axes > 1 else _clip(on, one) for row in rows for one in shown(row)]
    marks = iter([mark for _, mark in videos])
    texts = [" ".join(next(marks) if isinstance(piece, Shown) else piece for piece in row) for row in rows]
    tokens = on.processor.tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
    batch = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    if on.family.rotary_axes > 1:
        batch["mm_token_type_ids"] = 2 * (batch["input_ids"] == on.processor.video_token_id).long()
    names = videos[0][0] if videos else {}
    return {**batch, **{name: torch.cat([inputs[name] for inputs, _ in videos]) for name in names}}


def _clip(on: Subject, one: Shown) -> tuple[dict[str, Tensor], str]:
    inputs, marks = clips([one.seed], frames=one.size[0], **CLIPS[on.name])
    return inputs, marks[0]


def _patches(on: Subject, one: Shown) -> tuple[dict[str, Tensor], str]:
    """Patches of 4 x 4 pixels of two frames; Qwen3-VL has its text between steps in time."""
    steps, height, width = one.size
    noise = torch.randn(steps * height * width, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(one.seed))
    each = height * width // 4
    runs = [each] * steps if on.name == "qwen3_vl" else [each * steps]
    text = "".join(f"<|vision_start|>{'<|video_pad|>' * run}<|vision_end|>" for run in runs)
    return {"pixel_values_videos": noise, "video_grid_thw": torch.tensor([one.size])}, text
