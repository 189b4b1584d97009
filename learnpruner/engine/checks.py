"""What the engine does not do, said in one sentence each, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Cache

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.plan_spec import Stage
from learnpruner.engine import llm_signals, question_embeddings, vision_signals
from learnpruner.engine.attention_hook import HookedRecompute
from learnpruner.engine.cache import generate_setting, is_filled
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.utils.errors import UserError

KNOWN_SIGNALS = {
    "before": {*vision_signals.TOWER_SIGNALS, *question_embeddings.QUESTION_SIGNALS},
    "inside": llm_signals.LLM_SIGNALS,
}


def check_plan(setup: ResolvedPlan) -> None:
    """Refuse a plan that this model, or this mode, can't carry out."""
    if setup.mode not in ("physical", "masked"):
        raise UserError(f"mode={setup.mode!r} is refused: choose 'physical' or 'masked'.")
    if setup.pool is not None and (not setup.masked or setup.pool < 0):
        raise UserError(f"pool={setup.pool} is refused: it is a number of tokens, in masked mode.")
    if setup.plan.stages and _slides(setup.family.language_model.config):
        raise UserError(
            "Language models with sliding-window attention are not supported: a window counts what was dropped."
        )
    if setup.compact and setup.family.rotary_axes > 1:
        raise UserError("positions='compact' is not defined for M-RoPE: use positions='original' with this model.")
    for stage in setup.before:
        _signals(stage.pruner.needs, "before", stage.at)
        _tower(setup.family, stage)
    for stage, cut in setup.inside:
        if stage.pruner.joint:
            raise UserError(
                f"{type(stage.pruner).__name__} chooses across the images of a prompt, which lie in one row inside the "
                f"LLM: put it at 'encoder' or at 0, not at layer {cut}."
            )
        if cut < setup.family.earliest_cut:
            raise UserError(
                f"A stage at layer {cut} is refused: this model adds image features behind layers 0 to "
                f"{setup.family.earliest_cut - 1}; choose 0, or {setup.family.earliest_cut} or later."
            )
        _signals(stage.pruner.needs, "inside", stage.at)
        late = [s.layer for s in stage.pruner.needs if s.layer is not None and s.layer not in range(cut)]
        if late:
            raise UserError(
                f"A stage at layer {cut} cannot read the attention of layer {late[0]}: choose 0 to {cut - 1}."
            )


def check_forward(inputs: Mapping[str, Any]) -> None:
    """Refuse arguments of `forward` that would slip past the plan."""
    if inputs.get("inputs_embeds") is not None:
        raise UserError("inputs_embeds= would slip past the plan: pass input_ids and pixel_values instead.")
    if has_encoder_outputs(inputs):
        raise UserError(
            "mm_encoder_outputs= would slip past the plan: pass input_ids and pixel_values instead; of a model and its "
            "assistant_model, which is given the model's encoder outputs, only the model can carry a plan."
        )


def has_encoder_outputs(inputs: Mapping[str, Any]) -> bool:
    """Tell whether a call brings ready-made outputs of the vision side."""
    return any(value is not None for value in (inputs.get("mm_encoder_outputs") or {}).values())


def check_media(inputs: Mapping[str, Any]) -> None:
    """Refuse images beside videos: they meet their placeholders in an order of their own each."""
    images = any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_images"))
    if images and inputs.get("pixel_values_videos") is not None:
        raise UserError("Images and videos in one call are not supported: pass them in calls of their own.")


def check_late_image(inputs: Mapping[str, Any]) -> None:
    """Refuse an image on a filled cache: images are chosen from in a prompt's prefill, not later."""
    cache = inputs.get("past_key_values")
    if isinstance(cache, Cache) and is_filled(cache):
        raise UserError(
            "A new image in a later turn of a filled cache is not supported: start again without past_key_values."
        )


def check_generate(inputs: Mapping[str, Any], defaults: Any, masked: bool) -> None:
    """Refuse settings of `generate` that the engine can't follow.

    Args:
        inputs: the call's arguments.
        defaults: the model's generation_config.
        masked: whether the plan is on in masked mode.
    """
    check_forward(inputs)
    if masked:
        raise UserError("mode='masked' is for training forward passes: use mode='physical' to generate.")
    if generate_setting("use_cache", inputs, defaults) is False or not inputs.get("use_cache", True):
        raise UserError("use_cache=False would prune anew at every token: generate with the cache.")
    if generate_setting("prefill_chunk_size", inputs, defaults) is not None:
        raise UserError("prefill_chunk_size is not supported: a stage needs the whole prompt to choose.")


def check_prefill(cache: Cache | None, lm: Any, masked: bool) -> None:
    """Refuse states of the language model in which a prompt can't begin.

    Args:
        cache: of the call.
        lm: the language model.
        masked: whether the plan is on in masked mode.
    """
    if is_filled(cache):
        raise UserError("This cache was filled without the plan: start again without past_key_values.")
    checkpoint = getattr(lm.layers[0], "_gradient_checkpointing_func", None)
    checkpoint = checkpoint.original if isinstance(checkpoint, HookedRecompute) else checkpoint
    if masked and lm.training and getattr(checkpoint, "keywords", {}).get("use_reentrant"):
        raise UserError("Re-entrant gradient checkpointing loses the pruner's gradient: set use_reentrant=False.")


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is not None


def _signals(needs: Any, place: str, at: int | str) -> None:
    known = KNOWN_SIGNALS[place] - question_embeddings.PROJECTED_SIGNALS if at == "encoder" else KNOWN_SIGNALS[place]
    unknown = sorted(signal.name for signal in needs if signal.name not in known)
    if unknown:
        raise UserError(f"Signal {unknown[0]!r} is not available at {at!r}: there it can be {sorted(known)}.")


def _tower(family: ModelFamily, stage: Stage) -> None:
    """What this vision tower can't give."""
    for signal in sorted(stage.pruner.needs, key=str):
        if signal.name in vision_signals.CLS_SIGNALS and not family.has_cls:
            raise UserError(
                f"{type(stage.pruner).__name__} reads {signal.name!r}, and this vision tower has no [CLS] token: "
                "choose a method that reads 'received_attention', or features alone."
            )
        if signal.name == "cls_state" and stage.at != "encoder":
            raise UserError(
                f"'cls_state' is a state before the projector: put the stage at 'encoder', not {stage.at!r}."
            )
        if signal.name in vision_signals.TOWER_ATTENTION_SIGNALS and not family.tower_is_watchable:
            raise UserError(
                f"{type(stage.pruner).__name__} reads {signal.name!r}, and this vision tower runs all images as one "
                "sequence: choose a method that reads features alone."
            )
        if signal.name in vision_signals.TOWER_ATTENTION_SIGNALS:
            vision_signals.tower_layer(signal, family)
