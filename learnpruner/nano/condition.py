"""Can the embedded benchmark tell a good pruner from a bad one? Its conditions as one table, of the first edition and of today's.

    python -m learnpruner.nano.condition --count 1000 --out docs/results/condition.json

The oracle reads the benchmark's evidence: it keeps the patches that the answer rests on, taking turns between the things asked about.
``--methods`` adds the order of all methods against the published one, from the results.json of ``benchmark=compare_methods``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learnpruner.backbones import Backbone, load_backbone
from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison.published_order import published_agreement
from learnpruner.data.scene_editions import SCENE_EDITIONS
from learnpruner.data.scenes import GRID
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.table_format import text_table
from learnpruner.nano.selections import CLS_RATIO, DIVERSE, MeasuredCls, condition_plans
from learnpruner.utils.argtypes import exit_on_bad_input, positive_int
from learnpruner.utils.errors import UserError
from learnpruner.utils.provenance import commit

_BACKBONES = {1: "checkpoints/nano-llava", 2: "checkpoints/nano-llava-2"}


@dataclass(frozen=True)
class BenchmarkCondition:
    """``value`` of a measurement must lie within ``low`` and ``high``."""

    name: str
    value: str
    low: float = -float("inf")
    high: float = float("inf")

    @property
    def asked(self) -> str:
        if self.low > -float("inf") and self.high < float("inf"):
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low > -float("inf") else f"at most {self.high:g}"

    def holds(self, measured: float) -> bool:
        return self.low <= measured <= self.high


CONDITIONS = (
    BenchmarkCondition("unpruned accuracy", "unpruned", low=90),
    BenchmarkCondition("its weakest kind", "weakest", low=75),
    BenchmarkCondition("points below it with all image tokens hidden", "blind_drop", low=40),
    BenchmarkCondition("oracle at 0.055, retention", "oracle 0.055", low=97),
    BenchmarkCondition("oracle at 0.028", "oracle 0.028", low=93),
    BenchmarkCondition("best of diversity alone at 0.055", "diverse 0.055", high=93),
    BenchmarkCondition("best of diversity alone at 0.028", "diverse 0.028", high=85),
    BenchmarkCondition("random at 0.055", "random 0.055", 55, 80),
    BenchmarkCondition("[CLS] spreads over this share of the tokens", "cls_spread", high=0.3),
    BenchmarkCondition("[CLS] minus random at 64 tokens, points", "cls_gain", low=5),
    BenchmarkCondition("points lost with four visual tokens behind 3/4 of the depth", "late_loss", high=3),
    BenchmarkCondition("order of methods against the published one, 64 tokens", "order general 64", low=0.75),
    BenchmarkCondition("the same, 32 tokens", "order general 32", low=0.85),
    BenchmarkCondition("reading alone against the OCR-heavy protocol, 64 tokens", "order ocr_heavy 64", low=0),
)


@torch.inference_mode()
def blind_accuracy(backbone: Backbone, examples: list[Example], batch: int = 20) -> float:
    """Mean accuracy over kinds with every image token masked out and all positions kept; an answer counts when each of its tokens wins."""
    model, processor = backbone.model, backbone.processor
    found: dict[str, list[bool]] = {}
    for start in range(0, len(examples), batch):
        some = examples[start : start + batch]
        texts = [f"USER: <image>\n{one.question} ASSISTANT: {one.answer}</s>" for one in some]
        images = [one.image for one in some]
        inputs = processor(images=images, text=texts, padding=True, padding_side="right", return_tensors="pt")
        ids = inputs["input_ids"]
        seen = inputs["attention_mask"] * (ids != model.config.image_token_id)
        places = torch.arange(ids.shape[1]).expand(ids.shape)
        picked = model(input_ids=ids, pixel_values=inputs["pixel_values"], attention_mask=seen, position_ids=places)
        right = picked.logits[:, :-1].argmax(-1) == ids[:, 1:]
        for row, one in enumerate(some):
            told = len(processor.tokenizer(one.answer)["input_ids"])  # <s> stands for </s> here
            end = int(inputs["attention_mask"][row].sum())
            found.setdefault(one.kind, []).append(bool(right[row, end - 1 - told : end - 1].all()))
    return float(np.mean([np.mean(values) for values in found.values()]))


def measure_condition(backbone: Backbone, benchmark: ScenesBenchmark, batch: int) -> dict[str, Any]:
    """Measure every selection on one edition.

    Returns:
        ``kinds`` and ``accuracy`` in per cent, ``retention`` of every selection, and the ``values`` that the conditions read.
    """
    plans = condition_plans(backbone, benchmark)
    results = evaluate(backbone, plans, benchmark, batch_size=batch)
    blind = 100 * blind_accuracy(backbone, [benchmark[i] for i in range(len(benchmark))])
    kept = {name: 100 * results.row(name)["retention"]["value"] for name in plans}
    kinds = {kind: 100 * value for kind, value in results.accuracy(UNPRUNED).items()}
    unpruned = kinds.pop("mean")
    probe = plans[f"[CLS] {CLS_RATIO}"].stages[0].pruner
    assert isinstance(probe, MeasuredCls)
    values = {
        "unpruned": unpruned,
        "weakest": min(kinds.values()),
        "blind_drop": unpruned - blind,
        "cls_spread": float(np.mean(probe.spread)) / GRID**2,
        "cls_gain": kept[f"[CLS] {CLS_RATIO}"] - kept[f"random {CLS_RATIO}"],
        "late_loss": 100 - kept["four tokens late"],
    }
    values |= {f"{name} {ratio}": kept[f"{name} {ratio}"] for name in ("oracle", "random") for ratio in (0.055, 0.028)}
    values |= {f"diverse {ratio}": max(kept[f"{name} {ratio}"] for name in DIVERSE) for ratio in (0.055, 0.028)}
    accuracy = {name: 100 * results.accuracy(name)["mean"] for name in (UNPRUNED, *plans)}
    return {"values": values, "kinds": kinds, "blind": blind, "accuracy": accuracy, "retention": kept}


def read_orders(path: Path) -> dict[str, float]:
    """Rank correlations with the published orders, of a comparison of all methods; by the names that the conditions read."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    found = published_agreement(rows)
    return {f"order {one['protocol']} {one['tokens']}": one["spearman"] for one in found if one["spearman"] is not None}


