"""adapter=lora: low-rank updates of the language model's linear layers learn (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from learnpruner.adapters.base import TrainableAdapter, parameter_key, refuse_state_dict
from learnpruner.utils.errors import UserError
from learnpruner.utils.privacy import hide_path_values

if TYPE_CHECKING:
    from learnpruner.backbones.family import ModelFamily

_FILE, _PREFIX, _NAME = "adapter_model.safetensors", "base_model.model.", "default"  # as peft has them
_Layers = dict[str, Any]

_LAYERS: WeakKeyDictionary[LoraAdapter, WeakKeyDictionary[nn.Module, _Layers]] = WeakKeyDictionary()


class LoraAdapter(TrainableAdapter):
    """Each target gets W x + (alpha / r) B A x, by peft's own layers; W is never merged with B A, which would round it.

    Args:
        r: rank; higher adapts more, with more weights.
        alpha: see above.
        dropout: share of x that A does not see in training.
        target_modules: regular expression for the whole name of a linear layer in the language model, as peft reads it.
    """

    kind = "lora"

    def __init__(self, r: int = 8, alpha: float = 16, dropout: float = 0.0, target_modules: str = ".*_proj") -> None:
        super().__init__()
        self.r, self.alpha, self.dropout, self.target_modules = r, alpha, dropout, target_modules

    def prepare(self, family: ModelFamily) -> None:
        targets = self.targets(family)
        shapes = {f"{name}.lora_A": (self.r, layer.in_features) for name, layer in targets.items()}
        shapes |= {f"{name}.lora_B": (layer.out_features, self.r) for name, layer in targets.items()}
        if not self.weights:  # as peft begins: with an update of zero
            drawn = {name: torch.zeros(shape) for name, shape in shapes.items()}
            for name in (name for name in drawn if name.endswith("lora_A")):
                nn.init.kaiming_uniform_(drawn[name], a=math.sqrt(5))
            self.take(drawn)
        devices = {name: layer.weight.device for name, layer in targets.items()}
        self.fit({name: (shape, devices[name.rpartition(".")[0]]) for name, shape in shapes.items()})

    def targets(self, family: ModelFamily) -> dict[str, Any]:
        """Find the linear layers that are adapted, by their names in the model."""
        tuned = _peft().tuners.tuners_utils.BaseTunerLayer
        root = next(name for name, module in family.model.named_modules() if module is family.language_model)
        found = {n: m for n, m in family.language_model.named_modules() if n and re.fullmatch(self.target_modules, n)}
        if not found:
            linear = {
                n.rpartition(".")[2] for n, m in family.language_model.named_modules() if isinstance(m, nn.Linear)
            }
            raise UserError(
                f"adapter.target_modules={self.target_modules!r} matches no layer of this language model, whose linear layers "
                f"are called {', '.join(sorted(linear))}: '.*_proj' takes all."
            )
        for name, module in found.items():
            if isinstance(module, tuned):
                raise UserError("This model carries PEFT layers of its own: merge_and_unload() them first.")
            if not isinstance(module, nn.Linear):
                raise UserError(
                    f"adapter.target_modules={self.target_modules!r} matches {name}, a {type(module).__name__}: it must match "
                    "linear layers only, such as '.*_proj'."
                )
        return {f"{root}.{name}": module for name, module in found.items()}

    @contextmanager
    def wear(self, family: ModelFamily) -> Iterator[None]:
        model, targets = family.model, self.targets(family)
        again = any(getattr(module, "gradient_checkpointing", False) for module in family.language_model.modules())
        if self.training and model.training and again:
            raise UserError(
                "Gradient checkpointing computes layers again when LoRA is off: train adapter=lora without it."
            )
        layers = self._layers(model, targets)
        try:
            for name, layer in layers.items():
                _put(model, name, layer)
            yield
        finally:
            for name, target in targets.items():
                _put(model, name, target)

    def _layers(self, model: nn.Module, targets: dict[str, Any]) -> _Layers:
        """Peft's layers around the targets, made once a model, with the weights of this module."""
        known = _LAYERS.setdefault(self, WeakKeyDictionary())
        layers = known.get(model, {})
        if {name: layer.base_layer for name, layer in layers.items()} != targets:
            known[model] = layers = wrap_with_lora(self._config(".*"), model, targets)
        for name, layer in layers.items():
            layer.lora_A[_NAME].weight = self.weights[parameter_key(f"{name}.lora_A")]
            layer.lora_B[_NAME].weight = self.weights[parameter_key(f"{name}.lora_B")]
            layer.lora_dropout.train(self.training)
        return layers

    def _config(self, target_modules: str, **settings: Any) -> Any:
        return _peft().LoraConfig(
            r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=target_modules, **settings
        )

    def describe(self) -> str:
        return f"adapts the LLM: LoRA r {self.r}"

    def save(self, folder: Path, backbone: str | None = None) -> None:
        """Write as peft does, so that `PeftModel.from_pretrained` loads the folder too."""
        weights = {f"{_PREFIX}{name}.weight": weight.detach().cpu().contiguous() for name, weight in self.named()}
        root = next(iter(weights)).removeprefix(_PREFIX).partition(".layers.")[0]
        targets = rf"{re.escape(root)}\.(?:{self.target_modules})"
        config = self._config(targets, base_model_name_or_path=hide_path_values(backbone), inference_mode=True)
        config.save_pretrained(folder)
        save_file(weights, folder / _FILE, metadata={"format": "pt"})

    def read(self, folder: Path) -> None:
        weights = load_file(folder / _FILE)
        self.take({name.removeprefix(_PREFIX).removesuffix(".weight"): weight for name, weight in weights.items()})


def wrap_with_lora(config: Any, model: Any, targets: dict[str, Any]) -> _Layers:
    """Put peft's layers around some linear layers. They are injected into a stand-in, since peft leaves marks on a model."""
    learns = {name: [p.requires_grad for p in target.parameters()] for name, target in targets.items()}
    holder: Any = nn.ModuleDict({parameter_key(name): target for name, target in targets.items()})
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
        setattr(holder, mark, getattr(model, mark, False))
    _peft().inject_adapter_in_model(config, holder, _NAME, low_cpu_mem_usage=True)
    for name, target in targets.items():  # peft freezes what it wraps
        for parameter, flag in zip(target.parameters(), learns[name], strict=True):
            parameter.requires_grad_(flag)
    layers = {name: holder[parameter_key(name)] for name in targets}
    for layer in layers.values():
        layer.register_state_dict_post_hook(_as_base)
        layer.register_load_state_dict_pre_hook(refuse_state_dict)
    return layers


def _as_base(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The layer is saved under the name, and with the weights, of the one that it stands around."""
    for name in [name for name in state if name.startswith(prefix)]:
        value, own = state.pop(name), name.removeprefix(prefix)
        if own.startswith("base_layer."):
            state[prefix + own.removeprefix("base_layer.")] = value


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._modules[leaf] = layer


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("adapter=lora needs peft: install it, or choose adapter=projector.") from None
    return peft
