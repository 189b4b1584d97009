"""Greedy answers under a plan, with proof that it dropped what it promises.

Letters: B batch, L layers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transformers import BatchFeature, PreTrainedModel

from learnpruner.backbones import Backbone, family_of
from learnpruner.engine.kv_lengths import check_kv_lengths, expected_kv_lengths
from learnpruner.plan import Plan


def attached(plan: Plan | None, model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Put the model under a plan; no plan is the unpruned model."""
    return nullcontext() if plan is None else plan.on(model)


def generate_greedy(backbone: Backbone, inputs: BatchFeature, max_new_tokens: int) -> tuple[list[str], tuple[int, ...]]:
    """Generate (B,) greedy answers; tell the KV length of each layer right after the prefill, (L,)."""
    prompt = inputs["input_ids"].shape[1]
    out = backbone.model.generate(
        **inputs, do_sample=False, max_new_tokens=max_new_tokens, return_dict_in_generate=True, use_cache=True
    )
    new = out.sequences[:, prompt:]
    lengths = tuple(layer.get_seq_length() - (new.shape[1] - 1) for layer in out.past_key_values.layers)
    return backbone.processor.batch_decode(new, skip_special_tokens=True), lengths


def generate_and_verify(backbone: Backbone, plan: Plan | None, inputs: BatchFeature, max_new_tokens: int) -> list[str]:
    """Generate (B,) greedy answers under a plan.

    Raises:
        RuntimeError: where a layer's KV cache holds more or less than the plan promises.
    """
    layers = family_of(backbone.model).layers
    with attached(plan, backbone.model) as engine:
        texts, lengths = generate_greedy(backbone, inputs, max_new_tokens)
    trace = None if engine is None else engine.record
    check_kv_lengths(lengths, expected_kv_lengths(plan, layers, inputs["attention_mask"].sum(1).tolist(), trace))
    return texts
