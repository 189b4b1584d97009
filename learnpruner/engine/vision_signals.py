"""What stages before the language model read of the vision tower, computed while it runs and only where declared.

S is the tower's sequence: N patches, behind [CLS] where the tower has one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.signals import Signal
from learnpruner.engine.attention_scores import ROWS_AT_ONCE, cls_attention_rows
from learnpruner.engine.signal_clock import computes_signals
from learnpruner.utils.errors import UserError

CLS_SIGNALS = frozenset({"cls_attention", "cls_attention_joined", "cls_state"})
TOWER_ATTENTION_SIGNALS = frozenset(
    {"cls_attention", "cls_attention_joined", "received_attention", "vision_keys"}
)  # in a layer
TOWER_OUTPUT_SIGNALS = frozenset({"cls_state", "vision_states"})  # of the tower as a whole
TOWER_SIGNALS = TOWER_ATTENTION_SIGNALS | TOWER_OUTPUT_SIGNALS | {"image_key"}


def tower_layer(signal: Signal, family: ModelFamily) -> int:
    """Find the tower layer that a signal is read from, from 0; by default the layer whose output the projector reads.

    Raises:
        UserError: where the tower has no such layer.
    """
    count, layer = len(family.tower_layers), signal.layer
    if layer is None:
        return family.feature_layer
    if isinstance(layer, str):
        number, _, of = layer.partition("/")
        if not (number.isdigit() and of.isdigit() and int(of)):
            raise UserError(f"{signal} is refused: a layer is a number, or a fraction of depth such as '9/24'.")
        layer = max(1, round(int(number) * count / int(of))) - 1
    if not -count <= layer < count:
        raise UserError(f"{signal} is refused: this vision tower has layers 0 to {count - 1}, or -1 for the last.")
    return layer % count


def signals_by_layer(signals: Iterable[Signal], family: ModelFamily) -> dict[int, list[Signal]]:
    """Tell which signals each watched tower layer gives."""
    found: dict[int, list[Signal]] = {}
    for signal in signals:
        if signal.name in TOWER_ATTENTION_SIGNALS:
            found.setdefault(tower_layer(signal, family), []).append(signal)
    return found


@computes_signals
def read_tower_signal(name: str, query: Tensor, key: Tensor, scaling: float, has_cls: bool) -> Tensor:
    """Compute a signal from a layer's queries and keys.

    Args:
        name: of the signal.
        query: (I, H, S, d).
        key: (I, H, S, d).
        scaling: of the attention's logits.
        has_cls: whether the sequence begins with [CLS].

    Returns:
        What `SIGNALS` says of it, of N patches.
    """
    first = int(has_cls)
    if name == "cls_attention":
        return cls_attention_rows(query, key, scaling)
    if name == "cls_attention_joined":
        return joined_cls_row(query, key)
    if name == "received_attention":
        return received_attention(query, key, scaling)[:, first:]
    return key[:, :, first:]


def joined_cls_row(query: Tensor, key: Tensor) -> Tensor:
    """Compute the [CLS] row over the patches as if all heads were one of width C: softmax(q K^T / sqrt(C)), (I, N)."""
    logits = (query[:, :, :1].float() @ key.float().transpose(-1, -2)).sum(1)[:, 0]
    scaling: float = (query.shape[1] * query.shape[3]) ** -0.5
    return (logits * scaling).softmax(-1)[:, 1:]


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Average the attention that each of the sequence's tokens receives over heads and all S queries: (I, S).

    One head after the other, some rows at a time: what is computed is read again while the processor still holds it.
    """
    total = key.new_zeros(key.shape[0], key.shape[2], dtype=torch.float32)
    for asking, asked in zip(query.unbind(1), key.unbind(1), strict=True):
        columns = asked.float().contiguous().transpose(1, 2)
        for rows in torch.split(asking.float() * scaling, 2 * ROWS_AT_ONCE, 1):
            total += (rows @ columns).softmax(-1).sum(1)
    return total / (query.shape[1] * query.shape[2])
