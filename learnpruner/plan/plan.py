"""Which pruner acts where, with how many tokens: the whole configuration of a pruned model, saved and loaded as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from learnpruner import adapters
from learnpruner.backbones import family_of
from learnpruner.core.budget import read_share, share_at
from learnpruner.core.plan_spec import Mode, PlanSpec, Stage
from learnpruner.engine.engine import Engine, attach_engine, detach_engine
from learnpruner.plan import export
from learnpruner.plan.card import PLACE, render_card
from learnpruner.plan.hub import Exportable
from learnpruner.utils.errors import UserError
from learnpruner.utils.finite import check_finite
from learnpruner.utils.privacy import hide_paths
from learnpruner.utils.provenance import versions


class Plan(PlanSpec, Exportable):
    """A plan in a user's hands: put on a model, described, saved. None of the stages at all is the unpruned teacher.

    Arguments are those of `PlanSpec`.
    """

    @property
    def tag(self) -> str:
        """The budget and what is adapted, short enough for a folder's name."""
        return f"r{self.prune_ratio:g}" + (f"-{self.adaptation.kind}" if self.adaptation else "")

    @property
    def adapts(self) -> str | None:
        """What tables say of its adaptation: "adapts the LLM: LoRA r 8"."""
        return self.adaptation.describe() if self.adaptation else None

    def describe(self, n: int, layers: int) -> str:
        """Word the budget in a line: "keeping 31.9 of 576 visual tokens on average: 55 after the encoder, ...".

        Args:
            n: N, visual tokens of an image.
            layers: L of the LLM.
        """
        also = f"; {self.adapts}" if self.adapts else ""
        also += "; pictures padded to squares" if self.image_aspect == "pad" else ""
        if not self.stages:
            return f"keeping all {n} visual tokens{also}"
        places = [
            f"{count} {'after the encoder' if s.at == 'encoder' else f'from layer {cut}'}"
            for s, count, cut in zip(self.stages, self.counts(n, layers), self.cuts(layers), strict=True)
        ]
        return f"keeping {self.tokens(n, layers)['averaged']:.1f} of {n} visual tokens on average: {', '.join(places)}{also}"

    def attach(self, model: nn.Module, mode: Mode = "physical", pool: int | None = None) -> Engine:
        """Prune this model until `detach`. See `on`."""
        return attach_engine(self, family_of(model), mode, pool)

    def detach(self, model: nn.Module) -> None:
        """Undo `attach`; the model is as it was."""
        detach_engine(family_of(model))

    @contextmanager
    def on(self, model: nn.Module, mode: Mode = "physical", pool: int | None = None) -> Iterator[Engine]:
        """Prune `model(...)` and `model.generate(...)` inside the block; undone on exit.

        Args:
            model: of a supported family, unmodified.
            mode: "physical" drops tokens from the sequence and the KV cache; "masked", for training, keeps them in the
                sequence but out of attention, so that dropped tokens still receive gradient.
            pool: masked mode keeps only this many randomly drawn dropped tokens an image; fewer is faster, and gives a
                random subset of the dropped tokens gradient. None keeps all. Values are the same.

        Raises:
            UserError: where the model carries a plan already, or can't carry this one.
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
        """Export to a folder: config.json, model.safetensors, a model card, and adapter/ where it has one.

        Args:
            folder: made where it is not there.
            backbone: folder or hub id of the model that it was trained on.
            revision: of the backbone.
            metrics: of the training, for config.json and the card.
            notes: a paragraph for the card.

        Returns:
            The folder.
        """
        config = {
            "format": 1,
            **self.spec(),
            "budgets": self._budgets(),
            "backbone": {"name": backbone, "revision": revision, **self._sizes()},
            "versions": versions(),
            "metrics": dict(metrics or {}),
            **({"notes": hide_paths(notes.strip())} if notes else {}),
        }
        check_finite(self.state_dict(), f"the plan is not exported to {folder}")
        if self.adaptation is not None:
            config["adapter"] = adapters.adapter_spec(self.adaptation)
            self.adaptation.save(Path(folder) / adapters.ADAPTER_FOLDER, backbone)
        pruners = {name: w for name, w in self.state_dict().items() if name.startswith("stages.")}
        return export.write_export(folder, config, pruners, self.card(config))

    def spec(self) -> dict[str, Any]:
        """Describe the stages and their budget, as config.json has them."""
        return {
            "prune_ratio": self.prune_ratio,
            "positions": self.positions,
            "image_aspect": self.image_aspect,
            "stages": [
                {"pruner": export.describe_pruner(s.pruner), "at": s.at, "share": s.token_share} for s in self.stages
            ],
        }

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        prune_ratio: float | None = None,
        allow: Iterable[str] = (),
    ) -> Plan:
        """Load an export; the same as `learnpruner.load`.

        Args:
            source: a folder or a Hub id.
            revision: a branch, tag or commit of the Hub's repository.
            prune_ratio: another share of visual tokens KEPT than it was exported with; higher is slower and more accurate.
            allow: packages beside this one whose pruners may be built.

        Returns:
            The plan, in evaluation mode.
        """
        return load(source, prune_ratio, allow, revision)

    def _sizes(self) -> dict[str, int]:
        """Sizes of the backbone that it has met, or else was exported for."""
        return self.backbone or self.recorded_sizes()

    def _budgets(self) -> dict[str, Any]:
        sizes = self._sizes()
        if not sizes:
            return {}
        n, layers = sizes["tokens"], sizes["layers"]
        return {"counts": self.counts(n, layers), "cuts": self.cuts(layers), **self.tokens(n, layers)}

    def card(self, config: Mapping[str, Any], source: str = PLACE) -> str:
        """Word the model card of a config.json of this plan; `source` is what its example loads."""
        n, layers = self._sizes().get("tokens", 576), self._sizes().get("layers", 32)
        stages = [
            f"- {s['pruner']['_target_']} at {s['at']}, share {share_at(s['share'], self.prune_ratio):g}"
            for s in config["stages"]
        ]
        return render_card(
            config,
            title=f"Visual-token pruning plan: {self.describe(n, layers)}",
            what="\n".join([f"Positions of kept tokens: {self.positions}. Stages:", "", *stages]),
            touched=f"which the plan {self.adapts} while it is on" if self.adapts else "unmodified",
            usage=_USAGE.format(source=source),
            name="-".join([*(type(stage.pruner).__name__ for stage in self.stages), self.tag]),
        )


_USAGE = """
import learnpruner

