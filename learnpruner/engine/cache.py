"""KV caches whose layers hold different lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import Cache, DynamicCache

if TYPE_CHECKING:
    from learnpruner.engine.session import Session


class PrunedCache(DynamicCache):
    """A DynamicCache that answers "how long" as if nothing had been dropped, so that generation counts on from there.

    With a layer named it answers with the physical length. It carries its session: a second turn on the same cache
    knows what was dropped.
    """

    dropped = 0

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        physical = super().get_seq_length(layer_idx or 0)
        return physical + self.dropped if layer_idx is None and physical else physical

    def get_query_offset(self, layer_idx: int | None = None) -> int:
        return super().get_seq_length(layer_idx or 0)


def session_of(cache: Cache | None) -> Session | None:
    """The session that filled this cache, if a plan did."""
    return getattr(cache, "session", None)


def filled(cache: Cache | None) -> bool:
    """Whether a cache holds anything."""
    return cache is not None and int(cache.get_seq_length()) > 0


def remember(cache: Cache | None, session: Session | None) -> None:
    """Tie a session's life to the cache that it fills; None forgets it."""
    if cache is not None:
        cache.session = session  # type: ignore[attr-defined]


def physical(cache: Cache, layer: int) -> Any:
    """Tokens that a layer really holds: an int, or a tensor where the cache is static."""
    held: Any = cache.layers[layer]
    return held.get_seq_length()


def lengths(cache: Cache | None, layers: int) -> list[int]:
    """Tokens that each layer really holds."""
    return [] if cache is None else [int(physical(cache, layer)) for layer in range(layers)]


def setting(name: str, inputs: Mapping[str, Any], defaults: Any) -> Any:
    """A setting of `generate`: the call's own, or its generation_config's, or the model's."""
    if inputs.get(name) is not None:
        return inputs[name]
    given = getattr(inputs.get("generation_config"), name, None)
    return getattr(defaults, name, None) if given is None else given


def wants_dynamic(inputs: Mapping[str, Any], defaults: Any) -> bool:
    """Whether `generate` would make a DynamicCache of its own."""
    kind = setting("cache_implementation", inputs, defaults)
    return inputs.get("past_key_values") is None and kind in (None, "dynamic")
