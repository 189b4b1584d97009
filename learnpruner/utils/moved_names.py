"""Where classes lived that files of earlier versions name: exports, checkpoints and configs go on being read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {  # dotted prefixes, one move a line; the longest one counts, and what has moved again is followed
    "learnpruner.accuracy": "learnpruner.evaluation.accuracy_task",
    "learnpruner.adapt": "learnpruner.adapters",
    "learnpruner.data.module": "learnpruner.data.datamodule",
    "learnpruner.folders": "learnpruner.cli.run_folder",
    "learnpruner.heads": "learnpruner.evaluation.head_importance",
    "learnpruner.heads.Heads": "learnpruner.evaluation.head_importance.HeadImportanceTask",
    "learnpruner.kv.recent": "learnpruner.kv_eviction.policies.streaming_llm",
    "learnpruner.kv.retention": "learnpruner.kv_eviction.policies.trimkv",
    "learnpruner.kv.sessions": "learnpruner.kv_eviction.conversation_task",
    "learnpruner.kv.spread": "learnpruner.kv_eviction.policies.random",
    "learnpruner.objective": "learnpruner.training.losses",
    "learnpruner.peers": "learnpruner.comparison",
    "learnpruner.relaxation": "learnpruner.core.relaxations",
    "learnpruner.speed": "learnpruner.profiling.latency_task",
    "learnpruner.suite": "learnpruner.evaluation.suite_task",
    "learnpruner.sweep": "learnpruner.cli.sweep_callback",
    "learnpruner.train_step": "learnpruner.profiling.train_step_task",
    "learnpruner.training.head_importance": "learnpruner.evaluation.head_importance",
    "learnpruner.evaluation.accuracy_task.Accuracy": "learnpruner.evaluation.accuracy_task.AccuracyTask",
    "learnpruner.evaluation.suite_task.Suite": "learnpruner.evaluation.suite_task.BenchmarkSuiteTask",
    "learnpruner.comparison.task.Peers": "learnpruner.comparison.task.ComparisonTask",
    "learnpruner.evaluation.head_importance.Heads": "learnpruner.evaluation.head_importance.HeadImportanceTask",
    "learnpruner.cli.sweep_callback.SweepTable": "learnpruner.cli.sweep_callback.SweepSummaryCallback",
    "learnpruner.adapters.lora.Lora": "learnpruner.adapters.lora.LoraAdapter",
    "learnpruner.adapters.projector.Projector": "learnpruner.adapters.projector.ProjectorAdapter",
    "learnpruner.benchmarks.scenes.Scenes": "learnpruner.benchmarks.scenes.ScenesBenchmark",
    "learnpruner.benchmarks.seed.Seed": "learnpruner.benchmarks.seed.SeedBench",
    "learnpruner.data.datamodule.Scenes": "learnpruner.data.datamodule.SceneSource",
    "learnpruner.data.hub.hub": "learnpruner.data.hub.hub_source",
    "learnpruner.kv_eviction.conversation_task.Sessions": "learnpruner.kv_eviction.conversation_task.ConversationTask",
    "learnpruner.kv_eviction.policies.random.Spread": "learnpruner.kv_eviction.policies.random.RandomEviction",
    "learnpruner.kv_eviction.policies.streaming_llm.Recent": "learnpruner.kv_eviction.policies.streaming_llm.StreamingLLM",
    "learnpruner.kv_eviction.policies.trimkv.GlobalRetention": "learnpruner.kv_eviction.policies.trimkv.MakeEachTokenCount",
    "learnpruner.kv_eviction.policies.trimkv.Retention": "learnpruner.kv_eviction.policies.trimkv.TrimKV",
    "learnpruner.profiling.latency_task.Speed": "learnpruner.profiling.latency_task.LatencyTask",
    "learnpruner.profiling.train_step_task.TrainStep": "learnpruner.profiling.train_step_task.TrainStepTask",
}


def canonical_target(target: str) -> str:
    """Find today's dotted name of a class; names that never moved, and those of other packages, stay as they are."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        if (known := MOVED.get(".".join(parts[:end]))) is not None:
            return canonical_target(".".join([known, *parts[end:]]))
    return target


def with_canonical_targets(settings: Any) -> Any:
    """Rename every `_target_` in settings, however deeply nested, as it is called today."""
    if isinstance(settings, Mapping):
        known = {key: with_canonical_targets(value) for key, value in settings.items()}
        target = known.get("_target_")
        return known | {"_target_": canonical_target(target)} if isinstance(target, str) else known
    return [with_canonical_targets(value) for value in settings] if isinstance(settings, list) else settings
