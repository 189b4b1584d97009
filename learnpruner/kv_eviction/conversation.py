"""Hold conversations about images: every turn is generated on the cache of the turns before it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.plain import protect_special_tokens
from learnpruner.data.sample import Sample
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.kv_eviction.cache import EvictingLayer
from learnpruner.kv_eviction.conversation_data import follow_up
from learnpruner.plan import Plan


@dataclass(frozen=True)
class ConversationResult:
    """What came of a batch of conversations.

    Args:
        answers: B rows of one text a turn.
        tokens, seconds: read and written after the first turn, of all rows, and how long that took.
        kv_bytes: keys and values that a conversation holds at its end.
        slots: of these, the valid ones on the average of layers and heads.
    """

    answers: list[list[str]]
    tokens: int
    seconds: float
    kv_bytes: float
    slots: float


@torch.inference_mode()
def hold_conversations(backbone: Backbone, samples: Sequence[Sample], max_new_tokens: int) -> ConversationResult:
    """Ask all questions of each sample in a row; the samples have as many each.

    Args:
        backbone: that answers.
        samples: B pictures with their questions.
        max_new_tokens: of an answer.
    """
    model, processor, device = backbone.model, protect_special_tokens(backbone.processor), backbone.model.device
    tokenizer = processor.tokenizer
    questions = list(zip(*[[question for question, _ in sample.turns] for sample in samples], strict=True))
    inputs: dict[str, Any] = dict(encode_prompts(backbone, [sample.image for sample in samples], questions[0]))
    answers: list[list[str]] = []
    out, told, tokens, seconds = None, torch.empty(0), 0, 0.0
    for number, asked in enumerate(questions):
        if out is not None:
            turn = [follow_up(processor, tokenizer.protect(question)) for question in asked]
            encoded = tokenizer(turn, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
            inputs = next_turn_inputs(inputs, out, told, encoded.to(device))
            tokens += int(encoded["attention_mask"].sum())
        start = synchronized_seconds(device)
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=max_new_tokens, return_dict_in_generate=True, use_cache=True
        )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        told = answer_mask(new, tokenizer.eos_token_id)
        answers.append(tokenizer.batch_decode(new, skip_special_tokens=True))
        if number:
            seconds += synchronized_seconds(device) - start
            tokens += int(told.sum())
    assert out is not None
    kv_bytes, slots = cache_size(out.past_key_values, len(samples))
    return ConversationResult([list(row) for row in zip(*answers, strict=True)], tokens, seconds, kv_bytes, slots)


def next_turn_inputs(inputs: Mapping[str, Any], out: Any, told: Tensor, asked: Mapping[str, Tensor]) -> dict[str, Any]:
    """Make the next turn's inputs: everything so far, what was told of it, the new question, and the cache.

    Args:
        inputs: of the turn before.
        out: what it generated.
        told: (B, A) bool, which generated tokens belong to the answer.
        asked: ids and mask of the new question.
    """
    mask = [inputs["attention_mask"], told.to(inputs["attention_mask"]), asked["attention_mask"]]
    return {
        "input_ids": torch.cat([out.sequences, asked["input_ids"]], 1),
        "attention_mask": torch.cat(mask, 1),
        "past_key_values": out.past_key_values,
    }


@torch.inference_mode()
def answer_alone(
    backbone: Backbone, plan: Plan | None, samples: Sequence[Sample], max_new_tokens: int
) -> list[list[str]]:
    """Answer each question as if it were the only one, and check the plan's budget: B rows of one text a turn."""
    images, pixels, answers = [sample.image for sample in samples], None, []
    with shared_vision(backbone.model):
        for number in range(len(samples[0].turns)):
            inputs = encode_prompts(backbone, images, [sample.turns[number][0] for sample in samples])
            pixels = inputs["pixel_values"] = inputs["pixel_values"] if pixels is None else pixels
            answers.append(generate_and_verify(backbone, plan, inputs, max_new_tokens))
    return [list(row) for row in zip(*answers, strict=True)]


@torch.inference_mode()
def answer_separately(backbone: Backbone, samples: Sequence[Sample], max_new_tokens: int) -> list[list[str]]:
    """Answer each question on its own copy of the cache that the image left: B rows of one text a turn.

    The image is read, and evicted from, before any question is known.
    """
    model, tokenizer = backbone.model, backbone.processor.tokenizer
    image, answers, cache = backbone.processor.image_token_id, [], None
    for number in range(len(samples[0].turns)):
        given = encode_prompts(backbone, [s.image for s in samples], [s.turns[number][0] for s in samples])
        rows = [
            ids[mask.bool()].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)
        ]
        cuts = [len(row) - row[::-1].index(image) for row in rows]
        start = pad_left(tokenizer, [row[:cut] for row, cut in zip(rows, cuts, strict=True)]).to(model.device)
        asked = pad_left(tokenizer, [row[cut:] for row, cut in zip(rows, cuts, strict=True)]).to(model.device)
        if cache is None:
            pixels = {"pixel_values": given["pixel_values"]}
            cache = model(**start, **pixels, use_cache=True, logits_to_keep=1).past_key_values
        both = {name: torch.cat([start[name], asked[name]], 1) for name in ("input_ids", "attention_mask")}
        copied = copy.deepcopy(cache)
        out = model.generate(**both, past_key_values=copied, do_sample=False, max_new_tokens=max_new_tokens)
        answers.append(tokenizer.batch_decode(out[:, both["input_ids"].shape[1] :], skip_special_tokens=True))
    return [list(row) for row in zip(*answers, strict=True)]


def pad_left(tokenizer: Any, rows: list[list[int]]) -> Any:
    """Pad rows of token ids on the left, with their mask."""
    return tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")


def answer_mask(new: Tensor, end: int) -> Tensor:
    """Mark which generated tokens (B, A) belong to the answer: up to its end, without the padding behind."""
    ended = (new == end).long()
    return (ended.cumsum(1) - ended) == 0


def cache_size(cache: Any, rows: int) -> tuple[float, float]:
    """Measure the bytes of keys and values a row, and the slots a layer and head."""
    held = [2 * layer.keys.numel() * layer.keys.element_size() for layer in cache.layers]
    slots = [
        layer.slots().valid.sum(-1).float().mean().item()
        if isinstance(layer, EvictingLayer)
        else layer.get_seq_length()
        for layer in cache.layers
    ]
    return sum(held) / rows, sum(slots) / len(slots)


def synchronized_seconds(device: torch.device) -> float:
    """Read the clock, in seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
