"""Hooks on the language model: each layer gets the sequence, mask, positions and attention hook that a plan leaves it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import Cache

from learnpruner.engine import checks
from learnpruner.engine.attention_hook import HOOK_KEYWORD, HookedRecompute
from learnpruner.engine.binding import compile_opaque, compile_transparent
from learnpruner.engine.cache import PrunedCache, session_of
from learnpruner.engine.call_state import GENERATE, CallFrame, current_call, open_call
from learnpruner.engine.following import follow_inputs, following_positions
from learnpruner.engine.hooks import HookSet
from learnpruner.engine.prefill import Prefill
from learnpruner.engine.resolved_plan import ResolvedPlan

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


class KeepsRecord(Protocol):
    """Where the values of the last prefill are left."""

    record: Any


class LanguageHooks:
    """The language model's side of one plan on one model.

    Args:
        owner: whose calls these hooks belong to, and who keeps the record of a prefill.
        setup: the plan on this model.
    """

    def __init__(self, owner: KeepsRecord, setup: ResolvedPlan) -> None:
        self._owner, self._setup, self._family = owner, setup, setup.family

    def install(self, hooks: HookSet) -> None:
        """Put hooks on the language model and its layers."""
        model = self._family.language_model
        hooks.bind(model, "forward", self._on_language)
        for index, layer in enumerate(model.layers):
            hooks.before(layer, functools.partial(self._on_layer, index))
            if self._setup.masked or index in self._setup.watched:
                hooks.hook_attention(layer.self_attn)

    @compile_transparent
    def _on_language(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A prompt with images begins a session; tokens on the cache of one follow it; all else passes untouched."""
        frame = current_call(self._owner)
        if frame is None or frame.caller == GENERATE:  # called on its own
            with open_call(self._owner, self._family.language_model, None):
                return self._on_language(original, *args, **kwargs)
        cache: Any = kwargs.get("past_key_values")
        if session_of(cache) is not None:
            return original(*args, **self._following(frame, cache, kwargs))
        call = frame.call
        if call is None:
            return original(*args, **kwargs)
        return self._finish(call, original(*args, **self._beginning(frame, call, cache, kwargs)))

    @compile_opaque
    def _following(self, frame: CallFrame, cache: Cache, kwargs: _Kwargs) -> _Kwargs:
        session, x = session_of(cache), kwargs.get("inputs_embeds")
        assert session is not None
        if x is None:
            x = self._family.language_model.get_input_embeddings()(kwargs["input_ids"])
        frame.session, frame.mask = session, _flags(frame, kwargs.get("attention_mask"))
        position_ids = following_positions(session, x, cache, kwargs.get("position_ids"), frame.mask)
        return {
            **kwargs,
            "input_ids": None,
            "inputs_embeds": x,
            "attention_mask": _stand_in(x),
            "position_ids": position_ids,
        }

    @compile_opaque
    def _beginning(self, frame: CallFrame, call: Prefill, cache: Cache | None, kwargs: _Kwargs) -> _Kwargs:
        lm, x = self._family.language_model, kwargs["inputs_embeds"]
        checks.check_prefill(cache, lm, self._setup.masked)
        cache = self._cache(cache, kwargs)
        changed = call.begin(kwargs, cache)
        frame.session = call.session
        use = {"use_cache": False} if self._setup.masked else {}
        return {**kwargs, **changed, **use, "attention_mask": _stand_in(x), "past_key_values": cache}

    @compile_opaque
    def _finish(self, call: Prefill, output: Any) -> Any:
        output.last_hidden_state, self._owner.record = call.finish(output.last_hidden_state)
        if states := getattr(output, "hidden_states", None):
            output.hidden_states = (*states[:-1], output.last_hidden_state)
        return output

    def _cache(self, given: Cache | None, kwargs: _Kwargs) -> Cache | None:
        """The cache of a prompt: none in masked mode, one that knows what was dropped where the model would make one."""
        if self._setup.masked or given is not None:
            return None if self._setup.masked else given
        use, lm = kwargs.get("use_cache"), self._family.language_model
        wanted = lm.config.use_cache if use is None else use
        return PrunedCache(config=lm.config) if wanted else None

    @compile_opaque
    def _on_layer(self, index: int, module: nn.Module, args: _Args, kwargs: _Kwargs) -> Any:
        """Each layer gets the mask, the positions and the driver of the sequence that it runs on."""
        frame = current_call(self._owner)
        if frame is None or frame.session is None:
            return None
        hidden, session, call = args[0], frame.session, frame.prefill
        if call is not None:
            hidden = call.enter_layer(index, hidden, kwargs["position_embeddings"])
            frame.inputs = call.inputs
            _keep_driven(module, self._setup.masked)
        elif index in session.starts:
            frame.inputs = follow_inputs(session, hidden, kwargs["past_key_values"], frame.mask, index)
        assert frame.inputs is not None
        kwargs = {**kwargs, "attention_mask": frame.inputs.mask, "position_ids": None}
        if frame.inputs.rotary is not None:
            kwargs["position_embeddings"] = frame.inputs.rotary
        if call is not None and (driver := call.driver(index)) is not None:
            kwargs[HOOK_KEYWORD] = driver
        return (hidden, *args[1:]), kwargs


def _keep_driven(layer: Any, masked: bool) -> None:
    """Masked mode: what is recomputed in the backward pass must be what was computed."""
    checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
    if masked and layer.training and checkpoint is not None and not isinstance(checkpoint, HookedRecompute):
        layer._gradient_checkpointing_func = HookedRecompute(checkpoint, layer.self_attn)


def _flags(frame: CallFrame, mask: Any) -> Any:
    """A mask as the caller gave it: for a static cache `generate` makes one of its own, for lengths that no layer has.

    Families whose masks differ by layer get it as a mapping of kinds.
    """
    own = isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.dim() == 4)
    if own and frame.outer is not None and frame.outer.caller == GENERATE:
        return frame.outer.mask
    return mask if isinstance(mask, Tensor) else None


def _stand_in(x: Tensor) -> Tensor:
    """A mask that the language model hands on as it is, and every layer replaces: it must not build its own."""
    return x.new_zeros(1, 1, 1, 1)
