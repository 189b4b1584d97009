"""Run a benchmark under several plans at once and compare each with the unpruned model.

Letters: S samples, B batch, L layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import BatchFeature, PreTrainedModel

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.benchmarks.video import video_inputs
from learnpruner.data.image_padding import pad_visuals
from learnpruner.data.plain import protect_special_tokens
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.engine.trace import PrefillTrace
from learnpruner.evaluation.results import UNPRUNED, Outcome, Question, Results
from learnpruner.plan import Plan


def encode(backbone: Backbone, images: Sequence[Any], questions: Sequence[str]) -> BatchFeature:
    """One prompt an image through the processor's own chat template, padded on the left for generation.

    images: pictures, or videos as lists of frames; never both in one batch.
    """
    processor = protect_special_tokens(backbone.processor)
    medium = "video" if isinstance(images[0], list) else "image"
    turns = [
        [{"role": "user", "content": [{"type": medium}, {"type": "text", "text": text}]}]
        for text in map(processor.tokenizer.protect, questions)
    ]
    prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    pictures = pad_visuals(images, backbone.image_aspect, backbone.processor)
    visuals = video_inputs(images) if medium == "video" else {"images": pictures}
    inputs = processor(text=prompts, padding=True, padding_side="left", return_tensors="pt", **visuals)
    return inputs.to(backbone.model.device, dtype=backbone.model.dtype)


def attached(plan: Plan | None, model: PreTrainedModel) -> AbstractContextManager[Any]:
    """The model under a plan; no plan is the unpruned model."""
    return nullcontext() if plan is None else plan.on(model)


def batches(benchmark: Benchmark, samples: int, size: int) -> Iterator[list[Example]]:
    for start in range(0, samples, size):
        yield [benchmark[i] for i in range(start, min(start + size, samples))]


def greedy(backbone: Backbone, inputs: BatchFeature, max_new_tokens: int) -> tuple[list[str], tuple[int, ...]]:
    """Greedy answers, and the KV length of each layer right after the prefill, (L,)."""
    prompt = inputs["input_ids"].shape[1]
    out = backbone.model.generate(
        **inputs, do_sample=False, max_new_tokens=max_new_tokens, return_dict_in_generate=True, use_cache=True
    )
    new = out.sequences[:, prompt:]
    lengths = tuple(layer.get_seq_length() - (new.shape[1] - 1) for layer in out.past_key_values.layers)
    return backbone.processor.batch_decode(new, skip_special_tokens=True), lengths


def promised(plan: Plan | None, layers: int, inputs: BatchFeature, record: PrefillTrace | None) -> tuple[int, ...]:
    """KV length of each layer after the prefill, (L,): of the longest row, its text and the budgets of its images."""
    whole = inputs["attention_mask"].sum(1)
    if plan is None or not plan.stages:
        return (int(whole.max()),) * layers
    if record is None:
        raise RuntimeError("The plan saw no image, so that nothing was dropped; the plan promises its budget.")
    if any(stage.pruner.adaptive for stage in plan.stages):
        return tuple(record.budget)  # what such a method kept is its budget
    rows, sizes, cuts = record.rows.to(whole.device), record.sizes.to(whole), plan.cuts(layers)
    stages = torch.tensor([(n, *plan.counts(n, layers, least=True)) for n in sizes.tolist()]).to(whole)
    text = whole.index_add(0, rows, -sizes)[:, None]
    longest = (text + text.new_zeros(len(text), 1 + len(cuts)).index_add(0, rows, stages)).amax(0).tolist()
    return tuple(longest[sum(cut <= layer for cut in cuts)] for layer in range(layers))


def check_lengths(lengths: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse numbers from a plan that did nothing: each layer must hold exactly its budget and the text."""
    if tuple(lengths) != tuple(expected):
        raise RuntimeError(f"The KV cache holds {tuple(lengths)} tokens a layer; the plan promises {expected}.")


def answer(backbone: Backbone, plan: Plan | None, inputs: BatchFeature, max_new_tokens: int) -> list[str]:
    """Greedy answers under a plan, with proof that it dropped what it promises."""
    parts = family_of(backbone.model)
    with attached(plan, backbone.model) as engine:
        texts, lengths = greedy(backbone, inputs, max_new_tokens)
    check_lengths(lengths, promised(plan, parts.layers, inputs, None if engine is None else engine.record))
    return texts


@torch.inference_mode()
def evaluate(
    backbone: Backbone,
    plans: Mapping[str, Plan | None],
    benchmark: Benchmark,
    limit: int | None = None,
    batch_size: int = 25,
    max_new_tokens: int = 6,
) -> Results:
    """Greedy answers of every plan, and of the unpruned model, on the first `limit` examples.

    A batch is encoded once; the plans then take turns on it with the vision tower's features in common. What a plan
    answers does not depend on the others, but on the batch it is in: keep `batch_size` to get equal numbers again.
    """
    parts = family_of(backbone.model)
    plans = {UNPRUNED: None, **plans}
    samples = len(benchmark) if limit is None else min(limit, len(benchmark))
    questions: list[Question] = []
    answers: dict[str, list[str]] = {name: [] for name in plans}
    scores: dict[str, list[float]] = {name: [] for name in plans}
    with tqdm(total=samples, desc=benchmark.name, unit="scene", disable=None) as bar:
        for batch in batches(benchmark, samples, batch_size):
            wordings = [benchmark.wording(example.question) for example in batch]
            inputs = encode(backbone, [example.image for example in batch], wordings)
            with shared_vision(backbone.model):
                for name, plan in plans.items():
                    texts = answer(backbone, plan, inputs, max_new_tokens)
                    answers[name] += texts
                    scores[name] += [benchmark.score(given, one) for given, one in zip(texts, batch, strict=True)]
            questions += [Question(one.scene, one.kind, one.question, one.answer) for one in batch]
            bar.update(len(batch))
    outcomes = {}
    for name, plan in plans.items():
        tokens = (plan or Plan()).tokens(parts.tokens, parts.layers)
        adapts = None if plan is None else plan.adapts
        outcomes[name] = Outcome(tuple(answers[name]), np.array(scores[name]), tokens, adapts)
    return Results(backbone.name, benchmark.name, benchmark.kinds, tuple(questions), outcomes)
