"""The one evaluation loop: a benchmark under several plans, batch by batch.

Letters: S samples, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import AnsweredExample, Benchmark
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.answer_cache import AnswerCache, CallTiming, run_key
from learnpruner.evaluation.downsampling import Contestant, Downsampling, downsampled_of, generate_downsampled
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, PlanOutcome
from learnpruner.plan import Plan
from learnpruner.utils.distributed import Rank

Plans = Mapping[str, Contestant]
Timer = Callable[[], AbstractContextManager[list[float]]]


@dataclass(frozen=True)
class Evaluator:
    """Answers benchmarks under plans. A batch is encoded once; the plans take turns on it with the vision features shared.

    What a plan answers does not depend on the others, but on the batch it is in: keep `batch_size` to get equal numbers.

    Args:
        backbone: the model that answers.
        batch_size: rows answered together.
        max_new_tokens: longest answer; None is each benchmark's own.
        cache: holds the answers; one on disk takes up those of an earlier run.
        rank: which share of the batches this process answers.
        timer: opens a list of the milliseconds that calls of the language model take; the first is the prefill's.
    """

    backbone: Backbone
    batch_size: int = 25
    max_new_tokens: int | None = None
    cache: AnswerCache = field(default_factory=AnswerCache)
    rank: Rank = field(default_factory=Rank)
    timer: Timer | None = None

    def run(self, plans: Plans, benchmark: Benchmark, limit: int | None = None) -> dict[str, list[AnsweredExample]]:
        """Answer the first `limit` samples, None for all, that are not answered yet: plan -> (S,) in their order."""
        self.fill(plans, benchmark, limit)
        return self.collect(plans, benchmark, limit)

    @torch.inference_mode()
    def fill(self, plans: Plans, benchmark: Benchmark, limit: int | None = None, title: str | None = None) -> None:
        """Answer this process's batches, but for plans that have answered all of a batch.

        A batch is always answered as a whole, since its rows round together: a resumed run ends with equal numbers.
        """
        keys, batches = self._keys(plans, benchmark), self.batches(benchmark, limit)
        mine = batches[self.rank.index :: self.rank.count]
        with tqdm(total=sum(map(len, mine)), desc=title or benchmark.name, unit="sample", disable=None) as bar:
            for rows in mine:
                late = {name: plan for name, plan in plans.items() if not self._has(keys[name], rows)}
                if late:
                    self._answer(late, keys, benchmark, rows)
                bar.update(len(rows))

    def collect(self, plans: Plans, benchmark: Benchmark, limit: int | None = None) -> dict[str, list[AnsweredExample]]:
        """Collect what is answered by now: plan -> its samples in the benchmark's order; other processes' may be missing."""
        keys = self._keys(plans, benchmark)
        places = [(row, len(rows)) for rows in self.batches(benchmark, limit) for row in rows]
        found = self.cache.found
        return {
            name: [found[key, row, size] for row, size in places if (key, row, size) in found]
            for name, key in keys.items()
        }

    def timings(self, plans: Plans, benchmark: Benchmark, limit: int | None = None) -> dict[str, list[CallTiming]]:
        """Collect one timing a batch, of runs with a `timer`, by plan."""
        keys, batches = self._keys(plans, benchmark), self.batches(benchmark, limit)
        return {
            name: [self.cache.timings[key, rows.start, len(rows)] for rows in batches] for name, key in keys.items()
        }

    def batches(self, benchmark: Benchmark, limit: int | None = None) -> list[range]:
        """Divide the first `limit` samples, None for all, into batches."""
        samples = len(benchmark) if limit is None else min(limit, len(benchmark))
        return [range(first, min(first + self.batch_size, samples)) for first in range(0, samples, self.batch_size)]

    def _keys(self, plans: Plans, benchmark: Benchmark) -> dict[str, str]:
        if not self.cache.on_disk:
            return {name: name for name in plans}
        longest = self._longest(benchmark)
        return {name: run_key(self.backbone, plan, benchmark, self.batch_size, longest) for name, plan in plans.items()}

    def _longest(self, benchmark: Benchmark) -> int:
        return benchmark.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens

    def _has(self, key: str, rows: range) -> bool:
        timed = self.timer is None or (key, rows.start, len(rows)) in self.cache.timings
        return timed and all((key, row, len(rows)) in self.cache.found for row in rows)

    def _answer(self, plans: Plans, keys: Mapping[str, str], benchmark: Benchmark, rows: range) -> None:
        """One batch under each of the plans, which then goes into the cache."""
        examples = [benchmark[row] for row in rows]
        wordings = [benchmark.wording(one.question) for one in examples]
        images = [one.image for one in examples]
        inputs = encode_prompts(self.backbone, images, wordings)
        placeholders = family_of(self.backbone.model).placeholders(inputs["input_ids"])
        text = (~placeholders & inputs["attention_mask"].bool()).sum(1).tolist()
        with shared_vision(self.backbone.model):
            for name, plan in plans.items():
                with nullcontext([]) if self.timer is None else self.timer() as calls:
                    if isinstance(plan, Downsampling):
                        texts = generate_downsampled(self.backbone, plan, images, wordings, self._longest(benchmark))
                    else:
                        texts = generate_and_verify(self.backbone, plan, inputs, self._longest(benchmark))
                answered = [benchmark.answered(one, given) for one, given in zip(examples, texts, strict=True)]
                timing = CallTiming(calls[0], text) if calls else None
                self.cache.add(keys[name], {"benchmark": benchmark.name, "plan": name}, rows, answered, timing)


def evaluate(
    backbone: Backbone,
    plans: Plans,
    benchmark: Benchmark,
    limit: int | None = None,
    batch_size: int = 25,
    max_new_tokens: int = 6,
    cache: AnswerCache | None = None,
) -> BenchmarkOutcomes:
    """Answer examples under every plan and under the unpruned model, and score the answers.

    Args:
        backbone: that answers.
        plans: by name in the table.
        benchmark: what is asked.
        limit: examples, from the first; None for all.
        batch_size: rows that are answered together.
        max_new_tokens: of an answer.
        cache: answers that are there already; None keeps none.
    """
    everyone: Plans = {UNPRUNED: None, **plans}
    evaluator = Evaluator(backbone, batch_size, max_new_tokens, cache or AnswerCache())
    return outcomes_of(backbone, everyone, benchmark, evaluator.run(everyone, benchmark, limit))


def outcomes_of(
    backbone: Backbone, plans: Plans, benchmark: Benchmark, answers: Mapping[str, list[AnsweredExample]]
) -> BenchmarkOutcomes:
    """Put the answers of several plans to one benchmark together with what the plans cost."""
    family = family_of(backbone.model)
    outcomes = {}
    for name, plan in plans.items():
        tokens = (plan or Plan()).tokens(family.tokens, family.layers)
        outcomes[name] = PlanOutcome.of(answers[name], tokens, None if plan is None else plan.adapts)
    return BenchmarkOutcomes.of(backbone.name, benchmark, answers[UNPRUNED], outcomes, downsampled_of(plans))
