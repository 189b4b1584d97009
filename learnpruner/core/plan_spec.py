"""Which pruner acts where, with how many tokens.

Letters: N visual tokens of an image, L layers of the LLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, Self

import torch
from torch import nn

from learnpruner.core.budget import StageShare, budgets, check_ratio, mean_tokens_per_layer, read_share
from learnpruner.core.pruner import Pruner
from learnpruner.utils.context import ContextLocal
from learnpruner.utils.errors import UserError

Mode = Literal["physical", "masked"]
Positions = Literal["original", "compact"]


ATTACHMENTS = "_attachments"  # how many models carry a plan, and so its stages


def _refuse_attached(part: nn.Module, name: str, settled: Sequence[str]) -> None:
    """What the engine has read when it was attached can't change without it."""
    if name in settled and part.__dict__.get(ATTACHMENTS):
        raise UserError(
            f"{name} of a {type(part).__name__} can't change while the plan is on a model: detach it first."
        )


class Stage(nn.Module):
    """One pruner at one place.

    While its plan is on a model, none of them can be set.

    Args:
        at: "encoder" (features before the projector), 0 (projected tokens, at the LLM's input), K (the first LLM layer
            that runs on the shorter sequence; scores come from layer K-1), or "12/32" (the same as a fraction of
            depth).
        token_share: tokens relative to the plan's other stages; or by prune_ratio, of which the nearest to the plan's
            counts. Higher keeps more here, and fewer in the others.
    """

    def __init__(self, pruner: Pruner, at: int | str, token_share: StageShare = 1.0) -> None:
        super().__init__()
        self.pruner, self.at = pruner, at
        self.token_share = read_share(token_share)
        self.cut(layers=1_000)  # a place that can't be read is refused here, not at the first forward

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse_attached(self, name, ("pruner", "at", "token_share"))
        super().__setattr__(name, value)

    def cut(self, layers: int) -> int:
        """Tell the first LLM layer that runs on this stage's tokens.

        Args:
            layers: L of the LLM.

        Raises:
            UserError: where `at` names no place.
        """
        if self.at == "encoder":
            return 0
        numerator, slash, denominator = str(self.at).partition("/")
        try:
            if not slash:
                return int(numerator)
            return max(1, round(int(numerator) * layers / int(denominator)))
        except (ValueError, ZeroDivisionError):
            raise UserError(
                f"at={self.at!r} is refused: a stage acts at 'encoder', 0, a layer K, or a fraction of depth such as '12/32'."
            ) from None


class Widths(Protocol):
    """What a plan has to know of a backbone: every `ModelFamily` tells it."""

    @property
    def feature_width(self) -> int: ...

    @property
    def text_width(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def layers(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


class PlanSpec(nn.Module):
    """The stages of one configuration and their budget: what the engine carries out, and what `learnpruner.Plan` adds a user's calls to.

    Args:
        stages: in order of depth, each a Stage or a mapping with pruner, at, token_share.
        prune_ratio: share of visual tokens KEPT, averaged over the LLM's layers; higher is slower and more accurate. It
            may be set at any time, also while the plan is on a model; `budget` sets it for one thread and block.
        positions: "original" keeps each token's RoPE position, "compact" renumbers what is left.
        adaptation: weights of the model itself that are exchanged or added while the plan is on it, None for none.

    Attributes:
        image_aspect: how training showed it pictures, "processor" or "pad" (squares); evaluation does the same.
    """

    _budget_here = ContextLocal[float]()

    def __init__(
        self,
        stages: Sequence[Stage | Mapping[str, Any]] | None = None,
        prune_ratio: float = 1.0,
        positions: Positions = "original",
        adaptation: Any = None,
    ) -> None:
        super().__init__()
        made = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages or ()]
        self.stages: Sequence[Stage] = nn.ModuleList(made)  # type: ignore[assignment]
        self.backbone: dict[str, int] = {}
        self.prune_ratio = prune_ratio
        if positions not in ("original", "compact"):
            raise UserError(f"positions={positions!r} is refused: choose 'original' or 'compact'.")
        self.positions: Positions = positions
        self.adaptation = adaptation
        self.image_aspect = "processor"

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse_attached(self, name, ("stages", "positions", "adaptation"))
        super().__setattr__(name, value)

    @property
    def prune_ratio(self) -> float:
        """The share of visual tokens kept, in this thread and block."""
        here = self._budget_here
        return self._prune_ratio if here is None else here

    @prune_ratio.setter
    def prune_ratio(self, value: float) -> None:
        self._prune_ratio = self._checked(value)

    @contextmanager
    def budget(self, prune_ratio: float) -> Iterator[None]:
        """Set another prune_ratio inside the block, for this thread or task alone: several may share one model.

        Args:
            prune_ratio: share of visual tokens KEPT, in (0, 1].

        Raises:
            UserError: where the stages cannot have it.
        """
        outer, self._budget_here = self._budget_here, self._checked(prune_ratio)
        try:
            yield
        finally:
            self._budget_here = outer

    def _checked(self, value: float) -> float:
        """A prune_ratio that the stages can have, on the backbone that the plan has met."""
        ratio = check_ratio(value)
        if self.backbone:
            layers = self.backbone["layers"]
            budgets(ratio, self.backbone["tokens"], layers, [(s.cut(layers), s.token_share) for s in self.stages])
        return ratio

    def cuts(self, layers: int) -> tuple[int, ...]:
        """Tell for each stage the first LLM layer that runs on its tokens, of an LLM of so many layers."""
        return tuple(stage.cut(layers) for stage in self.stages)

    def counts(self, n: int, layers: int, least: bool = False) -> tuple[int, ...]:
        """Tell how many tokens each stage keeps of an image.

        Args:
            n: N, visual tokens of the image.
            layers: L of the LLM.
            least: an image too small for the budget gets the least that it can have, in place of a refusal.
        """
        return budgets(self.prune_ratio, n, layers, [(s.cut(layers), s.token_share) for s in self.stages], least)

    def tokens(self, n: int, layers: int) -> dict[str, float]:
        """Tell what the budget comes to for an image.

        Args:
            n: N, visual tokens of the image.
            layers: L of the LLM.

        Returns:
            Tokens `entering` the LLM, `averaged` over its layers, and left at the end, `final`.
        """
        counts, cuts = self.counts(n, layers), self.cuts(layers)
        before = [count for count, cut in zip(counts, cuts, strict=True) if cut == 0]
        return {
            "entering": before[-1] if before else n,
            "averaged": mean_tokens_per_layer(counts, cuts, n, layers),
            "final": counts[-1] if counts else n,
        }

    def prepare(self, family: Widths) -> Self:
        """Meet a backbone: build or check what depends on its widths, and refuse a budget that it can't have."""
        for stage in self.stages:
            stage.pruner.prepare(family.feature_width if stage.at == "encoder" else family.text_width)
            if family.device.type != "meta":  # weights that are offloaded until they run
                stage.pruner.to(family.device)
        if self.adaptation is not None:
            self.adaptation.prepare(family)
        self.counts(family.tokens, family.layers)
        self.backbone = {"tokens": family.tokens, "layers": family.layers, "feature_width": family.feature_width}
        return self

    def hold(self, more: int) -> None:
        """Count the models that carry this plan: +1 when the engine takes it, -1 when it lets it go."""
        for part in (self, *self.stages):
            part.__dict__[ATTACHMENTS] = part.__dict__.get(ATTACHMENTS, 0) + more
