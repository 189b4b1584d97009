"""What a call of the model was asked: where its images, its padding and its question are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.backbones.family import ModelFamily
from learnpruner.engine.cache import generate_setting
from learnpruner.engine.vision_stages import ImageTokens
from learnpruner.utils.errors import UserError


@dataclass
class Prompt:
    """One call with images.

    Args:
        placeholders: (B, L) image positions.
        attention: (B, L) real positions.
        query: (B, L) the text rows whose attention counts in later stages.
        inputs: the call's arguments.
        images: filled at the tap.
    """

    placeholders: Tensor
    attention: Tensor
    query: Tensor
    inputs: Mapping[str, Any]
    images: ImageTokens | None = None


def read_prompt(family: ModelFamily, inputs: Mapping[str, Any], query: Tensor | None) -> Prompt:
    """Read what a call asks.

    Args:
        family: of the model.
        inputs: the call's arguments.
        query: (B, L) bool, which rows count as the question; None for `question_rows`.

    Raises:
        UserError: where the arguments do not say where the images are.
    """
    family.check_inputs(inputs)
    ids = inputs.get("input_ids")
    if ids is None:
        raise UserError(
            "Pictures without input_ids are refused: a plan finds their places by the prompt's image tokens."
        )
    placeholders = family.placeholders(ids, inputs)
    given = inputs.get("attention_mask")
    if given is not None and given.shape != ids.shape:
        raise UserError(
            f"attention_mask {tuple(given.shape)} does not fit input_ids {tuple(ids.shape)}: with pictures a plan takes one "
            "flag a token, and makes the causal mask itself."
        )
    _refuse_packed(inputs)
    attention = torch.ones_like(placeholders) if given is None else given.to(ids.device).bool()
    if query is None:
        query = question_rows(placeholders, attention, inputs.get("labels"))
    elif query.shape != ids.shape:
        raise UserError(
            f"query_rows {tuple(query.shape)} do not fit input_ids {tuple(ids.shape)}: pass one flag a token."
        )
    return Prompt(placeholders, attention, query.to(ids.device).bool() & attention, inputs)


def generate_attention_mask(inputs: Mapping[str, Any], defaults: Any) -> Tensor | None:
    """Make the attention mask of a call of `generate`; where none is given the one that Hugging Face makes up.

    It takes pad tokens for padding, where these don't end answers too.

    Args:
        inputs: the call's arguments.
        defaults: the model's generation_config.
    """
    ids: Tensor | None = inputs.get("input_ids")
    mask: Tensor | None = inputs.get("attention_mask")
    pad, ends = (generate_setting(name, inputs, defaults) for name in ("pad_token_id", "eos_token_id"))
    if mask is not None or ids is None or pad is None:
        return mask
    if ends is not None and int(pad) in torch.as_tensor(ends).flatten().tolist():
        return None
    return ids.ne(int(pad)).long()


def _refuse_packed(inputs: Mapping[str, Any]) -> None:
    """Positions that begin anew in a row without a mask tell Hugging Face that the row holds several samples."""
    positions = inputs.get("position_ids")
    packed = any(inputs.get(name) is not None for name in ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx"))
    if positions is not None and inputs.get("attention_mask") is None and (positions.dim() == 2 or len(positions) == 4):
        text = positions if positions.dim() == 2 else positions[0]  # M-RoPE: of four axes the first counts the text
        packed = packed or bool((text.diff(dim=-1) != 1).any())
    if packed:
        raise UserError(
            "Several samples packed in one row are not supported, and position_ids that jump mean that: pass one sample a "
            "row, padded, with an attention_mask."
        )


def question_rows(placeholders: Tensor, attention: Tensor, labels: Tensor | None) -> Tensor:
    """Find the question: text rows after the last image that are not to be predicted; the last row if there are none.

    Args:
        placeholders: (B, L) bool, image positions.
        attention: (B, L) bool, real positions.
        labels: (B, L) as Hugging Face takes them, -100 where nothing is predicted.

    Returns:
        (B, L) bool.
    """
    after = placeholders.flip(1).cumsum(1).flip(1) == 0
    rows = after & attention
    if labels is not None:
        rows = rows & (labels.to(rows.device) == -100)
    order = attention.cumsum(1)
    last = attention & (order == order[:, -1:])
    return torch.where(rows.any(1, keepdim=True), rows, last)


class PromptSequence:
    """A prompt's facts over the rows of the language model, beside its embeddings x (B, L, D).

    Beams repeat rows `repeats` times, candidate tokens lengthen them by `extra`.

    Attributes:
        visual: (B, L) image tokens that may be dropped.
        text: (B, L) everything else that is there.
    """

    def __init__(self, prompt: Prompt, x: Tensor) -> None:
        assert prompt.images is not None
        self.images, self.layout = prompt.images, prompt.images.layout
        self.placeholders = prompt.placeholders.to(x.device)
        self.repeats = x.shape[0] // self.placeholders.shape[0]
        self.extra = x.shape[1] - self.placeholders.shape[1]
        self.attention = self._rows(prompt.attention.to(x.device), True)
        self.query = self._rows(prompt.query.to(x.device), False)
        self.visual = self.of_images(torch.ones(self.images.shape, device=x.device), structural=0.0, text=0.0) > 0
        self.text = self.attention & ~self.visual

    def of_images(self, values: Tensor, structural: float = 1.0, text: float = 1.0) -> Tensor:
        """Spread a value a candidate, (I, N), over positions, (B, L); differentiable.

        Args:
            values: of the visual tokens.
            structural: of placeholders that show none.
            text: of all other positions.
        """
        flat = self.layout.place(values, structural).to(self.placeholders.device)
        base = torch.full(self.placeholders.shape, text, dtype=flat.dtype, device=flat.device)
        return self._rows(base.masked_scatter(self.placeholders, flat), text)

    def totals(self, values: Iterable[Sequence[int]], visuals: Sequence[int]) -> list[list[int]]:
        """Add up numbers of images over the images of each row, on the host: images lie in the order of the rows.

        Args:
            values: lists of one number an image.
            visuals: visual tokens of each row, by which its images are told.

        Returns:
            For each list, one sum a row.
        """
        images, rows = iter(range(len(self.images.sizes))), []
        for left in visuals[:: self.repeats]:
            shown = []
            while left > 0:
                shown.append(next(images))
                left -= self.images.sizes[shown[-1]]
            rows += [shown] * self.repeats
        return [[sum(one[image] for image in row) for row in rows] for one in values]

    def of_call(self, x: Tensor) -> Tensor:
        """Bring (B, L) back to the rows and the length of the call."""
        return x[:: self.repeats, : self.placeholders.shape[1]]

    def _rows(self, x: Tensor, beyond: float | bool) -> Tensor:
        if self.extra:
            x = F.pad(x, (0, self.extra), value=beyond)
        return x.repeat_interleave(self.repeats, 0) if self.repeats > 1 else x
