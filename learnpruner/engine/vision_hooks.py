"""Hooks on the vision tower and the projector: signals are read while the tower runs, and stages choose among features."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from learnpruner.core.signals import Signal
from learnpruner.engine import vision_signals
from learnpruner.engine.binding import compile_opaque
from learnpruner.engine.call_state import current_call
from learnpruner.engine.driver import AttentionHook
from learnpruner.engine.hooks import HookSet
from learnpruner.engine.prefill import Prefill
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.engine.vision_stages import hash_pixels


class VisionHooks:
    """The vision side of one plan on one model.

    Args:
        owner: whose calls these hooks belong to.
        setup: the plan on this model.
    """

    def __init__(self, owner: object, setup: ResolvedPlan) -> None:
        self._owner, self._family = owner, setup.family

    def install(self, hooks: HookSet, signals: set[Signal]) -> None:
        """Put hooks on the projector, and on the towers for what is declared of them."""
        projector = self._family.projector
        hooks.before(projector, self._on_features)
        hooks.behind(projector, self._on_projected)
        for tower in self._family.towers:
            self._watch(hooks, tower, signals)

    def _watch(self, hooks: HookSet, tower: nn.Module, signals: set[Signal]) -> None:
        for signal in signals:
            if signal.name == "image_key":
                hooks.before(tower, functools.partial(self._on_pixels, signal))
            elif signal.name in vision_signals.TOWER_OUTPUT_SIGNALS:
                hook = functools.partial(self._on_tower, signal)
                hooks.behind(tower, hook)
        for index, read_here in vision_signals.signals_by_layer(signals, self._family).items():
            layer: Any = self._family.layers_of(tower)[index]
            hooks.before(layer, functools.partial(self._on_tower_layer, read_here))
            hooks.hook_attention(layer.self_attn)

    def _call(self) -> Prefill | None:
        frame = current_call(self._owner)
        return None if frame is None else frame.call

    @compile_opaque
    def _on_pixels(self, signal: Signal, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (call := self._call()) is not None:
            call.seen[signal] = hash_pixels(args[0] if args else kwargs["pixel_values"])

    @compile_opaque
    def _on_tower(self, signal: Signal, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if (call := self._call()) is not None:
            read_here = self._family.cls_state if signal.name == "cls_state" else self._family.patch_states
            call.seen[signal] = read_here(output)

    @compile_opaque
    def _on_tower_layer(
        self, signals: list[Signal], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        frame, has_cls = current_call(self._owner), self._family.has_cls
        if frame is None or frame.call is None:
            return
        seen = frame.call.seen

        def watch(query: Tensor, key: Tensor, scaling: float) -> None:
            for signal in signals:
                seen[signal] = vision_signals.read_tower_signal(signal.name, query, key, scaling, has_cls)

        frame.handed[module.self_attn] = AttentionHook(watch)

    @compile_opaque
    def _on_features(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._call()
        features = None if call is None else call.features(args[0])
        return None if features is None else ((features, *args[1:]), kwargs)

    @compile_opaque
    def _on_projected(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        call = self._call()
        return None if call is None else call.projected(output)
