"""Which pruner acts where, with how many tokens: the whole configuration of a pruned model, saved and loaded as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from learnpruner import adapt, export
from learnpruner.budget import Share, averaged, budgets, check_ratio, read_share, share_at
from learnpruner.context import ContextLocal
from learnpruner.errors import UserError
from learnpruner.finite import check_finite
from learnpruner.pruner import Pruner

if TYPE_CHECKING:
    from learnpruner.engine.adapter import Adapter
    from learnpruner.engine.attach import Engine

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

    at: "encoder" (features before the projector), 0 (projected tokens, at the LLM's input), K (the first LLM layer
        that runs on the shorter sequence; scores come from layer K-1), or "12/32" (the same as a fraction of depth).
    share: tokens relative to the plan's other stages; or by prune_ratio, of which the nearest to the plan's counts.

    While its plan is on a model, none of them can be set.
    """

    def __init__(self, pruner: Pruner, at: int | str, share: Share = 1.0) -> None:
        super().__init__()
        self.pruner, self.at = pruner, at
        self.share = read_share(share)
        self.cut(layers=1_000)  # a place that can't be read is refused here, not at the first forward

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse_attached(self, name, ("pruner", "at", "share"))
        super().__setattr__(name, value)

    def cut(self, layers: int) -> int:
        """The first LLM layer that runs on this stage's tokens."""
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


