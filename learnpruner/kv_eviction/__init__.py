"""KV-cache eviction while generating: a policy decides which slots stay, the engine of this room shortens the cache.

It is no visual-token selection: it acts on what was read and written so far, and composes with a plan
(`with plan.on(model), eviction.on(model): model.generate(...)`, in any order).
"""

from learnpruner.kv_eviction.eviction import Eviction, load_eviction
from learnpruner.kv_eviction.policy import CacheSlots, EvictionPolicy, ScoreEvictionPolicy

__all__ = ["CacheSlots", "Eviction", "EvictionPolicy", "ScoreEvictionPolicy", "load_eviction"]
