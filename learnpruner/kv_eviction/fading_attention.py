"""Training mode: nothing is evicted; attention to each token fades by its gate, so that the gates receive gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from learnpruner.backbones.family import ModelFamily
from learnpruner.engine.attention_hook import HOOK_KEYWORD, install_hook, is_hooked, remove_hook
from learnpruner.engine.driver import AttentionHook
from learnpruner.kv_eviction.policies.trimkv import TrimKV, log_decay_matrix, retention_attention
from learnpruner.utils.errors import UserError


@contextmanager
def fading_attention(family: ModelFamily, policy: TrimKV) -> Iterator[list[Tensor]]:
    """Inside the block the language model reads with fading attention; yields log decay (B, G, q, L) by layer.

    A call with an empty cache is a prompt: it is read as ever, as at inference, where eviction begins after it, and what
    follows on that cache sees it fade. Without a cache everything fades. Padding may lie on the right only.
    """
    layers, prompt, log_decays, handles = family.language_model.layers, {}, [], []
    if any(is_hooked(layer.self_attn) for layer in layers):
        raise UserError("This model carries a plan whose stages read attention: train gates on the model without it.")

    def fade(index: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = args[0] if args else kwargs["hidden_states"], kwargs.get("past_key_values")
        if cache is not None and not cache.get_seq_length(index):
            prompt[index] = hidden
            return None
        read = hidden if cache is None else torch.cat([prompt[index], hidden], 1)
        faded = log_decay_matrix(policy.mark(index, read), hidden.shape[1])
        log_decays.append(faded)

        def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            return retention_attention(query, key, value, faded, scaling, policy.form)[0]

        return args, {**kwargs, HOOK_KEYWORD: AttentionHook(attend=attend)}

    try:
        for index, layer in enumerate(layers):
            hook = functools.partial(fade, index)
            handles.append(layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True))
            install_hook(layer.self_attn)
        yield log_decays
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            if is_hooked(layer.self_attn):
                remove_hook(layer.self_attn)
