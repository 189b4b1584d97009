"""From the share of visual tokens to keep to whole tokens a stage, and back to the average that was realised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from learnpruner.utils.errors import UserError

StageShare = (
    float | Mapping[float, float]
)  # a stage's tokens relative to the other stages'; or such a number by prune_ratio


class InfeasibleBudget(UserError):
    """A budget that a plan's stages cannot have.

    Args:
        smallest: the smallest prune_ratio that they can.
    """

    def __init__(self, message: str, smallest: float) -> None:
        super().__init__(message)
        self.smallest = smallest


def check_ratio(value: object) -> float:
    """Check a share of visual tokens KEPT, on the average of the LLM's layers.

    Args:
        value: the share; higher keeps more tokens.

    Returns:
        The same as a float.

    Raises:
        UserError: where it is no number in (0, 1].
    """
    rule = "the share of visual tokens kept must be a number above 0 and at most 1, for example 0.055 to keep 5.5 %"
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise UserError(f"prune_ratio={value!r} is refused: {rule}.")
    return float(value)


def read_share(share: object) -> StageShare:
    """Read a stage's share as a config or an exported plan states it.

    Args:
        share: a number relative to the other stages', or such numbers by prune_ratio; JSON has strings for keys.

    Raises:
        UserError: where it is neither.
    """
    try:
        if isinstance(share, Mapping) and share:
            return {check_ratio(float(ratio)): float(part) for ratio, part in share.items()}
        return float(share)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"token_share={share!r} is refused: it is a number relative to the other stages' shares, or one for each of some "
            "prune_ratios, such as {0.333: 300, 0.111: 66}."
        ) from error


def share_at(share: StageShare, prune_ratio: float) -> float:
    """Find a stage's share at a budget: of several, that of the nearest prune_ratio, the lower of two as near."""
    if not isinstance(share, Mapping):
        return share
    return share[min(share, key=lambda known: (abs(known - prune_ratio), known))]


def mean_tokens_per_layer(counts: Sequence[float], cuts: Sequence[int], n: int, layers: int) -> float:
    """Average the visual tokens of an image over all layers.

    Args:
        counts: tokens behind each cut.
        cuts: the first layer of each of them, ascending.
        n: tokens before the first cut.
        layers: L of the LLM.
    """
    spans = _spans(cuts, layers)
    before = cuts[0] if cuts else layers
    return (n * before + sum(c * s for c, s in zip(counts, spans, strict=True))) / layers


def budgets(
    prune_ratio: float, n: int, layers: int, stages: Sequence[tuple[int, StageShare]], least: bool = False
) -> tuple[int, ...]:
    """Solve for the tokens of each stage, such that the layers' average is T = round(prune_ratio x n) to half a token.

    With two stages at 0 and K, and shares 3 : 1, this is R1 = round(3 T L / (2 K + L)), R2 = round(T L / (2 K + L)).
    A stage is clamped at n, and the others then rise instead.

    Args:
        prune_ratio: share of the tokens KEPT, in (0, 1]; higher keeps more.
        n: N, visual tokens of the image.
        layers: L of the LLM.
        stages: for each its cut, the first layer that runs on its tokens, and its share; ascending cuts, shares that never
            grow.
        least: an image too small for the ratio, where a stage would keep no token, gets the smallest budget that it can
            have; otherwise that is refused.

    Returns:
        Tokens that each stage keeps, from 1 to n.

    Raises:
        InfeasibleBudget: where a stage would keep no token.
        UserError: where a cut, a share or their order is out of range.
    """
    ratio = check_ratio(prune_ratio)
    _check_stages(stages, layers)
    if ratio == 1:
        return (n,) * len(stages)
    counts = _solve(round(ratio * n), n, layers, stages)
    if not all(counts):
        total = next(t for t in range(round(ratio * n) + 1, n + 1) if all(_solve(t, n, layers, stages)))
        if least:
            return _solve(total, n, layers, stages)
        smallest = _ceil(total / n)
        raise InfeasibleBudget(
            f"prune_ratio={ratio:g} is infeasible: {ratio * n:.2g} of {n} visual tokens on the average of {layers} layers are "
            f"too few to leave each stage one token ({_names(_at(stages, ratio))}); "
            f"the smallest feasible prune_ratio here is {smallest}.",
            smallest,
        )
    return counts


def _solve(total: int, n: int, layers: int, schedule: Sequence[tuple[int, StageShare]]) -> tuple[int, ...]:
    """Fill stages in proportion to their shares; those that would exceed n are clamped, the rest is solved again."""
    stages = _at(schedule, total / n)
    cuts = [cut for cut, _ in stages]
    weights = [share * span for (_, share), span in zip(stages, _spans(cuts, layers), strict=True)]
    spans, clamped = _spans(cuts, layers), [False] * len(stages)
    while True:
        rest = (
            total * layers - n * (cuts[0] if cuts else 0) - sum(n * s for s, c in zip(spans, clamped, strict=True) if c)
        )
        free = sum(w for w, c in zip(weights, clamped, strict=True) if not c)
        unit = max(0.0, rest / free) if free else math.inf
        over = [c or share * unit > n for (_, share), c in zip(stages, clamped, strict=True)]
        if over == clamped:
            return tuple(n if c else round(share * unit) for (_, share), c in zip(stages, clamped, strict=True))
        clamped = over


def _at(stages: Sequence[tuple[int, StageShare]], prune_ratio: float) -> list[tuple[int, float]]:
    """The stages with their shares at a budget."""
    return [(cut, share_at(share, prune_ratio)) for cut, share in stages]


def _spans(cuts: Sequence[int], layers: int) -> list[int]:
    """Layers that run on the tokens of each stage."""
    ends = [*cuts[1:], layers] if cuts else []
    return [end - start for start, end in zip(cuts, ends, strict=True)]


def _check_stages(schedule: Sequence[tuple[int, StageShare]], layers: int) -> None:
    known = {ratio for _, share in schedule if isinstance(share, Mapping) for ratio in share} or {1.0}
    for ratio in sorted(known):
        _check(_at(schedule, ratio), layers)


def _check(stages: Sequence[tuple[int, float]], layers: int) -> None:
    for cut, share in stages:
        if not 0 <= cut < layers:
            raise UserError(f"A stage at layer {cut} is refused: this LLM has layers 0 to {layers - 1}.")
        if not share > 0:
            raise UserError(
                f"token_share={share!r} is refused: a stage's share is relative to the others' and above 0."
            )
    cuts, shares = [cut for cut, _ in stages], [share for _, share in stages]
    if cuts != sorted(cuts) or shares != sorted(shares, reverse=True):
        raise UserError(f"Stages at {_names(stages)} are refused: list them by depth, with shares that never grow.")


def _names(stages: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"layer {cut} (share {share:g})" for cut, share in stages)


def _ceil(value: float) -> float:
    """Rounded up to four places, so that the printed ratio is itself feasible."""
    return math.ceil(value * 1e4) / 1e4
