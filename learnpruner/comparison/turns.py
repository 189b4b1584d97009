"""What every plan answered, a batch a line in a file: a run that was stopped goes on where it was.

Letters: S samples, B batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark, Example
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.answer_cache import run_key
from learnpruner.evaluation.evaluator import answer, encode
from learnpruner.evaluation.results import UNPRUNED, Question
from learnpruner.plan import Plan
from learnpruner.profiling.timing import time_module_calls
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import write_text_atomically


@dataclass(frozen=True)
class Turn:
    """One batch under every plan.

    questions: B of them; text: (B,) text tokens of each prompt. answers, scores: name of the plan -> B values.
    prefill_ms: name -> milliseconds that the language model took for the batch's prompts.
    """

    questions: list[Question]
    text: list[int]
    answers: dict[str, list[str]]
    scores: dict[str, list[float]]
    prefill_ms: dict[str, float]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Turn:
        return cls(**{**values, "questions": [Question(**one) for one in values["questions"]]})


@torch.inference_mode()
def take_turn(
    backbone: Backbone,
    plans: Mapping[str, Plan | None],
    benchmark: Benchmark,
    batch: Sequence[Example],
    max_new_tokens: int,
) -> Turn:
    """Every plan on one batch, which is encoded once, with the vision tower's features in common."""
    inputs = encode(backbone, [one.image for one in batch], [benchmark.wording(one.question) for one in batch])
    text = inputs["attention_mask"] * (inputs["input_ids"] != backbone.model.config.image_token_id)
    questions = [Question(one.scene, one.kind, one.question, one.answer) for one in batch]
    turn = Turn(questions, text.sum(1).tolist(), {}, {}, {})
    lm, device = backbone.family.language_model, torch.device(backbone.model.device)
    with shared_vision(backbone.model):
        for name, plan in plans.items():
            with time_module_calls(lm, device) as calls:
                texts = answer(backbone, plan, inputs, max_new_tokens)
            turn.answers[name] = texts
            turn.scores[name] = [benchmark.score(given, one) for given, one in zip(texts, batch, strict=True)]
            turn.prefill_ms[name] = calls[0]
    return turn


def turns(
    backbone: Backbone,
    plans: Mapping[str, Plan | None],
    benchmark: Benchmark,
    samples: int,
    batch_size: int,
    max_new_tokens: int,
    path: Path,
    about: Mapping[str, Any],
) -> Iterator[Turn]:
    """One turn a batch; those that `path` holds are read, the others are taken and appended.

    about: what else the answers depend on; a file that was made under other circumstances is refused.
    """
    header = {
        **about,
        "samples": samples,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "plans": {name: run_key(backbone, plan, benchmark, batch_size) for name, plan in plans.items()},
    }
    known = read(path, header)
    with path.open("a", encoding="utf-8") as file, tqdm(total=samples, desc="peers", unit="scene", disable=None) as bar:
        for number, start in enumerate(range(0, samples, batch_size)):
            stop = min(start + batch_size, samples)
            if number < len(known):
                turn = known[number]
            else:
                examples = [benchmark[i] for i in range(start, stop)]
                turn = take_turn(backbone, plans, benchmark, examples, max_new_tokens)
                file.write(json.dumps(asdict(turn)) + "\n")
                file.flush()
            bar.update(stop - start)
            yield turn


def read(path: Path, header: Mapping[str, Any]) -> list[Turn]:
    """The turns that a file holds; a new one is begun with its header, and a line that was cut short is dropped."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")] or [json.dumps(header) + "\n"]
    before = json.loads(whole[0])
    changed = sorted(key for key in {*before, *header} if before.get(key) != header.get(key))
    if changed:
        raise UserError(
            f"{path} holds answers under another {' and another '.join(changed)}; "
            "go on as that run was started, or start a new one in another folder."
        )
    write_text_atomically(path, "".join(whole))
    return [Turn.read(json.loads(line)) for line in whole[1:]]


def speedup(turns: Sequence[Turn], name: str) -> float:
    """How many times faster than the unpruned model's the prefill was: the median over batches, each with its own."""
    return float(median(turn.prefill_ms[UNPRUNED] / turn.prefill_ms[name] for turn in turns))
