"""What a plan may change in a model beside its tokens: weights that go on with the plan and come off with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from learnpruner.utils.errors import UserError
from learnpruner.utils.finite import check_finite

if TYPE_CHECKING:
    from learnpruner.backbones.family import ModelFamily


class TrainableAdapter(nn.Module):
    """Base of the kinds in `conf/adapt`. The model's own weights are never written to, and are what it is saved with.

    Attributes:
        kind: the name of its config, and in an export.
        weights: what learns, in float32, by name with "/" for ".".
    """

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict()

    def prepare(self, family: ModelFamily) -> None:
        """Meet a backbone: build the weights, or check that they fit it, and put them where they are used."""
        raise NotImplementedError

    def on(self, family: ModelFamily) -> AbstractContextManager[None]:
        """Let the model compute with these weights inside the block; it is as it was behind it."""
        return AttachedAdapter(self.wear(family))

    def wear(self, family: ModelFamily) -> AbstractContextManager[None]:
        """Do what `on` does."""
        raise NotImplementedError

    def describe(self) -> str:
        """Word what tables say: "adapts the LLM: LoRA r 8"."""
        raise NotImplementedError

    def save(self, folder: Path, backbone: str | None = None) -> None:
        """Write the weights into a folder of their own."""
        raise NotImplementedError

    def read(self, folder: Path) -> None:
        """Take the weights that `save` wrote."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """List the constructor's arguments, for the export."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def take(self, weights: Mapping[str, Tensor]) -> None:
        check_finite(weights, f"the {self.kind}'s weights are refused")
        for name, value in weights.items():
            self.weights[parameter_key(name)] = nn.Parameter(value.detach().float().clone())

    def named(self) -> Iterable[tuple[str, nn.Parameter]]:
        """List the weights under the names that files have."""
        return ((name.replace("/", "."), weight) for name, weight in self.weights.items())

    def fit(self, places: Mapping[str, tuple[tuple[int, ...], torch.device]]) -> None:
        """Check shapes against the backbone's, name by name, and move each weight to its device."""
        own = {name: tuple(weight.shape) for name, weight in self.named()}
        for name in sorted({*own, *places}):
            here = places[name][0] if name in places else None
            if own.get(name) != here:
                raise UserError(
                    f"The plan's adapter was made for another backbone: {name} is {own.get(name, 'missing')} in the adapter "
                    f"and needs to be {here or 'absent'} here; load the model that it was trained on."
                )
        for name, (_, device) in places.items():
            weight = self.weights[parameter_key(name)]
            if device.type != "meta" and weight.device != device:  # offloaded layers get their weights while they run
                weight.data = weight.data.to(device)


class AttachedAdapter(AbstractContextManager[None]):
    """An adaptation on a model, which cannot be copied: its layers and weights stand in the model's places."""

    def __init__(self, inner: AbstractContextManager[None]) -> None:
        self.inner = inner

    def __enter__(self) -> None:
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.inner.__exit__(*error)

    def __deepcopy__(self, memo: Any) -> AttachedAdapter:
        raise UserError("A plan with an adapter is on this model: detach it before the model is copied.")


def parameter_key(name: str) -> str:
    """Spell a name as ParameterDict takes it."""
    return name.replace(".", "/")


def refuse_state_dict(module: nn.Module, *loading: Any) -> None:
    """Refuse weights for what stands in the place of the model's own: a pre-hook of `load_state_dict`."""
    raise UserError("A plan with an adapter is on this model: detach it before weights are loaded into the model.")
