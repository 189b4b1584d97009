"""Eviction written from the rule in plain loops: nothing leaves the cache, what is evicted is masked, head by head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from learnpruner.kv_eviction import CacheSlots, ScoreEvictionPolicy


class Fading(ScoreEvictionPolicy):
    """Marks that differ between tokens, heads and layers; scores decay with age."""

    def __init__(self, pool: str = "head", heads: int = 2) -> None:
        super().__init__()
        self.pool, self.heads = pool, heads

    def mark(self, layer: int, hidden: Tensor) -> Tensor:
        return -torch.stack([hidden[..., g :: self.heads + layer].float().abs().mean(-1) for g in range(self.heads)], 1)

    def score(self, slots: CacheSlots) -> Tensor:
        return slots.mark * slots.age


class Loop:
    """Greedy decoding of a batch on the unmodified model, with the eviction of `Fading` or of a recent window.

    sinks None is Fading. alive: for each layer, row and head the columns that may still be seen.
    """

    def __init__(self, model: Any, budget: int, every: int, pool: str = "head", sinks: int | None = None) -> None:
        self.model, self.budget, self.every, self.pool, self.sinks = model, budget, every, pool, sinks
        self.lm = model.model.language_model
        self.heads = self.lm.config.num_key_value_heads
        self.marker = Fading(heads=self.heads)

    @torch.no_grad()
    def run(self, batch: dict[str, Tensor], steps: int) -> Tensor:
        """Logits of each step: (B, steps, V)."""
        rows = len(batch["input_ids"])
        self.padding = [int((row == 0).sum()) for row in batch["attention_mask"]]
        layers = len(self.lm.layers)
        self.alive = [[[[] for _ in range(self.heads)] for _ in range(rows)] for _ in range(layers)]
        self.marks: list[Any] = [torch.empty(rows, self.heads, 0) for _ in range(layers)]
        self.written = self.fresh = 0
        cache, inputs, found = DynamicCache(config=self.lm.config), dict(batch), []
        inputs["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        hooks = [
            layer.self_attn.register_forward_pre_hook(self._hook(i), with_kwargs=True)
            for i, layer in enumerate(self.lm.layers)
        ]
        for _ in range(steps):
            found.append(self.model(**inputs, past_key_values=cache).logits[:, -1])
            self.written += inputs["input_ids"].shape[1]
            self.fresh += inputs["input_ids"].shape[1]
            if self.fresh >= self.every:
                self.fresh = 0
                self.evict()
            mask = torch.cat([inputs["attention_mask"], torch.ones(rows, 1, dtype=torch.long)], 1)
            positions = inputs["position_ids"][:, -1:] + 1
            inputs = {"input_ids": found[-1].argmax(-1)[:, None], "attention_mask": mask, "position_ids": positions}
        for hook in hooks:
            hook.remove()
        return torch.stack(found, 1)

    def _hook(self, index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            hidden = kwargs["hidden_states"]
            new = hidden.shape[1]
            self.marks[index] = torch.cat([self.marks[index], self.marker.mark(index, hidden)], -1)
            allowed = torch.zeros(hidden.shape[0], 2 * self.heads, new, self.written + new, dtype=torch.bool)
            for b, row in enumerate(self.alive[index]):
                for g, columns in enumerate(row):
                    columns += [c for c in range(self.written, self.written + new) if c >= self.padding[b]]
                    for q in range(new):
                        seen = [c for c in columns if c <= self.written + q] or [self.written + q]
                        allowed[b, 2 * g : 2 * g + 2, q, seen] = True
            if module.config._attn_implementation == "eager":
                allowed = torch.where(allowed, 0.0, torch.finfo(hidden.dtype).min)
            return args, {**kwargs, "attention_mask": allowed}

        return hook

    def score(self, layer: int, row: int, head: int, column: int) -> float:
        if self.sinks is None:
            return float(self.marks[layer][row, head, column] * (self.written + 1 - column))
        return float("inf") if column - self.padding[row] < self.sinks else float(column)

    def evict(self) -> None:
        for row in range(len(self.padding)):
            places = [(layer, head) for layer in range(len(self.alive)) for head in range(self.heads)]
            if self.pool == "cache":
                self._keep(row, places, self.budget * len(places))
            else:
                for place in places:
                    self._keep(row, [place], self.budget)

    def _keep(self, row: int, places: list[tuple[int, int]], count: int) -> None:
        ranked = [(-self.score(i, row, g, c), i, g, c) for i, g in places for c in self.alive[i][row][g]]
        kept = sorted(ranked)[:count]
        for layer, head in places:
            self.alive[layer][row][head] = sorted(c for _, i, g, c in kept if (i, g) == (layer, head))
