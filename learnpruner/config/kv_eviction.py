"""What is trained of KV-cache eviction: conf/kv."""

from __future__ import annotations

from typing import Any, Literal

from learnpruner.config.settings import Settings
from learnpruner.config.value_ranges import Amount, Positive


class KvConfig(Settings):
    """Gates for KV-cache eviction, trained in place of a pruner.

    policy, budget, every: as `learnpruner.kv_eviction.Eviction`; teacher, capacity: as
    `learnpruner.kv_eviction.lit_module.KVGateLitModule`.
    """

    policy: dict[str, Any]
    budget: Positive = 64
    every: Positive = 16
    teacher: Literal["turn", "transcript"] = "transcript"
    capacity: Amount = 1.0
