"""The engine: hooks on an unmodified model, and a binding of its calls, that carry out a plan; all undone on detach."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.plan_spec import Mode, PlanSpec
from learnpruner.engine import checks
from learnpruner.engine.attention_hook import HookedRecompute
from learnpruner.engine.binding import compile_opaque, compile_transparent, forget_compiled
from learnpruner.engine.call_state import GENERATE, current_call, open_call
from learnpruner.engine.hooks import HookSet
from learnpruner.engine.kv_lengths import check_prefill_lengths
from learnpruner.engine.language_hooks import LanguageHooks
from learnpruner.engine.prefill import Prefill
from learnpruner.engine.prefill_trace import PrefillTrace
from learnpruner.engine.prompt import generate_attention_mask, read_prompt
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.engine.vision_hooks import VisionHooks
from learnpruner.utils.context import ContextLocal
from learnpruner.utils.errors import UserError

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]

_ATTRIBUTE = "_pruning_engine"  # of a model that carries a plan


def attach_engine(plan: PlanSpec, family: ModelFamily, mode: Mode = "physical", pool: int | None = None) -> Engine:
    """Carry out a plan on a model until `detach_engine`.

    Args:
        plan: what to carry out.
        family: of the model.
        mode: "physical" drops tokens from the sequence and the KV cache, "masked" takes them out of attention and lets
            gradient reach them.
        pool: in masked mode, dropped tokens of each image that stay in the sequence, drawn at random, and so get gradient;
            fewer are faster. None keeps all.

    Raises:
        UserError: where the model carries a plan already, or can't carry this one.
    """
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
    """Find the engine of the plan that a model carries. A deep copy of the model has one of its own."""
    return model.__dict__.get(_ATTRIBUTE)


class Engine:
    """One plan on one model. It holds nothing of a call: several threads may call the model at once.

    Attributes:
        record: values of the last prefill with images in this thread or task, None before the first.
    """

    record = ContextLocal[PrefillTrace]()
    _query = ContextLocal[Tensor]()

    def __init__(self, setup: ResolvedPlan) -> None:
        checks.check_plan(setup)
        setup.plan.prepare(setup.family)
        self._setup, self._family = setup, setup.family
        self._hooks = HookSet()
        self._adapted = ExitStack()

    def query_rows(self, mask: Tensor | None) -> None:
        """Choose which rows of this thread's following calls count as the question for later stages.

        Args:
            mask: (B, L) bool; None for the default, the text rows after the last image, without those that `labels` predict.
        """
        self._query = mask

    def verify(self) -> None:
        """Raise where the KV cache after the last prefill does not hold what the budget says, layer by layer."""
        if self.record is None:
            raise RuntimeError("No prompt with an image has passed through the model under this plan in this thread.")
        check_prefill_lengths(self.record)

    # -- on and off ---------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put the plan on the model."""
        self._setup.plan.hold(+1)
        if self._setup.plan.stages:
            self._hook()
        if self._setup.plan.adaptation is not None:
            self._adapted.enter_context(self._setup.plan.adaptation.on(self._family))

    def _hook(self) -> None:
        model, hooks = self._family.model, self._hooks
        hooks.bind(model, "generate", functools.partial(self._on_generate, _names(model.generate)))
        for module in (model, self._family.inner_model):
            hooks.bind(module, "forward", functools.partial(self._on_call, module, _names(module.forward)))
        LanguageHooks(self, self._setup).install(hooks)
        VisionHooks(self, self._setup).install(hooks, {s for one in self._setup.before for s in one.pruner.needs})
        forget_compiled()

    def remove(self) -> None:
        """Leave no trace."""
        self._setup.plan.hold(-1)
        self._adapted.close()
        self._hooks.remove()
        for layer in self._family.language_model.layers:
            if isinstance(checkpoint := getattr(layer, "_gradient_checkpointing_func", None), HookedRecompute):
                layer._gradient_checkpointing_func = checkpoint.original

    # -- calls --------------------------------------------------------------------------------------------------

    @compile_transparent
    def _on_generate(self, names: list[str], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`generate` as it was, as one call: it encodes images before it reaches `forward`."""
        given, defaults = _named(names, args, kwargs), self._family.model.generation_config
        inputs = {"input_ids": given.pop("inputs", None), **given}
        checks.check_generate(inputs, defaults, self._setup.masked)
        inputs["attention_mask"] = generate_attention_mask(inputs, defaults)
        with open_call(self, GENERATE, self._prompt(inputs)) as frame:
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
        if frame is not None and frame.caller == GENERATE and self._is_prompt(frame.call, inputs):
            call = frame.call
        else:
            checks.check_forward(inputs)
            call = self._prompt(inputs)
        with open_call(self, module, call):
            return original(*args, **kwargs)

    def _is_prompt(self, call: Prefill | None, inputs: Mapping[str, Any]) -> bool:
        """Whether a forward pass inside `generate` is that of its prompt: it brings the images, encoded or not yet."""
        if call is None:
            return False
        return checks.has_encoder_outputs(inputs) or (
            call.prompt.images is None and self._family.brings_pictures(inputs)
        )

    @compile_opaque
    def _prompt(self, inputs: Mapping[str, Any]) -> Prefill | None:
        """The prompt that a call brings, where it has images."""
        if not self._family.brings_pictures(inputs):
            return None
        checks.check_media(inputs)
        checks.check_late_image(inputs)
        return Prefill(self._setup, read_prompt(self._family, inputs, self._query))


def _names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _named(names: list[str], args: _Args, kwargs: _Kwargs) -> _Kwargs:
    """Arguments by name, those given by their place too."""
    return {**dict(zip(names, args, strict=False)), **kwargs}
