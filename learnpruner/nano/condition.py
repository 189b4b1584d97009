"""Does pruning have something to lose on the embedded backbone? Measures the unpruned and the blind model, naive selections and an oracle.

    python -m learnpruner.nano.condition --split validation --count 700

The oracle reads the benchmark's evidence: it keeps the patches that the answer rests on, taking turns between the things asked about.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learnpruner.backbones import Backbone, load_backbone
from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import View
from learnpruner.data.scenes import GRID, QUESTION_KINDS, benchmark_sample
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.plan import Plan, Stage
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.argtypes import exit_on_bad_input, positive_int, unit_fraction
from learnpruner.utils.provenance import commit

_NAIVE = {
    "random": "random",
    "random+text": "random_text",
    "uniform": "uniform",
    "uniform+text": "uniform_text",
    "cls": "cls",
    "cls+text": "fastervlm_text",
}


class OraclePruner(ScorePruner):
    """Knows the answer's evidence; each call takes the next rows of the benchmark, which must be run in order."""

    def __init__(self, benchmark: ScenesBenchmark) -> None:
        super().__init__()
        self.benchmark, self.row = benchmark, 0

    def score(self, view: View) -> Tensor:
        rows = range(self.row, self.row + len(view.tokens))
        self.row += len(view.tokens)
        return torch.stack([self._ranked(row) for row in rows]).to(view.tokens.device)

    def _ranked(self, index: int) -> Tensor:
        """(576,): the first patch of each thing, then the second of each, ...; the rest in a fixed random order below."""
        _, question = benchmark_sample(self.benchmark.split, index, self.benchmark.seed)
        scores = np.random.default_rng(index).random(GRID * GRID)
        longest = max(len(patches) for patches in question.evidence)
        for patches in question.evidence:
            scores[patches] = 2 + longest - np.arange(len(patches))
        return torch.from_numpy(scores).float()


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


def measure_condition(backbone: Backbone, split: str, count: int, prune_ratio: float, batch: int) -> dict[str, object]:
    """Accuracies and retentions of all selections, alone at the encoder and with text attention behind."""
    benchmark = ScenesBenchmark(split=split, size=count)
    plans = build_baselines(PrunerConfigs(), _NAIVE, prune_ratio, backbone)
    for name, naive in (("oracle", "random"), ("oracle+text", "random+text")):
        first, *rest = plans[naive].stages
        plans[name] = Plan([Stage(OraclePruner(benchmark), first.at, first.token_share), *rest], prune_ratio)
        plans[name].prepare(backbone.family)
    results = evaluate(backbone, plans, benchmark, batch_size=batch)
    blind = blind_accuracy(backbone, [benchmark[i] for i in range(count)])
    kept = {name: results.row(name)["retention"]["value"] for name in plans}
    return {
        "split": split,
        "scenes": count,
        "prune_ratio": prune_ratio,
        "commit": commit(),
        "unpruned": results.accuracy(UNPRUNED),
        "blind": blind,
        "accuracy": {name: results.accuracy(name) for name in plans},
        "retention": kept,
        "best_naive": max(value for name, value in kept.items() if not name.startswith("oracle")),
    }


def main() -> None:
    """Measure every selection on the embedded backbone, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="checkpoints/nano-llava")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument(
        "--count", type=positive_int, default=100 * len(QUESTION_KINDS), help="scenes, one question each"
    )
    parser.add_argument("--prune-ratio", type=unit_fraction, default=0.055)
    parser.add_argument("--batch", type=positive_int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write beside what is printed")
    options = parser.parse_args()
    with exit_on_bad_input(parser):
        backbone = load_backbone(options.backbone)
    found = measure_condition(backbone, options.split, options.count, options.prune_ratio, options.batch)
    text = json.dumps(found, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