def condition_rows(editions: dict[int, dict[str, Any]]) -> list[list[str]]:
    """The table: a condition a row, an edition a column, and whether it holds for the last; what was not measured shows a dash."""
    last = max(editions)
    rows = [["condition", "asked", *(f"edition {number}" for number in editions), f"edition {last} holds"]]
    for one in CONDITIONS:
        measured = [found["values"].get(one.value) for found in editions.values()]
        cells = ["-" if value is None else f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" for value in measured]
        holds = "-" if measured[-1] is None else "yes" if one.holds(measured[-1]) else "no"
        rows.append([one.name, one.asked, *cells, holds])
    return rows


def main() -> None:
    """Measure both editions of the embedded benchmark, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edition", type=int, choices=SCENE_EDITIONS, action="append", help="one edition alone")
    parser.add_argument("--backbone", action="append", help="folder of each edition's backbone, in the same order")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=positive_int, default=1000, help="scenes, one question each")
    parser.add_argument("--batch", type=positive_int, default=20)
    parser.add_argument("--methods", type=Path, help="results.json of benchmark=compare_methods on the last edition")
    parser.add_argument("--out", type=Path, help="JSON file to write beside what is printed")
    options = parser.parse_args()
    editions = options.edition or list(SCENE_EDITIONS)
    folders = options.backbone or [_BACKBONES[edition] for edition in editions]
    with exit_on_bad_input(parser):
        if len(folders) != len(editions):
            raise UserError(f"--backbone stands {len(folders)} times for {len(editions)} editions; give one for each.")
        backbones = {edition: load_backbone(folder) for edition, folder in zip(editions, folders, strict=True)}
        orders = {} if options.methods is None else read_orders(options.methods)
    found = {
        edition: measure_condition(backbone, ScenesBenchmark(options.split, 0, options.count, edition), options.batch)
        for edition, backbone in backbones.items()
    }
    found[max(found)]["values"] |= orders
    print(text_table(condition_rows(found)))
    if options.out is not None:
        about = {"split": options.split, "scenes": options.count, "commit": commit()}
        options.out.write_text(json.dumps({**about, "editions": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
