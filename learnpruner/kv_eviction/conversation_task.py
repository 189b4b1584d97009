"""The eviction task: conversations under several policies and budgets, alone and on top of a visual plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from learnpruner.backbones import Backbone
from learnpruner.data.sample import Sample, Source
from learnpruner.evaluation import table_format
from learnpruner.evaluation.generation import attached
from learnpruner.evaluation.results import EvaluationResult
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.kv_eviction.conversation import ConversationResult, answer_alone, answer_separately, hold_conversations
from learnpruner.kv_eviction.eviction import Eviction, load_eviction
from learnpruner.kv_eviction.policy import EvictionPolicy
from learnpruner.kv_eviction.table import _ALONE, _GROWING, ConversationRow, _Answers, conversation_table, measure_rows
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError
from learnpruner.utils.provenance import device_name
from learnpruner.utils.validation import check_int, check_ints


@dataclass
class ConversationTask(Task):
    """Measure what eviction costs and saves on long conversations: all questions of a sample on one growing cache.

    Args:
        source: of samples with as many turns each.
        limit: conversations; higher is slower with narrower intervals.
        batch_size: held side by side.
        budgets, evict_interval: as `Eviction`; a policy that can't keep a budget, and a budget that a conversation never fills,
            get no row.
        policies: name in the table -> policy.
        exports: name -> folder of a trained one.
        baselines_to_run: which of policies and exports run, None for all.
        allow: packages beside this one whose policies exports may have. Rows are compared with the unmodified model's
            answers to each question alone.
    """

    source: Source
    limit: int = 40
    batch_size: int = 20
    max_new_tokens: int = 6
    budgets: Sequence[int] = (32, 64, 128, 256)
    evict_interval: int = 16
    policies: Mapping[str, EvictionPolicy] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    baselines_to_run: Sequence[str] | None = None
    allow: Sequence[str] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    name: str = "kv"

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "max_new_tokens", "evict_interval"):
            check_int(f"benchmark.{name}", getattr(self, name), 1)
        check_ints("benchmark.budgets", self.budgets, 1)
        if isinstance(self.baselines_to_run, str):
            raise UserError(
                f"benchmark.baselines_to_run is {self.baselines_to_run!r}; give a list: "
                f"benchmark.baselines_to_run=[{self.baselines_to_run}]."
            )
        known = [*self.policies, *self.exports]
        if unknown := set(self.baselines_to_run or ()) - set(known):
            raise UserError(f"benchmark.baselines_to_run names {sorted(unknown)}; the policies are {', '.join(known)}.")

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write results.json and report.md; return the first and the table to print."""
        backbone, plan, folder = context.backbone, context.plan, context.folder
        plans: dict[str, Plan | None] = {"none": None} if plan is None else {"none": None, context.label: plan}
        trained = context.policy
        evictions = self._evictions(trained, context.allow)
        samples = [self.source.sample(i) for i in range(self.limit)]
        found: dict[ConversationRow, list[tuple[ConversationResult, _Answers | None]]] = {}
        with tqdm(total=self.limit, desc=self.name, unit="conversation", disable=None) as bar:
            for start in range(0, self.limit, self.batch_size):
                batch = samples[start : start + self.batch_size]
                for row, said, apart in self._rows(backbone, plans, evictions, batch):
                    found.setdefault(row, []).append((said, apart))
                bar.update(len(batch))
        batches = len(found[ConversationRow("none", _ALONE)])
        filled = {row: parts for row, parts in found.items() if len(parts) == batches}  # in every batch
        measured: dict[str, Any] = {
            "conversations": self.limit,
            "turns": len(samples[0].turns),
            "evict_interval": self.evict_interval,
            "exports": dict(self.exports) | ({"trained": trained} if trained else {}),
            "rows": measure_rows(filled, samples),
            "device": device_name(backbone.model.device),
            "threads": torch.get_num_threads(),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
        }
        about = EvaluationResult(None if plan is None else context.source, backbone.name, self.name, measured)
        path, result = about.write(folder / "results.json")
        (folder / "report.md").write_text(
            table_format.markdown_table(conversation_table(result)) + "\n", encoding="utf-8"
        )
        return path, table_format.text_table(conversation_table(result))

    def _evictions(self, trained: str | None, allow: Sequence[str]) -> dict[tuple[str, int], Eviction]:
        """Every policy at every budget that it can keep."""
        made: dict[tuple[str, int], Eviction] = {}
        names = [*self.policies, *self.exports] if self.baselines_to_run is None else self.baselines_to_run
        policies = {n: self.policies[n] if n in self.policies else self._load(self.exports[n], allow) for n in names}
        if trained is not None:
            policies["trained"] = self._load(trained, allow)
        for name, policy in policies.items():
            for budget in self.budgets:
                if policy.keeps(budget):
                    made[name, budget] = Eviction(policy, budget, self.evict_interval).eval()
        return made

    def _load(self, path: str, allow: Sequence[str]) -> EvictionPolicy:
        return load_eviction(path, allow=(*self.allow, *allow)).policy

    def _rows(
        self,
        backbone: Backbone,
        plans: Mapping[str, Plan | None],
        evictions: Mapping[tuple[str, int], Eviction],
        batch: Sequence[Sample],
    ) -> Iterator[tuple[ConversationRow, ConversationResult, _Answers | None]]:
        """What each row of the table says to one batch of conversations, together and apart."""
        for name, plan in plans.items():
            alone = answer_alone(backbone, plan, batch, self.max_new_tokens)
            yield ConversationRow(name, _ALONE), ConversationResult(alone, 0, 0.0, 0.0, 0.0), None
            with attached(plan, backbone.model):
                hold_conversations(backbone, batch[:1], self.max_new_tokens)  # warms up
                for (policy, budget), eviction in [((_GROWING, None), None), *evictions.items()]:
                    with nullcontext() if eviction is None else eviction.on(backbone.model) as engine:
                        said = hold_conversations(backbone, batch, self.max_new_tokens)
                        if engine is not None and not engine.evictions:
                            continue
                        apart = answer_separately(backbone, batch, self.max_new_tokens) if plan is None else None
                    yield ConversationRow(name, policy, budget), said, apart
