"""The engine: hooks on an unmodified model that carry out a plan, and the binding of `generate`; all undone on detach."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from learnpruner.engine import refuse, tower
from learnpruner.engine.adapter import Adapter
from learnpruner.engine.cache import PrunedCache, filled, remember, session_of, wants_dynamic
from learnpruner.engine.call import Call
from learnpruner.engine.driver import NAME, Driver, drive, hand, release
from learnpruner.engine.prompt import read
from learnpruner.engine.record import Record
from learnpruner.engine.session import Session
from learnpruner.engine.setup import Setup
from learnpruner.engine.vision import image_key
from learnpruner.plan import Mode, Plan
from learnpruner.pruner import Signal

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

ATTACHED: weakref.WeakKeyDictionary[nn.Module, Engine] = weakref.WeakKeyDictionary()


def attach(plan: Plan, adapter: Adapter, mode: Mode = "physical", pool: int | None = None) -> Engine:
    """Carry out a plan on a model until `detach`."""
    if adapter.model in ATTACHED:
        raise ValueError("This model already carries a plan: detach it first.")
    engine = Engine(Setup(plan, adapter, mode, pool))
    ATTACHED[adapter.model] = engine
    return engine


def detach(adapter: Adapter) -> None:
    """Take the plan off a model."""
    engine = ATTACHED.pop(adapter.model, None)
    if engine is None:
        raise ValueError("This model carries no plan: nothing to detach.")
    engine.remove()


class Engine:
    """One plan on one model. `record` holds the values of the last prefill with images, None before the first."""

    def __init__(self, setup: Setup) -> None:
        refuse.unfit(setup)
        setup.plan.prepare(setup.adapter)
        self.record: Record | None = None
        self._setup, self._adapter = setup, setup.adapter
        self._arguments = list(inspect.signature(type(self._adapter.model).forward).parameters)[1:]
        self._handles: list[Any] = []
        self._driven: list[nn.Module] = []
        self._query: Tensor | None = None
        self._caller: object = None  # who opened the call under way: a module, or `generate`
        self._call: Call | None = None
        self._session: Session | None = None
        self._mask: Any = None
        if setup.plan.stages:
            self._install()
        self._adapted = ExitStack()
        if setup.plan.adaptation is not None:
            self._adapted.enter_context(setup.plan.adaptation.on(self._adapter))

    def query_rows(self, mask: Tensor | None) -> None:
        """Which rows (B, L) of the following calls count as the question for later stages; None for the default.

        By default these are the text rows after the last image, without those that `labels` predict.
        """
        self._query = mask

    def verify(self) -> None:
        """Raise where the KV cache after the last prefill does not hold what the budget says, layer by layer."""
        if self.record is None:
            raise RuntimeError("No prompt with an image has passed through the model under this plan.")
        self.record.verify()

    # -- on and off ---------------------------------------------------------------------------------------------

    def _install(self) -> None:
        model, lm, tap = self._adapter.model, self._adapter.lm, self._adapter.tap
        for caller in (model, self._adapter.core):
            self._before(caller, self._on_call)
            self._handles.append(caller.register_forward_hook(self._after_call, always_call=True))
        self._before(tap, self._on_features)
        self._handles.append(tap.register_forward_hook(self._on_projected))
        self._before(lm, self._on_sequence)
        self._handles.append(lm.register_forward_hook(self._on_hidden))
        for index, layer in enumerate(lm.layers):
            self._before(layer, functools.partial(self._on_layer, index))
            if self._setup.masked or index in self._setup.watched:
                self._drive(layer.self_attn)
        self._watch_tower({signal for stage in self._setup.before for signal in stage.pruner.needs})
        model.generate = self._bind(model.generate)

    def remove(self) -> None:
        """Leave no trace."""
        self._adapted.close()
        for handle in self._handles:
            handle.remove()
        for attention in self._driven:
            release(attention)
        self._adapter.model.__dict__.pop("generate", None)
        self._handles, self._driven = [], []

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

    def _on_call(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """A call of the model, or of its core, begins; inside another, or inside `generate`, it belongs to that."""
        if self._caller is None:
            inputs = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
            refuse.call(inputs)
            self._open(module, inputs)

    def _after_call(self, module: nn.Module, args: Args, output: Any) -> None:
        if self._caller is module:
            self._close()

    def _open(self, caller: object, inputs: Mapping[str, Any]) -> None:
        pictures = self._adapter.pictures(inputs)
        refuse.media(inputs)
        refuse.late_image(inputs, pictures)
        given = inputs.get("past_key_values")
        if session_of(given) is not None and not filled(given):
            remember(given, None)  # the cache was reset: what it held before says nothing
        if pictures:
            self._call = Call(self._setup, read(self._adapter, inputs, self._query))
        self._caller = caller

    def _close(self) -> None:
        self._caller = self._call = self._session = self._mask = None

    def _bind(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`generate` as it was, as one call: it encodes images before it reaches `forward`."""

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            defaults = self._adapter.model.generation_config
            inputs = {"input_ids": kwargs.get("inputs", args[0] if args else None), **kwargs}
            refuse.generation(inputs, defaults, self._setup.masked)
            if self._adapter.pictures(inputs) and wants_dynamic(inputs, defaults):
                kwargs["past_key_values"] = PrunedCache(config=self._adapter.lm.config)
            self._open(generate, inputs)
            try:
                return original(*args, **kwargs)
            finally:
                self._close()

        return generate

    # -- vision -------------------------------------------------------------------------------------------------

    def _on_pixels(self, signal: Signal, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        if self._call is not None:
            self._call.seen[signal] = image_key(args[0] if args else kwargs["pixel_values"])

    def _on_tower(self, signal: Signal, module: nn.Module, args: Args, output: Any) -> None:
        if self._call is not None:
            read_here = self._adapter.cls_state if signal.name == "cls_state" else self._adapter.patch_states
            self._call.seen[signal] = read_here(output)

    def _on_tower_layer(self, signals: list[Signal], module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        if self._call is None:
            return
        seen, has_cls = self._call.seen, self._adapter.has_cls

        def watch(query: Tensor, key: Tensor, scaling: float) -> None:
            for signal in signals:
                seen[signal] = tower.read(signal.name, query, key, scaling, has_cls)

        hand(module.self_attn, Driver(watch))  # type: ignore[arg-type]

    def _on_features(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        features = None if self._call is None else self._call.features(args[0])
        return None if features is None else ((features, *args[1:]), kwargs)

    def _on_projected(self, module: nn.Module, args: Args, output: Tensor) -> Tensor | None:
        return None if self._call is None else self._call.projected(output)

    # -- language model -----------------------------------------------------------------------------------------

    def _on_sequence(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        """A prompt with images begins a session; tokens on the cache of one follow it; all else passes untouched."""
        cache: Any = kwargs.get("past_key_values")
        x = kwargs["inputs_embeds"]
        self._session = session_of(cache)
        if self._session is not None:
            self._session.prefill = False
            position_ids = self._session.following(x, cache, kwargs.get("position_ids"))
            self._mask = kwargs.get("attention_mask")
            return args, {**kwargs, "attention_mask": _stand_in(x), "position_ids": position_ids}
        if self._call is None:
            return None
        refuse.prefill(cache, module, self._setup.masked)
        cache = self._cache(cache, kwargs)
        changed = self._call.begin(kwargs, cache)
        self._session = self._call.session
        use = {"use_cache": False} if self._setup.masked else {}
        return args, {**kwargs, **changed, **use, "attention_mask": _stand_in(x), "past_key_values": cache}

    def _cache(self, given: Cache | None, kwargs: Kwargs) -> Cache | None:
        """The cache of a prompt: none in masked mode, one that knows what was dropped where the model would make one."""
        if self._setup.masked or given is not None:
            return None if self._setup.masked else given
        use, lm = kwargs.get("use_cache"), self._adapter.lm
        wanted = lm.config.use_cache if use is None else use
        return PrunedCache(config=lm.config) if wanted else None

    def _on_layer(self, index: int, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        """Each layer gets the mask, the positions and the driver of the sequence that it runs on."""
        session = self._session
        if session is None:
            return None
        hidden, call = args[0], self._call if session.prefill else None
        if call is not None:
            hidden = call.enter_layer(index, hidden, kwargs["position_embeddings"])
        elif index in session.starts:
            session.follow(hidden, kwargs["past_key_values"], self._mask, index)
        layout = session.layout
        kwargs = {**kwargs, "attention_mask": layout.mask, "position_ids": None}
        if layout.rotary is not None:
            kwargs["position_embeddings"] = layout.rotary
        if call is not None and (driver := call.driver(index)) is not None:
            kwargs[NAME] = driver
        return (hidden, *args[1:]), kwargs

    def _on_hidden(self, module: nn.Module, args: Args, output: Any) -> Any:
        if self._session is None or not self._session.prefill or self._call is None:
            return None
        output.last_hidden_state, self.record = self._call.finish(output.last_hidden_state)
        return output


def _stand_in(x: Tensor) -> Tensor:
    """A mask that the language model hands on as it is, and every layer replaces: it must not build its own."""
    return x.new_zeros(1, 1, 1, 1)
