"""What is trained of KV-cache eviction: conf/kv_eviction."""

from __future__ import annotations

from typing import Any, Literal

from learnpruner.config.settings import Settings
from learnpruner.config.value_ranges import Amount, Positive


class KvEvictionConfig(Settings):
    """Gates for KV-cache eviction, trained in place of a pruner.

    policy, budget, evict_interval: as `learnpruner.kv_eviction.Eviction`; teacher, capacity_weight: as
    `learnpruner.kv_eviction.lit_module.KVGateLitModule`.
    """

    policy: dict[str, Any]
    budget: Positive = 64
    evict_interval: Positive = 16
    teacher: Literal["turn", "transcript"] = "transcript"
    capacity_weight: Amount = 1.0
