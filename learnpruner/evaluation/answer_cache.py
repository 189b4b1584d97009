"""Answers on disk: one JSON object a line, appended as they come, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from learnpruner import adapters as adapt
from learnpruner.backbones import Backbone
from learnpruner.benchmarks import scoring
from learnpruner.benchmarks.base import Benchmark
from learnpruner.benchmarks.public import AnsweredExample
from learnpruner.plan import Plan
from learnpruner.plan.export import describe_pruner

log = logging.getLogger(__name__)


class AnswerLog:
    """Every process appends to a file of its own in `folder`, and reads all of them.

    found: (run's key, sample's index) -> the answer; a sample that two files hold counts once.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.path = folder, folder / f"rank{rank}.jsonl"
        self.found: dict[tuple[str, int], AnsweredExample] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.read()
        self.ended = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")

    def read(self) -> None:
        """Take in what is on disk by now. A line that a kill cut short is left out."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    place = record.pop("key"), record.pop("index")
                    self.found.setdefault(place, AnsweredExample(**record["sample"]))
                except (ValueError, KeyError, TypeError, AttributeError):
                    log.warning("%s: a line cut short is left out, its sample is answered again", path.name)

    def has(self, key: str, index: int) -> bool:
        return (key, index) in self.found

    def add(self, key: str, names: Mapping[str, str], answered: Mapping[int, AnsweredExample]) -> None:
        """Append answers in one write. names: benchmark and plan, for whoever reads the file."""
        lines = [
            json.dumps({"key": key, "index": index, **names, "sample": asdict(one)}, ensure_ascii=False)
            for index, one in answered.items()
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if self.ended else "\n") + "".join(f"{line}\n" for line in lines))
        self.ended = True
        self.found |= {(key, index): one for index, one in answered.items()}


def run_key(backbone: Backbone, plan: Plan | None, benchmark: Benchmark, batch_size: int) -> str:
    """What an answer depends on, as a hash: backbone, plan with its weights, benchmark with its settings, wording and
    rules, and how many rows are answered together.
    """
    config = backbone.model.config
    facts: dict[str, Any] = {
        "backbone": [backbone.name, backbone.revision, str(backbone.model.dtype), config._attn_implementation],
        "benchmark": [benchmark.name, benchmark.arguments(), len(benchmark), rules_hash(benchmark)],
        "batch_size": batch_size,
    }
    if backbone.image_aspect != "processor":
        facts["image_aspect"] = backbone.image_aspect
    if plan is not None:
        facts["plan"] = [plan.prune_ratio, plan.positions, weights_hash(plan)]
        if plan.adaptation is not None:
            facts["adapter"] = adapt.adapter_spec(plan.adaptation)
        facts["stages"] = [[describe_pruner(stage.pruner), stage.at, stage.share] for stage in plan.stages]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rules_hash(benchmark: Benchmark) -> str:
    """The benchmark's classes with the text of their files, and of the shared rules: another version words and scores anew."""
    own = [one for one in type(benchmark).__mro__ if issubclass(one, Benchmark)]
    files = {one.__module__: inspect.getsource(sys.modules[one.__module__]) for one in own}
    text = json.dumps([[one.__qualname__ for one in own], files, inspect.getsource(scoring)])
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(plan: Plan) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(plan.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
