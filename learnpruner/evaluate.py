"""Run a benchmark under several plans at once and compare each with the unpruned model.

Letters: S samples, B batch, L layers.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import BatchFeature, PreTrainedModel

from learnpruner.backbones.base import Backbone, adapter, shared_vision
from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.cost import layer_tokens
from learnpruner.export import versions
from learnpruner.plan import Plan
from learnpruner.retention import kind_means, retention

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Outcome:
    """What the model answered under one plan: (S,) texts and scores, and the visual tokens it ran on."""

    answers: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: dict[str, float]


@dataclass(frozen=True)
class Results:
    """Outcomes of several plans on the same samples; `outcomes["unpruned"]` is what the others are compared with."""

    backbone: str
    benchmark: str
    kinds: tuple[str, ...]
    examples: tuple[Example, ...]
    outcomes: dict[str, Outcome]

    @property
    def kind(self) -> NDArray[np.int64]:
        """(S,) index of each sample's kind."""
        return np.array([self.kinds.index(example.kind) for example in self.examples])

    def accuracy(self, name: str) -> dict[str, float]:
        """Accuracy of each kind that occurs, and their mean, as fractions of 1."""
        means = kind_means(self.outcomes[name].scores, self.kind, len(self.kinds))
        known = {kind: float(mean) for kind, mean in zip(self.kinds, means, strict=True) if not np.isnan(mean)}
        return known | {"mean": float(np.mean(list(known.values())))}

    def row(self, name: str) -> dict[str, Any]:
        """Accuracy, retention and tokens of one plan."""
        scenes = np.array([example.scene for example in self.examples])
        scores, reference = self.outcomes[name].scores, self.outcomes[UNPRUNED].scores
        kept = retention(scores, reference, self.kind, scenes)
        return {"accuracy": self.accuracy(name), "retention": asdict(kept), "tokens": self.outcomes[name].tokens}

    def contract(self, plan: str | None, prune_ratio: float, name: str = UNPRUNED) -> dict[str, Any]:
        """The contents of results.json.

        Args:
            plan: where the plan comes from (a path or a config's name), None for the unpruned model.
            prune_ratio: the share of visual tokens that was asked for.
            name: the outcome that the result is about; all others are baselines.
        """
        own = self.row(name)
        return {
            "plan": plan,
            "backbone": self.backbone,
            "benchmark": self.benchmark,
            "samples": len(self.examples),
            "prune_ratio": prune_ratio,
            "tokens": own["tokens"],
            "accuracy": own["accuracy"],
            "unpruned": self.accuracy(UNPRUNED),
            "retention": own["retention"],
            "baselines": {other: self.row(other) for other in self.outcomes if other not in (UNPRUNED, name)},
            "versions": versions(),
            "commit": commit(),
        }


def commit() -> str | None:
    """The commit of the source tree that this package runs from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def encode(backbone: Backbone, images: Sequence[Any], questions: Sequence[str]) -> BatchFeature:
    """One prompt an image through the processor's own chat template, padded on the left for generation."""
    turns = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}] for question in questions
    ]
    prompts = [backbone.processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    inputs = backbone.processor(
        images=list(images), text=prompts, padding=True, padding_side="left", return_tensors="pt"
    )
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


def check_lengths(lengths: Sequence[int], inputs: BatchFeature, visual: Sequence[int], image_token: int) -> None:
    """Refuse numbers from a plan that did nothing: each layer must hold exactly its budget and the text.

    lengths: (L,) KV length of each layer after the prefill; visual: (L,) visual tokens that the plan promises.
    """
    text = inputs["attention_mask"] * (inputs["input_ids"] != image_token)
    longest = int(text.sum(1).max())
    expected = tuple(count + longest for count in visual)
    if tuple(lengths) != expected:
        raise RuntimeError(f"The KV cache holds {tuple(lengths)} tokens a layer; the plan promises {expected}.")


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
    parts = adapter(backbone.model)
    plans = {UNPRUNED: None, **plans}
    visual = {name: layer_tokens(plan, parts.tokens, parts.layers) for name, plan in plans.items()}
    samples = len(benchmark) if limit is None else min(limit, len(benchmark))
    examples: list[Example] = []
    answers: dict[str, list[str]] = {name: [] for name in plans}
    with tqdm(total=samples, desc=benchmark.name, unit="scene", disable=None) as bar:
        for batch in batches(benchmark, samples, batch_size):
            wordings = [benchmark.wording(example.question) for example in batch]
            inputs = encode(backbone, [example.image for example in batch], wordings)
            with shared_vision(backbone.model):
                for name, plan in plans.items():
                    with attached(plan, backbone.model):
                        texts, lengths = greedy(backbone, inputs, max_new_tokens)
                    check_lengths(lengths, inputs, visual[name], backbone.model.config.image_token_id)
                    answers[name] += texts
            examples += batch
            bar.update(len(batch))
    outcomes = {}
    for name, texts in answers.items():
        scores = np.array([benchmark.score(answer, one) for answer, one in zip(texts, examples, strict=True)])
        tokens = (plans[name] or Plan()).tokens(parts.tokens, parts.layers)
        outcomes[name] = Outcome(tuple(texts), scores, tokens)
    return Results(backbone.name, benchmark.name, benchmark.kinds, tuple(examples), outcomes)
