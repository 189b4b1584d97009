"""CLIP's own view of patches and of a question, in the space that both share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from learnpruner.utils.errors import UserError
from learnpruner.utils.pretrained import NO_CODE, load_model
from learnpruner.utils.project import find_checkpoint


class SharedSpace:
    """Frozen, and no module: its weights are part of no pruner, and of no export.

    Args:
        clip: folder or hub id of the CLIP model whose vision tower the backbone has.
        tokenizer: of the backbone, by which the question's tokens become text again.
        suffix: the turn's end that is no part of the question.
    """

    def __init__(self, clip: str, tokenizer: str, suffix: str) -> None:
        try:
            self.model: Any = load_model(CLIPModel, clip).requires_grad_(False).eval()
            self.words: Any = AutoTokenizer.from_pretrained(clip, **NO_CODE)
            self.spoken: Any = AutoTokenizer.from_pretrained(str(find_checkpoint(tokenizer)), **NO_CODE)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"clip={clip!r} and tokenizer={tokenizer!r} must be folders or hub ids ({reason})."
            ) from None
        self.clip, self.suffix = clip, suffix
        self.model.vision_model.encoder = torch.nn.Identity()  # the backbone has run it
        self.length: int = self.model.config.text_config.max_position_embeddings

    def patches(self, states: Tensor) -> Tensor:
        """Embed patches of the tower, (B, N, D), as CLIP would compare them with text: (B, N, P).

        Raises:
            UserError: where the tower has another width.
        """
        width = self.model.config.vision_config.hidden_size
        if states.shape[-1] != width:
            raise UserError(
                f"clip={self.clip!r} is {width} wide, the backbone's tower {states.shape[-1]}: name the CLIP model that "
                "the tower comes from."
            )
        self.model.to(states.device)
        projected: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(states.float()))
        return projected

    def direction(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Average the unit embeddings of each question's segments, (B, P); ids, mask (B, T) of the backbone's tokens."""
        return torch.stack([self._embed(self.question(row[real])).mean(0) for row, real in zip(ids, mask, strict=True)])

    def question(self, ids: Tensor) -> str:
        """Decode the words between the image and the answer."""
        text: str = self.spoken.decode(ids, skip_special_tokens=True)
        return text.strip().removesuffix(self.suffix).strip()

    def _embed(self, text: str) -> Tensor:
        """Unit embeddings (S, P) of a text in segments that fit the tower, each with its own begin and end."""
        ids = self.words(text, add_special_tokens=False).input_ids
        room = self.length - 2
        parts = [ids[start : start + room] for start in range(0, max(1, len(ids)), room)]
        found = []
        for part in parts:
            row = torch.tensor([[self.words.bos_token_id, *part, self.words.eos_token_id]], device=self.model.device)
            found.append(self.model.get_text_features(row).pooler_output)
        return F.normalize(torch.cat(found).float(), dim=-1)