plan = learnpruner.load("{source}")
with plan.on(model):  # the Hugging Face model above
    out = model.generate(**inputs, max_new_tokens=32)
"""


def load(
    source: str | Path, prune_ratio: float | None = None, allow: Iterable[str] = (), revision: str | None = None
) -> Plan:
    """Load an exported plan.

    Args:
        source: a folder or a Hub id.
        prune_ratio: another share of visual tokens KEPT than it was exported with; higher is slower and more accurate.
        allow: packages beside this one whose pruners may be built.
        revision: a branch, tag or commit of the Hub's repository.

    Returns:
        The plan, in evaluation mode.

    Raises:
        UserError: the folder holds no plan, or one that this installation does not build.
    """
    config, weights = export.read_export(source, revision)
    stages = [
        Stage(
            export.build_pruner(stage.pruner.model_dump(by_alias=True), tuple(allow)), stage.at, read_share(stage.share)
        )
        for stage in config.stages
    ]
    plan = Plan(stages, config.prune_ratio, config.positions)
    try:
        plan.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"The weights in {source} do not fit the plan's pruners: {' '.join(str(error).split())}"
        ) from None
    plan.image_aspect = config.image_aspect
    if config.adapter is not None:
        plan.adaptation = adapters.load_adapter(config.adapter.model_dump(), export.resolve_export(source, revision))
    plan.remember(config.model_dump(by_alias=True, exclude_unset=True))
    if prune_ratio is not None:
        plan.prune_ratio = prune_ratio
    return plan.eval()
