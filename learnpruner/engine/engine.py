"""The engine: hooks on an unmodified model, and a binding of its calls, that carry out a plan; all undone on detach."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.plan_spec import Mode, PlanSpec
from learnpruner.core.signals import Signal
from learnpruner.engine import checks as refuse
from learnpruner.engine import vision_signals as tower
from learnpruner.engine.attention_hook import _NAME, HookedRecompute, install_hook, remove_hook
from learnpruner.engine.binding import MethodBinding, compile_opaque, compile_transparent, forget_compiled
from learnpruner.engine.cache import PrunedCache, session_of
from learnpruner.engine.call_state import CallFrame, current_call, open_call
from learnpruner.engine.driver import AttentionHook
from learnpruner.engine.prefill import Prefill
from learnpruner.engine.prompt import generate_attention_mask, read_prompt
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.engine.trace import PrefillTrace
from learnpruner.engine.vision_stages import hash_pixels
from learnpruner.utils.context import ContextLocal
from learnpruner.utils.errors import UserError

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]

_ATTRIBUTE = "_pruning_engine"  # of a model that carries a plan
_GENERATE = "generate"


def attach_engine(plan: PlanSpec, family: ModelFamily, mode: Mode = "physical", pool: int | None = None) -> Engine:
    """Carry out a plan on a model until `detach`."""
    if engine_of(family.model) is not None:
        raise UserError("This model already carries a plan: detach it first.")
    engine = family.model.__dict__[_ATTRIBUTE] = Engine(ResolvedPlan(plan, family, mode, pool))
    try:
        engine.install()
    except BaseException:
        detach_engine(family)
        raise
    return engine


def detach_engine(family: ModelFamily) -> None:
    """Take the plan off a model."""
    engine = family.model.__dict__.pop(_ATTRIBUTE, None)
    if engine is None:
        raise UserError("This model carries no plan: nothing to detach.")
    engine.remove()


def engine_of(model: nn.Module) -> Engine | None:
    """The engine of the plan that a model carries. A deep copy of the model has one of its own."""
    return model.__dict__.get(_ATTRIBUTE)


class Engine:
    """One plan on one model. It holds nothing of a call: several threads may call the model at once.

    record: values of the last prefill with images in this thread or task, None before the first.
    """

    record = ContextLocal[PrefillTrace]()
    _query = ContextLocal[Tensor]()

    def __init__(self, setup: ResolvedPlan) -> None:
        refuse.check_plan(setup)
        setup.plan.prepare(setup.family)
        self._setup, self._family = setup, setup.family
        self._bindings: list[MethodBinding] = []
        self._handles: list[Any] = []
        self._driven: list[nn.Module] = []
        self._adapted = ExitStack()

    def query_rows(self, mask: Tensor | None) -> None:
        """Which rows (B, L) of this thread's following calls count as the question for later stages; None for the default.

        By default these are the text rows after the last image, without those that `labels` predict.
        """
        self._query = mask

    def verify(self) -> None:
        """Raise where the KV cache after the last prefill does not hold what the budget says, layer by layer."""
        if self.record is None:
            raise RuntimeError("No prompt with an image has passed through the model under this plan in this thread.")
        self.record.verify()

    # -- on and off ---------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put the plan on the model."""
        self._setup.plan.hold(+1)
        if self._setup.plan.stages:
            self._hook()
        if self._setup.plan.adaptation is not None:
            self._adapted.enter_context(self._setup.plan.adaptation.on(self._family))

    def _hook(self) -> None:
        model, core, lm, tap = (
            self._family.model,
            self._family.inner_model,
            self._family.language_model,
            self._family.projector,
        )
        self._bind(model, "generate", functools.partial(self._on_generate, _names(model.generate)))
        for module in (model, core):
            self._bind(module, "forward", functools.partial(self._on_call, module, _names(module.forward)))
        self._bind(lm, "forward", self._on_language)
        self._before(tap, self._on_features)
        self._handles.append(tap.register_forward_hook(self._on_projected))
        for index, layer in enumerate(lm.layers):
            self._before(layer, functools.partial(self._on_layer, index))
            if self._setup.masked or index in self._setup.watched:
                self._drive(layer.self_attn)
        self._watch_tower({signal for stage in self._setup.before for signal in stage.pruner.needs})
        forget_compiled()

    def remove(self) -> None:
        """Leave no trace."""
        self._setup.plan.hold(-1)
        self._adapted.close()
        for handle in self._handles:
            handle.remove()
        for attention in self._driven:
            remove_hook(attention)
        for binding in reversed(self._bindings):
            binding.undo()
        for layer in self._family.language_model.layers:
            if isinstance(checkpoint := getattr(layer, "_gradient_checkpointing_func", None), HookedRecompute):
                layer._gradient_checkpointing_func = checkpoint.original
        if self._bindings:
            forget_compiled()
        self._bindings, self._handles, self._driven = [], [], []

    def _bind(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        self._bindings.append(MethodBinding(module, name, around))

    def _before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _drive(self, attention: nn.Module) -> None:
        install_hook(attention)
        self._driven.append(attention)

    def _watch_tower(self, signals: set[Signal]) -> None:
        """Compute what is declared of the vision tower when it runs."""
        for each in self._family.towers:
            for signal in signals:
                if signal.name == "image_key":
                    self._before(each, functools.partial(self._on_pixels, signal))
                elif signal.name in tower.TOWER_OUTPUT_SIGNALS:
                    hook = functools.partial(self._on_tower, signal)
                    self._handles.append(each.register_forward_hook(hook))
            for index, read_here in tower.signals_by_layer(signals, self._family).items():
                layer: Any = self._family.layers_of(each)[index]
                self._before(layer, functools.partial(self._on_tower_layer, read_here))
                self._drive(layer.self_attn)

    # -- calls --------------------------------------------------------------------------------------------------

    @compile_transparent
    def _on_generate(self, names: list[str], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`generate` as it was, as one call: it encodes images before it reaches `forward`."""
        given, defaults = _named(names, args, kwargs), self._family.model.generation_config
        inputs = {"input_ids": given.pop("inputs", None), **given}
        refuse.check_generate(inputs, defaults, self._setup.masked)
        inputs["attention_mask"] = generate_attention_mask(inputs, defaults)
        with open_call(self, _GENERATE, self._prompt(inputs)) as frame:
            frame.mask = inputs["attention_mask"]
            return original(*args, **kwargs)

    @compile_transparent
    def _on_call(
        self, module: nn.Module, names: list[str], original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """A call of the model or of its core. Inside `generate` some are its own, others a caller's beside it."""
        frame = current_call(self)
        if frame is not None and frame.caller is self._family.model and module is self._family.inner_model:
            return original(*args, **kwargs)
        inputs = _named(names, args, kwargs)
        if frame is not None and frame.caller == _GENERATE and self._is_prompt(frame.call, inputs):
            call = frame.call
        else:
            refuse.check_forward(inputs)
            call = self._prompt(inputs)
        with open_call(self, module, call):
            return original(*args, **kwargs)

    def _is_prompt(self, call: Prefill | None, inputs: Mapping[str, Any]) -> bool:
        """Whether a forward pass inside `generate` is that of its prompt: it brings the images, encoded or not yet."""
        if call is None:
            return False
        return refuse.has_encoder_outputs(inputs) or (
            call.prompt.images is None and self._family.brings_pictures(inputs)
        )

    @compile_opaque
    def _prompt(self, inputs: Mapping[str, Any]) -> Prefill | None:
        """The prompt that a call brings, where it has images."""
        if not self._family.brings_pictures(inputs):
            return None
        refuse.check_media(inputs)
        refuse.check_late_image(inputs)
        return Prefill(self._setup, read_prompt(self._family, inputs, self._query))

    # -- vision -------------------------------------------------------------------------------------------------

    def _call(self) -> Prefill | None:
        frame = current_call(self)
        return None if frame is None else frame.call

    @compile_opaque
    def _on_pixels(self, signal: Signal, module: nn.Module, args: _Args, kwargs: _Kwargs) -> None:
        if (call := self._call()) is not None:
            call.seen[signal] = hash_pixels(args[0] if args else kwargs["pixel_values"])

    @compile_opaque
    def _on_tower(self, signal: Signal, module: nn.Module, args: _Args, output: Any) -> None:
        if (call := self._call()) is not None:
            read_here = self._family.cls_state if signal.name == "cls_state" else self._family.patch_states
            call.seen[signal] = read_here(output)

    @compile_opaque
    def _on_tower_layer(self, signals: list[Signal], module: nn.Module, args: _Args, kwargs: _Kwargs) -> None:
        frame, has_cls = current_call(self), self._family.has_cls
        if frame is None or frame.call is None:
            return
        seen = frame.call.seen

        def watch(query: Tensor, key: Tensor, scaling: float) -> None:
            for signal in signals:
                seen[signal] = tower.read_tower_signal(signal.name, query, key, scaling, has_cls)

        frame.handed[module.self_attn] = AttentionHook(watch)  # type: ignore[index]

    @compile_opaque
    def _on_features(self, module: nn.Module, args: _Args, kwargs: _Kwargs) -> Any:
        call = self._call()
        features = None if call is None else call.features(args[0])
        return None if features is None else ((features, *args[1:]), kwargs)

    @compile_opaque
    def _on_projected(self, module: nn.Module, args: _Args, output: Tensor) -> Tensor | None:
        call = self._call()
        return None if call is None else call.projected(output)

    # -- language model -----------------------------------------------------------------------------------------

    @compile_transparent
    def _on_language(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A prompt with images begins a session; tokens on the cache of one follow it; all else passes untouched."""
        frame = current_call(self)
        if frame is None or frame.caller == _GENERATE:  # called on its own
            with open_call(self, self._family.language_model, None):
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
        position_ids = session.following(x, cache, kwargs.get("position_ids"), frame.mask)
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
        refuse.check_prefill(cache, lm, self._setup.masked)
        cache = self._cache(cache, kwargs)
        changed = call.begin(kwargs, cache)
        frame.session = call.session
        use = {"use_cache": False} if self._setup.masked else {}
        return {**kwargs, **changed, **use, "attention_mask": _stand_in(x), "past_key_values": cache}

    @compile_opaque
    def _finish(self, call: Prefill, output: Any) -> Any:
        output.last_hidden_state, self.record = call.finish(output.last_hidden_state)
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
        frame = current_call(self)
        if frame is None or frame.session is None:
            return None
        hidden, session, call = args[0], frame.session, frame.prefill
        if call is not None:
            hidden = call.enter_layer(index, hidden, kwargs["position_embeddings"])
            frame.inputs = call.inputs
            _keep_driven(module, self._setup.masked)
        elif index in session.starts:
            frame.inputs = session.follow(hidden, kwargs["past_key_values"], frame.mask, index)
        assert frame.inputs is not None
        kwargs = {**kwargs, "attention_mask": frame.inputs.mask, "position_ids": None}
        if frame.inputs.rotary is not None:
            kwargs["position_embeddings"] = frame.inputs.rotary
        if call is not None and (driver := call.driver(index)) is not None:
            kwargs[_NAME] = driver
        return (hidden, *args[1:]), kwargs


def _keep_driven(layer: Any, masked: bool) -> None:
    """Masked mode: what is recomputed in the backward pass must be what was computed."""
    checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
    if masked and layer.training and checkpoint is not None and not isinstance(checkpoint, HookedRecompute):
        layer._gradient_checkpointing_func = HookedRecompute(checkpoint, layer.self_attn)


def _names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _named(names: list[str], args: _Args, kwargs: _Kwargs) -> _Kwargs:
    """Arguments by name, those given by their place too."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _flags(frame: CallFrame, mask: Any) -> Any:
    """A mask as the caller gave it: for a static cache `generate` makes one of its own, for lengths that no layer has.

    Families whose masks differ by layer get it as a mapping of kinds.
    """
    own = isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.dim() == 4)
    if own and frame.outer is not None and frame.outer.caller == _GENERATE:
        return frame.outer.mask
    return mask if isinstance(mask, Tensor) else None


def _stand_in(x: Tensor) -> Tensor:
    """A mask that the language model hands on as it is, and every layer replaces: it must not build its own."""
    return x.new_zeros(1, 1, 1, 1)
