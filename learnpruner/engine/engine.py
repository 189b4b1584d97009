"""The engine: hooks on an unmodified model, and a binding of its calls, that carry out a plan; all undone on detach."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from learnpruner.backbones.family import Adapter
from learnpruner.core.plan_spec import Mode, PlanSpec
from learnpruner.core.pruner import Signal
from learnpruner.engine import checks as refuse
from learnpruner.engine import vision_signals as tower
from learnpruner.engine.attention_hook import NAME, Redriven, drive, release
from learnpruner.engine.binding import Binding, forget_compiled, opaque, transparent
from learnpruner.engine.cache import PrunedCache, session_of
from learnpruner.engine.call_state import Frame, frame_of, opened
from learnpruner.engine.driver import Driver
from learnpruner.engine.prefill import Call
from learnpruner.engine.prompt import padding, read
from learnpruner.engine.resolved_plan import Setup
from learnpruner.engine.trace import Record
from learnpruner.engine.vision_stages import image_key
from learnpruner.utils.context import ContextLocal
from learnpruner.utils.errors import UserError

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

ATTRIBUTE = "_pruning_engine"  # of a model that carries a plan
GENERATE = "generate"


def attach(plan: PlanSpec, adapter: Adapter, mode: Mode = "physical", pool: int | None = None) -> Engine:
    """Carry out a plan on a model until `detach`."""
    if engine_of(adapter.model) is not None:
        raise UserError("This model already carries a plan: detach it first.")
    engine = adapter.model.__dict__[ATTRIBUTE] = Engine(Setup(plan, adapter, mode, pool))
    try:
        engine.install()
    except BaseException:
        detach(adapter)
        raise
    return engine


def detach(adapter: Adapter) -> None:
    """Take the plan off a model."""
    engine = adapter.model.__dict__.pop(ATTRIBUTE, None)
    if engine is None:
        raise UserError("This model carries no plan: nothing to detach.")
    engine.remove()


def engine_of(model: nn.Module) -> Engine | None:
    """The engine of the plan that a model carries. A deep copy of the model has one of its own."""
    return model.__dict__.get(ATTRIBUTE)


class Engine:
    """One plan on one model. It holds nothing of a call: several threads may call the model at once.

    record: values of the last prefill with images in this thread or task, None before the first.
    """

    record = ContextLocal[Record]()
    _query = ContextLocal[Tensor]()

    def __init__(self, setup: Setup) -> None:
        refuse.unfit(setup)
        setup.plan.prepare(setup.adapter)
        self._setup, self._adapter = setup, setup.adapter
        self._bindings: list[Binding] = []
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
            self._adapted.enter_context(self._setup.plan.adaptation.on(self._adapter))

    def _hook(self) -> None:
        model, core, lm, tap = self._adapter.model, self._adapter.core, self._adapter.lm, self._adapter.tap
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
            release(attention)
        for binding in reversed(self._bindings):
            binding.undo()
        for layer in self._adapter.lm.layers:
            if isinstance(checkpoint := getattr(layer, "_gradient_checkpointing_func", None), Redriven):
                layer._gradient_checkpointing_func = checkpoint.original
        if self._bindings:
            forget_compiled()
        self._bindings, self._handles, self._driven = [], [], []

    def _bind(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        self._bindings.append(Binding(module, name, around))

    def _before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _drive(self, attention: nn.Module) -> None:
        drive(attention)
        self._driven.append(attention)

    def _watch_tower(self, signals: set[Signal]) -> None:
        """Compute what is declared of the vision tower when it runs."""
        for each in self._adapter.towers:
            for signal in signals:
                if signal.name == "image_key":
                    self._before(each, functools.partial(self._on_pixels, signal))
                elif signal.name in tower.OUTPUT:
                    hook = functools.partial(self._on_tower, signal)
                    self._handles.append(each.register_forward_hook(hook))
            for index, read_here in tower.by_layer(signals, self._adapter).items():
                layer: Any = self._adapter.layers_of(each)[index]
                self._before(layer, functools.partial(self._on_tower_layer, read_here))
                self._drive(layer.self_attn)

    # -- calls --------------------------------------------------------------------------------------------------

    @transparent
    def _on_generate(self, names: list[str], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`generate` as it was, as one call: it encodes images before it reaches `forward`."""
        given, defaults = _named(names, args, kwargs), self._adapter.model.generation_config
        inputs = {"input_ids": given.pop("inputs", None), **given}
        refuse.generation(inputs, defaults, self._setup.masked)
        inputs["attention_mask"] = padding(inputs, defaults)
        with opened(self, GENERATE, self._prompt(inputs)) as frame:
            frame.mask = inputs["attention_mask"]
            return original(*args, **kwargs)

    @transparent
    def _on_call(
        self, module: nn.Module, names: list[str], original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """A call of the model or of its core. Inside `generate` some are its own, others a caller's beside it."""
        frame = frame_of(self)
        if frame is not None and frame.caller is self._adapter.model and module is self._adapter.core:
            return original(*args, **kwargs)
        inputs = _named(names, args, kwargs)
        if frame is not None and frame.caller == GENERATE and self._is_prompt(frame.call, inputs):
            call = frame.call
        else:
            refuse.call(inputs)
            call = self._prompt(inputs)
        with opened(self, module, call):
            return original(*args, **kwargs)

    def _is_prompt(self, call: Call | None, inputs: Mapping[str, Any]) -> bool:
        """Whether a forward pass inside `generate` is that of its prompt: it brings the images, encoded or not yet."""
        if call is None:
            return False
        return refuse.encoded(inputs) or (call.prompt.images is None and self._adapter.pictures(inputs))

    @opaque
    def _prompt(self, inputs: Mapping[str, Any]) -> Call | None:
        """The prompt that a call brings, where it has images."""
        if not self._adapter.pictures(inputs):
            return None
        refuse.media(inputs)
        refuse.late_image(inputs)
        return Call(self._setup, read(self._adapter, inputs, self._query))

    # -- vision -------------------------------------------------------------------------------------------------

    def _call(self) -> Call | None:
        frame = frame_of(self)
        return None if frame is None else frame.call

    @opaque
    def _on_pixels(self, signal: Signal, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        if (call := self._call()) is not None:
            call.seen[signal] = image_key(args[0] if args else kwargs["pixel_values"])

    @opaque
    def _on_tower(self, signal: Signal, module: nn.Module, args: Args, output: Any) -> None:
        if (call := self._call()) is not None:
            read_here = self._adapter.cls_state if signal.name == "cls_state" else self._adapter.patch_states
            call.seen[signal] = read_here(output)

    @opaque
    def _on_tower_layer(self, signals: list[Signal], module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        frame, has_cls = frame_of(self), self._adapter.has_cls
        if frame is None or frame.call is None:
            return
        seen = frame.call.seen

        def watch(query: Tensor, key: Tensor, scaling: float) -> None:
            for signal in signals:
                seen[signal] = tower.read(signal.name, query, key, scaling, has_cls)

        frame.handed[module.self_attn] = Driver(watch)  # type: ignore[index]

    @opaque
    def _on_features(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        call = self._call()
        features = None if call is None else call.features(args[0])
        return None if features is None else ((features, *args[1:]), kwargs)

    @opaque
    def _on_projected(self, module: nn.Module, args: Args, output: Tensor) -> Tensor | None:
        call = self._call()
        return None if call is None else call.projected(output)

    # -- language model -----------------------------------------------------------------------------------------

    @transparent
    def _on_language(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A prompt with images begins a session; tokens on the cache of one follow it; all else passes untouched."""
        frame = frame_of(self)
        if frame is None or frame.caller == GENERATE:  # called on its own
            with opened(self, self._adapter.lm, None):
                return self._on_language(original, *args, **kwargs)
        cache: Any = kwargs.get("past_key_values")
        if session_of(cache) is not None:
            return original(*args, **self._following(frame, cache, kwargs))
        call = frame.call
        if call is None:
            return original(*args, **kwargs)
        return self._finish(call, original(*args, **self._beginning(frame, call, cache, kwargs)))

    @opaque
    def _following(self, frame: Frame, cache: Cache, kwargs: Kwargs) -> Kwargs:
        session, x = session_of(cache), kwargs.get("inputs_embeds")
        assert session is not None
        if x is None:
            x = self._adapter.lm.get_input_embeddings()(kwargs["input_ids"])
        frame.session, frame.mask = session, _flags(frame, kwargs.get("attention_mask"))
        position_ids = session.following(x, cache, kwargs.get("position_ids"), frame.mask)
        return {
            **kwargs,
            "input_ids": None,
            "inputs_embeds": x,
            "attention_mask": _stand_in(x),
            "position_ids": position_ids,
        }

    @opaque
    def _beginning(self, frame: Frame, call: Call, cache: Cache | None, kwargs: Kwargs) -> Kwargs:
        lm, x = self._adapter.lm, kwargs["inputs_embeds"]
        refuse.prefill(cache, lm, self._setup.masked)
        cache = self._cache(cache, kwargs)
        changed = call.begin(kwargs, cache)
        frame.session = call.session
        use = {"use_cache": False} if self._setup.masked else {}
        return {**kwargs, **changed, **use, "attention_mask": _stand_in(x), "past_key_values": cache}

    @opaque
    def _finish(self, call: Call, output: Any) -> Any:
        output.last_hidden_state, self.record = call.finish(output.last_hidden_state)
        if states := getattr(output, "hidden_states", None):
            output.hidden_states = (*states[:-1], output.last_hidden_state)
        return output

    def _cache(self, given: Cache | None, kwargs: Kwargs) -> Cache | None:
        """The cache of a prompt: none in masked mode, one that knows what was dropped where the model would make one."""
        if self._setup.masked or given is not None:
            return None if self._setup.masked else given
        use, lm = kwargs.get("use_cache"), self._adapter.lm
        wanted = lm.config.use_cache if use is None else use
        return PrunedCache(config=lm.config) if wanted else None

    @opaque
    def _on_layer(self, index: int, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        """Each layer gets the mask, the positions and the driver of the sequence that it runs on."""
        frame = frame_of(self)
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
            kwargs[NAME] = driver
        return (hidden, *args[1:]), kwargs


def _keep_driven(layer: Any, masked: bool) -> None:
    """Masked mode: what is recomputed in the backward pass must be what was computed."""
    checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
    if masked and layer.training and checkpoint is not None and not isinstance(checkpoint, Redriven):
        layer._gradient_checkpointing_func = Redriven(checkpoint, layer.self_attn)


def _names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _named(names: list[str], args: Args, kwargs: Kwargs) -> Kwargs:
    """Arguments by name, those given by their place too."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _flags(frame: Frame, mask: Any) -> Any:
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
