"""The suite task: a plan on any of the field's benchmarks, with the papers' table and RelAcc over those that were run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation import benchmark_tables as tables
from learnpruner.evaluation import tables as report
from learnpruner.evaluation.accuracy_task import chosen
from learnpruner.evaluation.answer_cache import AnswerLog, run_key
from learnpruner.evaluation.benchmark_scores import Found, contents
from learnpruner.evaluation.evaluator import answer, encode
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.plan import Plan
from learnpruner.utils.distributed import init_rank
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import write_json
from learnpruner.utils.privacy import hide_path_values
from learnpruner.utils.validation import check_int

log = logging.getLogger(__name__)


@dataclass
class Suite:
    """Score a plan, and the unpruned model, on each benchmark.

    limit: first samples of each, None for all. batch_size: rows answered together; part of the result.
    baselines: name in the table -> config in conf/pruner; beside: which of them run, None for all.
    outside: whether paths in the benchmarks' rows may lead out of their folders. reference: print the paper's rows too. resume: the folder of an earlier run, whose finished answers are kept.
    shard: "auto" shares the work under torchrun; "0/4" does a quarter of it.
    """

    datasets: Mapping[str, PublicBenchmark]
    limit: int | None = None
    batch_size: int = 8
    baselines: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[str] | None = None
    reference: bool = False
    resume: str | None = None
    shard: str | None = "auto"
    outside: bool = False

    def __post_init__(self) -> None:
        for benchmark in self.datasets.values():
            benchmark.outside = self.outside
        if self.limit is not None:
            check_int("limit", self.limit, 1)
        check_int("batch_size", self.batch_size, 1)
        self.baselines = chosen(self.baselines, self.beside)
        by_hand = self.shard not in (None, "auto")
        if by_hand and self.resume is None:
            raise UserError(f"benchmark.shard={self.shard} needs benchmark.resume=FOLDER, the same for all shards.")
        if self.resume is not None and not by_hand and not Path(self.resume).is_dir():
            raise UserError(f"benchmark.resume={self.resume} is no folder; give the folder of the run to go on with.")

    def run(
        self,
        backbone: Backbone,
        plan: Plan | None,
        folder: Path,
        source: str | None = None,
        baselines: Mapping[str, Plan] | None = None,
        label: str = "learnpruner",
    ) -> tuple[Path, str]:
        """Writes answers/*.jsonl, results.json and report.md; returns the second and the table to print.

        Of joined processes only the first returns a text.
        """
        rank = init_rank(self.shard)
        folder = rank.broadcast_folder(folder if self.resume is None else Path(self.resume))
        plans: dict[str, Plan | None] = {UNPRUNED: None, **(baselines or {})}
        if plan is not None:
            plans[label] = plan
        log = AnswerLog(folder / "answers", rank.index)
        for name, benchmark in self.datasets.items():
            self.fill(backbone, plans, name, benchmark, log, range(rank.index, self.batches(benchmark), rank.count))
        rank.wait()
        if rank.joined and rank.index:
            return log.folder, ""
        log.read()
        found, missing = self.collect(backbone, plans, log)
        if missing:
            return log.folder, (
                f"shard {self.shard} is done; {missing} answers of others are missing. When they are done, "
                f"the same command with benchmark.resume={folder} and no shard makes the table."
            )
        own = UNPRUNED if plan is None else label
        result = hide_path_values(contents(backbone, plans, self.datasets, found, own, source))
        result |= {"batch_size": self.batch_size, "image_aspect": backbone.image_aspect}
        set_aside(folder, result)
        path = write_json(result, folder / "results.json")
        cells = tables.benchmark_table(result, self.datasets, label, self.reference)
        notes = tables.benchmark_notes(result, self.datasets, self.reference)
        page = [f"# {label} on {result['benchmark']}", report.markdown_table(cells), notes]
        (folder / "report.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
        return path, f"{report.text_table(cells)}\n\n{notes}"

    def samples(self, benchmark: PublicBenchmark) -> int:
        return len(benchmark) if self.limit is None else min(self.limit, len(benchmark))

    def batches(self, benchmark: PublicBenchmark) -> int:
        return -(-self.samples(benchmark) // self.batch_size)  # rounded up

    @torch.inference_mode()
    def fill(
        self,
        backbone: Backbone,
        plans: Mapping[str, Plan | None],
        name: str,
        benchmark: PublicBenchmark,
        log: AnswerLog,
        numbers: range,
    ) -> None:
        """Answer the batches of these numbers, but for plans that have answered all of a batch.

        A batch is always answered as a whole, since its rows round together: a resumed run ends with equal numbers.
        """
        keys = {plan: run_key(backbone, plans[plan], benchmark, self.batch_size) for plan in plans}
        for number in tqdm(numbers, desc=name, unit="batch", disable=None):
            start = number * self.batch_size
            rows = range(start, min(start + self.batch_size, self.samples(benchmark)))
            late = [plan for plan in plans if not all(log.has(keys[plan], row) for row in rows)]
            if not late:
                continue
            examples = [benchmark[row] for row in rows]
            inputs = encode(backbone, [one.image for one in examples], [one.question for one in examples])
            with shared_vision(backbone.model):
                for plan in late:
                    texts = answer(backbone, plans[plan], inputs, benchmark.max_new_tokens)
                    answered = {
                        row: benchmark.answered(one, text)
                        for row, one, text in zip(rows, examples, texts, strict=True)
                        if not log.has(keys[plan], row)
                    }
                    log.add(keys[plan], {"benchmark": name, "plan": plan}, answered)

    def collect(self, backbone: Backbone, plans: Mapping[str, Plan | None], log: AnswerLog) -> tuple[Found, int]:
        """All answers in the datasets' order, and how many are missing."""
        found: Found = {}
        missing = 0
        for name, benchmark in self.datasets.items():
            for plan in plans:
                key, rows = run_key(backbone, plans[plan], benchmark, self.batch_size), range(self.samples(benchmark))
                found.setdefault(name, {})[plan] = [log.found[key, row] for row in rows if log.has(key, row)]
                missing += len(rows) - len(found[name][plan])
        return found, missing


def set_aside(folder: Path, result: Mapping[str, Any]) -> None:
    """Results of another plan in the folder whose answers are used again keep a name of their own: results_1.json, ..."""
    path, own = folder / "results.json", ("plan", "prune_ratio", "backbone", "benchmark", "batch_size")
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if all(earlier.get(key) == result.get(key) for key in own):
        return
    number = next(n for n in count(1) if not (folder / f"results_{n}.json").exists())
    for name in ("results.json", "report.md"):
        if (folder / name).is_file():
            (folder / name).replace(folder / f"{Path(name).stem}_{number}{Path(name).suffix}")
    log.warning("%s were of another plan or other benchmarks; they are results_%d.json now", path, number)
