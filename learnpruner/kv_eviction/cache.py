"""A cache layer that forgets: physically as short as its policy leaves it, logically as long as all that was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from learnpruner.engine.packing import pack_rows
from learnpruner.kv_eviction.policy import CacheSlots
from learnpruner.utils.errors import UserError

_SLOT_TENSORS = ("column", "position", "valid", "marks")  # what is kept beside keys and values, (B, G, S) each


class EvictingLayer(DynamicLayer):
    """A DynamicLayer that answers "how long" as if nothing had been evicted.

    Generation counts on from there, and the model makes its masks for all columns ever written; `admit` takes those of the slots that are left.

    Args:
        groups: query heads a key-value head. Beside keys and values (B, G, S, d) it holds for each slot its column
            among all ever written (-1 for fillers, where heads hold different counts), its position (the column without
            padding), whether it is valid, and the policy's mark.
    """

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.clear()

    def clear(self) -> None:
        self.column: Tensor | None = None
        self.position: Tensor | None = None
        self.valid: Tensor | None = None
        self.marks: Tensor | None = None
        self.length: Tensor | None = None  # (B, 1) tokens of each row so far, without padding
        self.written = 0  # columns so far
        self.fresh = 0  # of these, since the last eviction
        self.whole = True  # nothing was evicted yet
        self.fillers = False
        self.expected = False  # the engine has announced what is written next

    # -- what Hugging Face asks ---------------------------------------------------------------------------------

    def get_seq_length(self) -> int:
        return self.written

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.written + query_length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.expected:
            raise UserError("This cache was filled under an eviction policy: go on with it inside eviction.on(model).")
        self.expected = False
        return super().update(key_states, value_states, *args, **kwargs)

    def crop(self, tokens_to_remove: int) -> None:
        raise UserError(
            "Evicted tokens can't be brought back: prompt lookup and assisted decoding don't work under eviction."
        )

    def reset(self) -> None:
        super().reset()
        self.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._rows(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rows(lambda x: x[indices])

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for name in ("keys", "values", "length", *_SLOT_TENSORS):
            if getattr(self, name) is not None:
                setattr(self, name, change(getattr(self, name)))

    # -- what the engine asks -----------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Slots that each head physically holds, fillers included."""
        return 0 if self.column is None else self.column.shape[-1]

    def admit(self, hidden: Tensor, heads: int, mask: Tensor | None, mark: Tensor | None) -> Tensor | None:
        """Make room for new tokens: the mask for all slots that they will see, themselves included.

        Args:
            hidden: (B, q, D), the input of the layer's attention.
            heads: G, key-value heads.
            mask: what the model made for all columns, (B, 1, q, written + q) bool or additive, or None.
            mark: (B, G, q), what the policy remembers beside them, or None.
        """
        rows, new = hidden.shape[:2]
        columns = torch.arange(self.written, self.written + new, device=hidden.device)
        if mask is None:
            if self.length is None:
                self.length = columns.new_zeros(rows, 1)
            position, valid = self.length + torch.arange(new, device=hidden.device), columns >= 0
            self.length = self.length + new
        else:
            seen = visible_entries(mask[:, 0, -1]).expand(
                rows, -1
            )  # (B, written + q); the last row sees all that is valid
            self._refresh(seen)
            rank = seen.cumsum(1)
            position, valid, self.length = rank[:, self.written :] - 1, seen[:, self.written :], rank[:, -1:]
        for name, value in zip(_SLOT_TENSORS, (columns.int(), position.int(), valid, mark), strict=True):
            if value is not None:
                value = value if value.dim() == 3 else value.expand(rows, new)[:, None].expand(-1, heads, -1)
                held = getattr(self, name)
                setattr(self, name, value if held is None else torch.cat([held, value], -1))
        self.written, self.fresh, self.expected = self.written + new, self.fresh + new, True
        return mask if self.whole else self._mask(mask, columns)

    def _refresh(self, seen: Tensor) -> None:
        """The caller may mask what was written before, such as padding behind a finished answer."""
        if self.column is not None:
            known = seen[:, None].expand(*self.column.shape[:2], -1).gather(-1, self.column.long().clamp_min(0))
            self.valid = known & (self.column >= 0)

    def _mask(self, mask: Tensor | None, columns: Tensor) -> Tensor | None:
        """(B, H, q, S), or None where all is visible; columns (q,) of the queries."""
        assert self.column is not None
        column = self.column[:, :, None].long()  # (B, G, 1, S)
        if mask is None:
            if len(columns) == 1 and not self.fillers:
                return None
            own = (column >= 0) & (column <= columns[:, None])
        else:
            wide = mask.expand(column.shape[0], column.shape[1], -1, -1)
            own = wide.gather(-1, column.clamp_min(0).expand(-1, -1, len(columns), -1))
            hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            own = own.masked_fill(column < 0, hidden)
        return own.repeat_interleave(self.groups, 1)

    def slots(self) -> CacheSlots:
        """Show what a policy sees."""
        assert self.position is not None and self.valid is not None and self.length is not None
        return CacheSlots(self.position, self.length[..., None] + 1 - self.position, self.valid, self.marks)

    def evict(self, keep: Tensor, most: int, least: int) -> None:
        """Shorten to the slots of keep (B, G, S), which has `least` to `most` slots a head."""
        assert self.keys is not None and self.values is not None and self.column is not None
        index, present = (x.unflatten(0, keep.shape[:2]) for x in pack_rows(keep.flatten(0, 1), most))
        wide = index[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)
        for name in _SLOT_TENSORS:
            if (held := getattr(self, name)) is not None:
                setattr(self, name, held.gather(2, index))
        self.column = self.column.masked_fill(~present, -1)
        self.valid = self.valid & present if self.valid is not None else present
        self.whole, self.fillers = False, least < most


def visible_entries(mask: Tensor) -> Tensor:
    """Mark which entries of a mask let attention through: bool masks say so, additive ones by 0."""
    return mask if mask.dtype == torch.bool else mask == 0


def evicting_layer(cache: Any, index: int, groups: int) -> EvictingLayer:
    """Find layer `index` of a cache, made to forget when it is still empty."""
    if not isinstance(cache, Cache):
        raise UserError("Eviction needs a KV cache: leave use_cache on.")
    while len(cache.layers) <= index:
        cache.layers.append(EvictingLayer(groups))
    layer = cache.layers[index]
    if isinstance(layer, EvictingLayer):
        return layer
    if type(layer) is not DynamicLayer:
        raise UserError(
            f"Eviction works on a dynamic cache of full-attention layers, this one has a {type(layer).__name__}: "
            "leave cache_implementation unset."
        )
    if layer.get_seq_length():
        raise UserError("This cache was filled without the eviction policy: start again without past_key_values.")
    made = cache.layers[index] = EvictingLayer(groups)
    return made