class Plan(nn.Module):
    """The stages of one configuration; none at all is the unpruned teacher.

    stages: in order of depth, each a Stage or a mapping with pruner, at, share.
    prune_ratio: share of visual tokens KEPT, averaged over the LLM's layers; higher is slower and more accurate. It may
        be set at any time, also while the plan is on a model; `budget` sets it for one thread and block.
    positions: "original" keeps each token's RoPE position, "compact" renumbers what is left.
    adaptation: weights of the model itself that are exchanged or added while the plan is on it, None for none.
    image_aspect, an attribute: how training showed it pictures, "processor" or "pad" (squares); evaluation does the same.
    """

    _budget_here = ContextLocal[float]()

    def __init__(
        self,
        stages: Sequence[Stage | Mapping[str, Any]] | None = None,
        prune_ratio: float = 1.0,
        positions: Positions = "original",
        adaptation: adapt.Adaptation | None = None,
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
        """Another prune_ratio inside the block, in this thread or task alone: several may use one model side by side."""
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
            budgets(ratio, self.backbone["tokens"], layers, [(s.cut(layers), s.share) for s in self.stages])
        return ratio

    def cuts(self, layers: int) -> tuple[int, ...]:
        """For each stage, the first LLM layer that runs on its tokens."""
        return tuple(stage.cut(layers) for stage in self.stages)

    def counts(self, n: int, layers: int, least: bool = False) -> tuple[int, ...]:
        """Tokens that each stage keeps of an image of n; least: of an image too small for the budget the least it can."""
        return budgets(self.prune_ratio, n, layers, [(s.cut(layers), s.share) for s in self.stages], least)

    def tokens(self, n: int, layers: int) -> dict[str, float]:
        """What the budget comes to: tokens entering the LLM, averaged over its layers, and left at the end."""
        counts, cuts = self.counts(n, layers), self.cuts(layers)
        before = [count for count, cut in zip(counts, cuts, strict=True) if cut == 0]
        return {
            "entering": before[-1] if before else n,
            "averaged": averaged(counts, cuts, n, layers),
            "final": counts[-1] if counts else n,
        }

    @property
    def tag(self) -> str:
        """The budget and what is adapted, short enough for a folder's name."""
        return f"r{self.prune_ratio:g}" + (f"-{self.adaptation.kind}" if self.adaptation else "")

    @property
    def adapts(self) -> str | None:
        """What tables say of its adaptation: "adapts the LLM: LoRA r 8"."""
        return self.adaptation.describe() if self.adaptation else None

    def describe(self, n: int, layers: int) -> str:
        """One line for the user: "keeping 31.9 of 576 visual tokens on average: 55 after the encoder, ..."."""
        also = f"; {self.adapts}" if self.adapts else ""
        also += "; pictures padded to squares" if self.image_aspect == "pad" else ""
        if not self.stages:
            return f"keeping all {n} visual tokens{also}"
        places = [
            f"{count} {'after the encoder' if s.at == 'encoder' else f'from layer {cut}'}"
            for s, count, cut in zip(self.stages, self.counts(n, layers), self.cuts(layers), strict=True)
        ]
        return f"keeping {self.tokens(n, layers)['averaged']:.1f} of {n} visual tokens on average: {', '.join(places)}{also}"

    def prepare(self, adapter: Adapter) -> Plan:
        """Meet a backbone: build or check what depends on its widths, and refuse a budget that it can't have."""
        for stage in self.stages:
            stage.pruner.prepare(adapter.feature_width if stage.at == "encoder" else adapter.text_width)
            if adapter.device.type != "meta":  # weights that are offloaded until they run
                stage.pruner.to(adapter.device)
        if self.adaptation is not None:
            self.adaptation.prepare(adapter)
        self.counts(adapter.tokens, adapter.layers)
        self.backbone = {"tokens": adapter.tokens, "layers": adapter.layers, "feature_width": adapter.feature_width}
        return self

    def hold(self, more: int) -> None:
        """Count the models that carry this plan: +1 when the engine takes it, -1 when it lets it go."""
        for part in (self, *self.stages):
            part.__dict__[ATTACHMENTS] = part.__dict__.get(ATTACHMENTS, 0) + more

    def attach(self, model: nn.Module, mode: Mode = "physical", pool: int | None = None) -> Engine:
        """Prune this model until `detach`. See `on`."""
        from learnpruner.backbones import adapter  # the facade's one look upwards, at the time of the call
        from learnpruner.engine.attach import attach

        return attach(self, adapter(model), mode, pool)

    def detach(self, model: nn.Module) -> None:
        """Undo `attach`; the model is as it was."""
        from learnpruner.backbones import adapter
        from learnpruner.engine.attach import detach

        detach(adapter(model))

    @contextmanager
    def on(self, model: nn.Module, mode: Mode = "physical", pool: int | None = None) -> Iterator[Engine]:
        """Prune `model(...)` and `model.generate(...)` inside the block; undone on exit.

        mode: "physical" drops tokens from the sequence and the KV cache; "masked", for training, keeps them in the
            sequence but out of attention, so that dropped tokens still receive gradient.
        pool: masked mode keeps only this many randomly drawn dropped tokens an image; fewer is faster, and gives a
            random subset of the dropped tokens gradient. None keeps all. Values are the same.
        """
        engine = self.attach(model, mode, pool)
        try:
            yield engine
        finally:
            self.detach(model)

    def save(
        self,
        folder: str | Path,
        backbone: str | None = None,
        revision: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        notes: str = "",
    ) -> Path:
        """Export: config.json, model.safetensors, a model card, and adapter/ where it has one. notes go into the card."""
        stages = [{"pruner": export.describe_pruner(s.pruner), "at": s.at, "share": s.share} for s in self.stages]
        config = {
            "format": 1,
            "prune_ratio": self.prune_ratio,
            "positions": self.positions,
            "image_aspect": self.image_aspect,
            "stages": stages,
            "budgets": self._budgets(),
            "backbone": {"name": backbone, "revision": revision, **self.backbone},
            "versions": export.versions(),
            "metrics": dict(metrics or {}),
        }
        check_finite(self.state_dict(), f"the plan is not exported to {folder}")
        if self.adaptation is not None:
            config["adapter"] = adapt.spec(self.adaptation)
            self.adaptation.save(Path(folder) / adapt.FOLDER, backbone)
        pruners = {name: w for name, w in self.state_dict().items() if name.startswith("stages.")}
        return export.write(folder, config, pruners, self._card(config, notes))

    def _budgets(self) -> dict[str, Any]:
        if not self.backbone:
            return {}
        n, layers = self.backbone["tokens"], self.backbone["layers"]
        return {"counts": self.counts(n, layers), "cuts": self.cuts(layers), **self.tokens(n, layers)}

    def _card(self, config: Mapping[str, Any], notes: str) -> str:
        n, layers = self.backbone.get("tokens", 576), self.backbone.get("layers", 32)
        rows = "\n".join(f"| {key} | {value} |" for key, value in config["metrics"].items())
        return CARD.format(
            title=self.describe(n, layers),
            stages="\n".join(
                f"- {s['pruner']['_target_']} at {s['at']}, share {share_at(s['share'], self.prune_ratio):g}"
                for s in config["stages"]
            ),
            backbone=config["backbone"]["name"] or "not recorded",
            revision=config["backbone"]["revision"] or "not recorded",
            positions=self.positions,
            touched=f"which the plan {self.adapts} while it is on" if self.adapts else "unmodified",
            metrics=f"| metric | value |\n|---|---|\n{rows}" if rows else "No metrics were recorded.",
            versions=", ".join(f"{name} {found}" for name, found in config["versions"].items()),
            notes=f"\n{notes.strip()}\n" if notes else "",
        )


CARD = """---
library_name: learnpruner
license: apache-2.0
---
# Visual-token pruning plan: {title}

Stages:
{stages}

Backbone: {backbone} (revision {revision}), {touched}. Positions of kept tokens: {positions}.

{metrics}
{notes}
```python
import learnpruner

plan = learnpruner.load("PATH OR HUB ID OF THIS FOLDER")
with plan.on(model):  # the Hugging Face model above
    out = model.generate(**inputs, max_new_tokens=32)
```

Made with {versions}.
"""


def load(source: str | Path, prune_ratio: float | None = None, allow: Iterable[str] = ()) -> Plan:
    """An exported plan, from a folder or a Hub id.

    prune_ratio: another budget than it was exported with. allow: packages beside this one whose pruners may be built.
    """
    config, weights = export.read(source)
    stages = [
        Stage(export.build(stage.pruner.model_dump(by_alias=True), tuple(allow)), stage.at, read_share(stage.share))
        for stage in config.stages
    ]
    plan = Plan(stages, config.prune_ratio if prune_ratio is None else prune_ratio, config.positions)
    try:
        plan.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"The weights in {source} do not fit the plan's pruners: {' '.join(str(error).split())}"
        ) from None
    plan.image_aspect = config.image_aspect
    if config.adapter is not None:
        plan.adaptation = adapt.load(config.adapter.model_dump(), export.find(source))
    return plan.eval()
