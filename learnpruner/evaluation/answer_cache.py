"""Answers on disk: one JSON object a line, appended as they come, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learnpruner import adapters
from learnpruner.backbones import Backbone
from learnpruner.benchmarks import scoring
from learnpruner.benchmarks.base import UNTOLD, AnsweredExample, Benchmark
from learnpruner.evaluation.downsampling import Contestant, Downsampling
from learnpruner.plan import Plan
from learnpruner.plan.export import describe_pruner
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)


VERSION = 1  # of the lines
Place = tuple[str, int, int]  # the run's key, the sample's index, and how many rows its batch has


@dataclass(frozen=True)
class CallTiming:
    """A batch under a plan.

    Args:
        prefill_ms: milliseconds that the language model took for the prompts.
        text: (B,) text tokens of each prompt.
    """

    prefill_ms: float
    text: list[int]


class AnswerCache:
    """Answers as they come. Every process appends to a file of its own in `folder`, and reads all of them.

    Where several lines are of one sample in as large a batch they are equal; the last one counts.

    Args:
        folder: of the files; None keeps answers in memory alone.
        rank: number of this process.
        about: what else answers depend on, such as the commit; a folder that was filled under other circumstances is refused.
        afresh: whether what the folder holds of earlier runs is dropped.
    """

    def __init__(
        self, folder: Path | None = None, rank: int = 0, about: Mapping[str, Any] | None = None, afresh: bool = False
    ) -> None:
        self.about = dict(about or {})
        self.found: dict[Place, AnsweredExample] = {}
        self.timings: dict[Place, CallTiming] = {}
        self.folder = folder
        if folder is None:
            return
        self.path = folder / f"rank{rank}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if afresh:
            for path in folder.glob("*.jsonl"):
                path.unlink()
        self.read()
        self.ended = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")

    @property
    def on_disk(self) -> bool:
        return self.folder is not None

    def read(self) -> None:
        """Take in what is on disk by now. A line that a kill cut short is left out.

        Raises:
            UserError: where a file is of an earlier version, or was written under other circumstances.
        """
        for path in sorted(self.folder.glob("*.jsonl")) if self.folder is not None else ():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    place = record["key"], record["index"], record.get("rows", 0)
                    sample, timing = AnsweredExample(**record["sample"]), record.get("timing")
                except (ValueError, KeyError, TypeError, AttributeError):
                    _log.warning("%s: a line cut short is left out, its sample is answered again", path.name)
                    continue
                self._check(path, record)
                self.found[place] = sample
                if timing is not None:
                    self.timings[place] = CallTiming(**timing)

    def _check(self, path: Path, record: Mapping[str, Any]) -> None:
        if record.get("version") != VERSION:
            raise UserError(
                f"{path} holds answers of another version of learnpruner, which may ask and score differently; "
                "remove it, or start in another folder."
            )
        changed = [key for key, value in self.about.items() if record.get(key) != value]
        if changed:
            raise UserError(
                f"{path} holds answers under another {' and another '.join(changed)}; "
                "go on as that run was started, or start a new one in another folder."
            )

    def add(
        self,
        key: str,
        names: Mapping[str, str],
        rows: range,
        answered: Sequence[AnsweredExample],
        timing: CallTiming | None = None,
    ) -> None:
        """Keep those answers of a batch that are not kept yet, in one write.

        Args:
            key: of the plan on the benchmark, `run_key`.
            names: benchmark and plan, for whoever reads the file.
            rows: numbers of the samples.
            answered: one a row.
            timing: of the batch, where it was measured.
        """
        places = [(key, row, len(rows)) for row in rows]
        new = {place: one for place, one in zip(places, answered, strict=True) if place not in self.found}
        if timing is not None:
            new[places[0]] = answered[0]
        self.found |= new
        if timing is not None:
            self.timings[places[0]] = timing
        if self.folder is None:
            return
        lines = []
        for (_, index, size), one in new.items():
            line: dict[str, Any] = {"version": VERSION, "key": key, "index": index, "rows": size, **self.about, **names}
            line |= {"sample": asdict(one)}
            if timing is not None and index == rows.start:
                line["timing"] = asdict(timing)
            lines.append(json.dumps(line, ensure_ascii=False))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if self.ended else "\n") + "".join(f"{line}\n" for line in lines))
        self.ended = True


def run_key(backbone: Backbone, plan: Contestant, benchmark: Benchmark, batch_size: int, max_new_tokens: int) -> str:
    """Hash what an answer depends on.

    Args:
        backbone: and how it is loaded.
        plan: with its weights, or downsampling; None for the unpruned model.
        benchmark: with its settings, wording and rules.
        batch_size: rows that are answered together.
        max_new_tokens: of an answer.
    """
    config = backbone.model.config
    facts: dict[str, Any] = {
        "backbone": [backbone.name, backbone.revision, str(backbone.model.dtype), config._attn_implementation],
        "benchmark": [benchmark.name, benchmark.arguments(), len(benchmark), rules_hash(benchmark)],
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
    }
    if backbone.image_aspect != "processor":
        facts["image_aspect"] = backbone.image_aspect
    if isinstance(plan, Downsampling):
        facts["downsampling"] = plan.prune_ratio
    elif plan is not None:
        facts["plan"] = [plan.prune_ratio, plan.positions, weights_hash(plan)]
        if plan.adaptation is not None:
            facts["adapter"] = adapters.adapter_spec(plan.adaptation)
        facts["stages"] = [[describe_pruner(stage.pruner), stage.at, stage.token_share] for stage in plan.stages]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rules_hash(benchmark: Benchmark) -> str:
    """Hash the benchmark's classes with the text of their files, and the shared rules: another version scores anew."""
    own = [one for one in type(benchmark).__mro__ if issubclass(one, Benchmark)]
    files = {one.__module__: source_text(one.__module__) for one in own}
    text = json.dumps([[one.__qualname__ for one in own], files, inspect.getsource(scoring)])
    return hashlib.sha256(text.encode()).hexdigest()


def source_text(module: str) -> str:
    """Read the text of a module's file; `UNTOLD` of what was typed into a session."""
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return UNTOLD


def weights_hash(plan: Plan) -> str:
    """Hash names and values of a plan's weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(plan.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
