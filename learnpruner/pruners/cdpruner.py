"""CDPruner: a diverse set of tokens that bear on the question, as a determinantal point process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, from_order
from learnpruner.core.signals import TEXT_IDS, TEXT_MASK, VISION_STATES, View
from learnpruner.pruners._clip import SharedSpace
from learnpruner.utils.errors import UserError

_SPENT = 1e-6  # of the largest variance: what is left of a token that others explain, in fp32


class CDPruner(Pruner):
    """Greedy search for the set of largest determinant of the kernel r_i cos(x_i, x_j) r_j; r is relevance.

    Paper: https://arxiv.org/abs/2506.10967. Relevance compares patches with the question in CLIP's space, and needs
    CLIP's text tower, which no backbone holds: without `clip` r is 1, and diversity decides alone. The embedded backbone
    has no text tower at all. Differences from the authors' code: relevance is scaled in each image; the question is read
    from the prompt; a segment of a long question has its own begin and end; where the kernel's rank is used up, at which
    theirs divides by zero, the search begins anew on the tokens left.

    Args:
        clip: folder or hub id of the CLIP model whose vision tower the backbone has, such as
            openai/clip-vit-large-patch14-336.
        tokenizer: folder or hub id of the backbone, to read the question by.
        suffix: of the prompt, no part of the question.
        batchwise: scale relevance over the batch, as the authors do.
    """

    def __init__(
        self, clip: str | None = None, tokenizer: str | None = None, suffix: str = "ASSISTANT:", batchwise: bool = False
    ) -> None:
        super().__init__()
        if clip is not None and tokenizer is None:
            raise UserError(
                f"clip={clip!r} needs tokenizer=, the backbone's folder or hub id, to read the question by."
            )
        self.clip, self.tokenizer, self.suffix, self.batchwise = clip, tokenizer, suffix, batchwise
        self.fallback = "" if clip else "without CLIP's text tower relevance is 1: diversity alone"
        self.needs = frozenset() if clip is None else frozenset({VISION_STATES, TEXT_IDS, TEXT_MASK})
        self._space: SharedSpace | None = None

    def prepare(self, width: int) -> None:
        if self.clip is not None and self.tokenizer is not None and self._space is None:
            self._space = SharedSpace(self.clip, self.tokenizer, self.suffix)

    def forward(self, view: View, keep: Tensor) -> Selection:
        similarity = dpp_kernel(view.tokens, self.relevance(view))
        return from_order(
            greedy_map_inference(similarity, int(keep.max()), view.valid), keep, view.tokens.shape[1], view.valid
        )

    @torch.no_grad()
    def relevance(self, view: View) -> Tensor:
        """Compute how much each token is asked for: (B, N), from 0 to 1."""
        if self._space is None:
            return torch.ones_like(view.tokens[..., 0], dtype=torch.float32)
        patches = self._space.patches(view[VISION_STATES])
        return clip_relevance(
            patches, self._space.direction(view[TEXT_IDS], view[TEXT_MASK]), self.batchwise, view.valid
        )


def clip_relevance(patches: Tensor, direction: Tensor, batchwise: bool = False, valid: Tensor | None = None) -> Tensor:
    """Compute how unlike the question a patch's embedding is: in CLIP's space, what is meant is far from it.

    Args:
        patches: (B, N, P) their embeddings.
        direction: (B or 1, P), the mean of the unit embeddings of the question's segments.
        batchwise: the least and the most are those of the batch, not of the image.
        valid: (B, N) real tokens; None for all.

    Returns:
        (B, N), from 0 to 1.
    """
    distance = -(F.normalize(patches.float(), dim=-1) @ direction.float()[..., None])[..., 0]
    return rescale_relevance(distance, batchwise, valid)


def rescale_relevance(values: Tensor, batchwise: bool, valid: Tensor | None = None) -> Tensor:
    """Scale values (B, N) to [0, 1], plus a trace that keeps the least above 0; 1 where all are alike.

    Args:
        values: of the tokens.
        batchwise: the least and the most are those of the batch, not of the image.
        valid: (B, N) real tokens; None for all.
    """
    low = values if valid is None else values.masked_fill(~valid, torch.inf)
    high = values if valid is None else values.masked_fill(~valid, -torch.inf)
    least, most = (low.amin(), high.amax()) if batchwise else (low.amin(1, keepdim=True), high.amax(1, keepdim=True))
    return torch.where(most > least, (values - least + 1e-6) / (most - least), torch.ones_like(values))


def dpp_kernel(tokens: Tensor, relevance: Tensor) -> Tensor:
    """Compute r_i cos(x_i, x_j) r_j: (B, N, N) fp32; a token is as like itself as can be, however the product is rounded."""
    unit = F.normalize(tokens.float(), dim=-1)
    alike = unit @ unit.transpose(1, 2)
    alike.diagonal(dim1=1, dim2=2).copy_(tokens.any(-1))
    return relevance[:, :, None] * alike * relevance[:, None]


def greedy_map_inference(kernel: Tensor, keep: int, valid: Tensor | None = None) -> Tensor:
    """Choose `keep` tokens one after the other.

    Each time the token of which those chosen explain least: the largest diagonal entry of what a Cholesky factorisation
    leaves. Where nothing is left to explain, at the rank of the kernel, the search begins anew on the tokens left.

    Args:
        kernel: (B, N, N), symmetric.
        keep: K.
        valid: (B, N) real tokens; None for all.

    Returns:
        (B, K), in the order in which they are chosen.
    """
    rows, n = kernel.shape[:2]
    row = torch.arange(rows, device=kernel.device)
    taken = torch.zeros(rows, n, dtype=torch.bool, device=kernel.device) if valid is None else ~valid
    whole = kernel.diagonal(dim1=1, dim2=2)
    spent = _SPENT * whole.masked_fill(taken, 0.0).amax(1, keepdim=True)
    left, start = whole, torch.zeros(rows, 1, dtype=torch.long, device=kernel.device)
    explained = kernel.new_zeros(rows, keep, n)  # rows of the factor, by step
    order = torch.zeros(rows, keep, dtype=torch.long, device=kernel.device)
    for step in range(keep):
        done = left.masked_fill(taken, -torch.inf).amax(1, keepdim=True) <= spent
        left, start = torch.where(done, whole, left), torch.where(done, step, start)
        chosen = order[:, step] = left.masked_fill(taken, -torch.inf).argmax(1)  # the first of equals
        since = torch.arange(step, device=kernel.device) >= start
        known = (explained[row, :step, chosen] * since)[:, None] @ explained[:, :step]  # (B, 1, N)
        scale = left[row, chosen].maximum(spent[:, 0]).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        explained[:, step] = (kernel[row, chosen] - known[:, 0]) / scale[:, None]
        left = left - explained[:, step].square()
        taken = taken.scatter(1, chosen[:, None], True)
    return order
