"""A policy with its budget: put on a model, saved and loaded as one, as a plan is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from learnpruner.backbones import family_of
from learnpruner.backbones.family import ModelFamily
from learnpruner.kv_eviction.engine import EvictionEngine, attach_eviction, detach_eviction, kv_heads
from learnpruner.kv_eviction.policy import EvictionPolicy
from learnpruner.plan import export
from learnpruner.plan.card import PLACE, render_card
from learnpruner.plan.export_schema import ExportedEviction, read_config
from learnpruner.plan.hub import Exportable
from learnpruner.utils.constructor import dotted_name
from learnpruner.utils.errors import UserError
from learnpruner.utils.privacy import hide_paths
from learnpruner.utils.provenance import versions
from learnpruner.utils.validation import check_int

if TYPE_CHECKING:
    from typing import Self


class Eviction(Exportable):
    """What stays in the KV cache while generating.

    Args:
        policy: decides.
        budget: slots kept of each layer and key-value head, or on the average of them where the policy pools; higher is
            slower and more accurate.
        evict_interval: new tokens between two evictions, so that a head holds up to budget + evict_interval slots; higher
            evicts less often, in larger lots. TRIM-KV takes 128 with budgets of 512 to 4096.
    """

    def __init__(self, policy: EvictionPolicy, budget: int, evict_interval: int = 16) -> None:
        super().__init__()
        self.policy = policy
        self.budget, self.evict_interval = budget, evict_interval
        self.backbone: dict[str, int] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Budgets are checked whenever they are set; they may be while the policy is on a model."""
        if name in ("budget", "evict_interval"):
            check_int(name, value, 1)
            if name == "budget" and not self.policy.keeps(value):
                settings = ", ".join(f"{key}={given}" for key, given in self.policy.arguments().items())
                kind = type(self.policy).__name__
                raise UserError(f"budget={value} is refused: it is too small for {kind}({settings}).")
        super().__setattr__(name, value)

    def prepare(self, family: ModelFamily) -> Self:
        """Meet a backbone: build or check what depends on its sizes, and move there."""
        width, heads = family.text_width, kv_heads(family.language_model)[0]
        self.policy.prepare(width, family.layers, heads)
        self.backbone = {"width": width, "layers": family.layers, "heads": heads}
        return self.to(next(family.language_model.parameters()).device)

    def attach(self, model: nn.Module) -> EvictionEngine:
        """Evict from this model's caches until `detach`. See `on`."""
        return attach_eviction(self, family_of(model))

    def detach(self, model: nn.Module) -> None:
        """Undo `attach`; the model is as it was."""
        detach_eviction(family_of(model))

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[EvictionEngine]:
        """Evict in `model(...)` and `model.generate(...)` inside the block; undone on exit."""
        engine = self.attach(model)
        try:
            yield engine
        finally:
            self.detach(model)

    @property
    def tag(self) -> str:
        """The budget, short enough for a folder's name."""
        return f"b{self.budget}"

    def describe(self) -> str:
        """Word in a line what stays."""
        where = "on the average of layers and heads" if self.policy.pool == "cache" else "a head"
        return f"{type(self.policy).__name__} keeping {self.budget} slots {where}, evicting every {self.evict_interval} tokens"

    def save(
        self,
        folder: str | Path,
        backbone: str | None = None,
        revision: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        notes: str = "",
    ) -> Path:
        """Export: config.json, model.safetensors and a card. notes go into the card."""
        config: dict[str, Any] = {
            "format": 1,
            **self.spec(),
            "backbone": {"name": backbone, "revision": revision, **(self.backbone or self.recorded_sizes())},
            "versions": versions(),
            "metrics": dict(metrics or {}),
            **({"notes": hide_paths(notes.strip())} if notes else {}),
        }
        return export.write_export(folder, config, self.state_dict(), self.card(config))

    def spec(self) -> dict[str, Any]:
        """Describe the policy and its budget, as config.json has them."""
        policy = {"_target_": dotted_name(type(self.policy)), **self.policy.arguments()}
        return {"policy": policy, "budget": self.budget, "every": self.evict_interval}

    def card(self, config: Mapping[str, Any], source: str = PLACE) -> str:
        """Word the model card of a config.json of this eviction; `source` is what its example loads."""
        return render_card(
            config,
            title=f"KV-cache eviction: {self.describe()}",
            what=re.split(r"\n(?:Args|Attributes):", inspect.getdoc(type(self.policy)) or "")[0].strip(),
            touched="unmodified",
            usage=_USAGE.format(source=source),
            name=f"{type(self.policy).__name__}-{self.tag}",
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        budget: int | None = None,
        evict_interval: int | None = None,
        allow: tuple[str, ...] = (),
    ) -> Eviction:
        """Load an export from a folder or a Hub id; the same as `learnpruner.kv_eviction.load_eviction`, at a revision."""
        return load_eviction(source, budget, evict_interval, allow, revision)


_USAGE = """
from learnpruner import kv_eviction

eviction = kv_eviction.load_eviction("{source}")  # budget=128 gives it another budget
with eviction.on(model):  # the Hugging Face model above; composes with `plan.on(model)`
    out = model.generate(**inputs, max_new_tokens=512)
"""


def load_eviction(
    source: str | Path,
    budget: int | None = None,
    evict_interval: int | None = None,
    allow: tuple[str, ...] = (),
    revision: str | None = None,
) -> Eviction:
    """Load an exported eviction, from a folder or a Hub id.

    Args:
        source: the folder or Hub id.
        budget: another one than it was exported with.
        evict_interval: likewise.
        allow: packages beside this one whose policies may be built.
        revision: a branch, tag or commit of the Hub's repository.

    Raises:
        UserError: where there is none.
    """
    folder = export.resolve_export(source, revision)
    config, weights = (
        read_config(folder / export.CONFIG_FILE, ExportedEviction),
        export.read_weights(folder / export.WEIGHTS_FILE),
    )
    made = build_policy(config.policy.model_dump(by_alias=True), allow)
    sizes = config.backbone
    eviction = Eviction(made, config.budget, config.every)
    try:
        if sizes.width and sizes.layers and sizes.heads:
            made.prepare(sizes.width, sizes.layers, sizes.heads)
        eviction.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / export.WEIGHTS_FILE} is missing, damaged or of another policy: {reason}") from None
    eviction.remember(config.model_dump(by_alias=True, exclude_unset=True))
    eviction.budget, eviction.evict_interval = budget or config.budget, evict_interval or config.every
    return eviction.eval()


def build_policy(spec: Mapping[str, Any], allow: tuple[str, ...] = ()) -> EvictionPolicy:
    """Build a policy from its description: of this package's policies, or of a package named in `allow`."""
    return export.build_exported(spec, EvictionPolicy, __package__, allow)
