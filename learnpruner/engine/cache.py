"""KV caches whose layers hold different lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache

from learnpruner.engine.call_state import in_any_call
from learnpruner.utils.errors import UserError


class PrunedRows(Cache):
    """What a cache of any kind answers and does beside its own once a plan has filled it.

    It answers "how long" as if nothing had been dropped, so that generation counts on from there; with a layer named, the
    physical length. It carries its session, so that a second turn knows what was dropped, and whatever moves its rows
    moves the session's.
    """

    session: Any = None

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        physical: int = super().get_seq_length(layer_idx or 0)
        if layer_idx is not None or self.session is None:
            return physical
        counted: int = physical + self.session.dropped * (physical > 0)  # a static cache counts in tensors
        return counted

    def get_query_offset(self, layer_idx: int | None = None) -> int:
        return super().get_seq_length(layer_idx or 0)

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.session is not None and not in_any_call():
            raise UserError("This cache was filled under a plan: go on with it inside plan.on(model).")
        return super().update(*args, **kwargs)

    def reset(self) -> None:
        super().reset()  # type: ignore[no-untyped-call]
        self.session = None

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self._move(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._move(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._move(lambda x: x[indices.to(x.device)])

    def crop(self, tokens_to_remove: int) -> None:
        if self.session is not None and self.get_seq_length() - abs(tokens_to_remove) < self.session.asked:
            raise UserError(
                f"Removing {abs(tokens_to_remove)} tokens would cut into a prompt that a plan has shortened: start again "
                "without past_key_values."
            )
        super().crop(tokens_to_remove)

    def _move(self, rows: Callable[[Tensor], Tensor]) -> None:
        if self.session is not None:
            self.session = self.session.moved(rows)


class PrunedCache(PrunedRows, DynamicCache):
    """A DynamicCache that a plan fills."""


_KINDS: dict[type[Cache], Any] = {DynamicCache: PrunedCache}


def _pruned(kind: type[Cache]) -> Any:
    """The same kind of cache, as a plan fills it."""
    if issubclass(kind, PrunedRows):
        return kind
    if kind not in _KINDS:
        _KINDS[kind] = type(f"Pruned{kind.__name__}", (PrunedRows, kind), {})
    return _KINDS[kind]


def session_of(cache: Cache | None) -> Any:
    """Find the session that filled this cache, if a plan did."""
    return getattr(cache, "session", None)


def is_filled(cache: Cache | None) -> bool:
    """Tell whether a cache holds anything."""
    return cache is not None and int(cache.get_seq_length()) > 0


def attach_session(cache: Cache | None, session: Any) -> None:
    """Tie a session's life to the cache that it fills, whoever made it."""
    filled: Any = cache
    if filled is not None:
        filled.__class__ = _pruned(type(filled))
        filled.session = session


def physical_length(cache: Cache, layer: int) -> Any:
    """Count the tokens that a layer really holds: an int, or a tensor where the cache is static."""
    held: Any = cache.layers[layer]
    return held.get_seq_length()


def physical_lengths(cache: Cache | None, layers: int) -> list[int]:
    """Count the tokens that each layer really holds, (L,); none without a cache."""
    return [] if cache is None else [int(physical_length(cache, layer)) for layer in range(layers)]


def generate_setting(name: str, inputs: Mapping[str, Any], defaults: Any) -> Any:
    """Read a setting of `generate`: the call's own, None too, or else its generation_config's, or the model's.

    Args:
        name: of the setting.
        inputs: the call's arguments.
        defaults: the model's generation_config.
    """
    if name in inputs:
        return inputs[name]
    given = getattr(inputs.get("generation_config"), name, None)
    return getattr(defaults, name, None) if given is None else given
