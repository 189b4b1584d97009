"""adapter=projector: a copy of the projector learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from learnpruner.adapters.base import TrainableAdapter, parameter_key, refuse_state_dict
from learnpruner.utils.errors import UserError

if TYPE_CHECKING:
    from learnpruner.backbones.family import ModelFamily

_FILE = "projector.safetensors"


class ProjectorAdapter(TrainableAdapter):
    """The projector's weights are exchanged for a copy that learns: the module stays, and with it all that hooks it.

    A copy is as large as the original: 21 M weights in LLaVA-1.5-7B. Qwen's projector is the merger of its vision tower;
    of Qwen3-VL's, those whose features enter later layers stay as they are.
    """

    kind = "projector"

    def prepare(self, family: ModelFamily) -> None:
        own = dict(family.projector.named_parameters())
        if not all(weight.is_floating_point() for weight in own.values()):
            raise UserError(
                "This backbone's projector is quantized and cannot be adapted: choose adapter=lora, or leave out "
                "backbone.quantization."
            )
        if not self.weights:
            self.take(own)
        self.fit({name: (tuple(weight.shape), weight.device) for name, weight in own.items()})

    @contextmanager
    def wear(self, family: ModelFamily) -> Iterator[None]:
        own = dict(family.projector.named_parameters())
        places = {
            name: (family.projector.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in own
        }
        saving = family.projector.register_state_dict_post_hook(
            lambda tap, state, prefix, *_: state.update(
                {prefix + name: weight.detach() for name, weight in own.items()}
            )
        )
        loading = family.projector.register_load_state_dict_pre_hook(refuse_state_dict)
        try:
            for name, (module, leaf) in places.items():
                module._parameters[leaf] = self.weights[parameter_key(name)].to(own[name].dtype)  # with gradient
            yield
        finally:
            saving.remove()
            loading.remove()
            for name, (module, leaf) in places.items():
                module._parameters[leaf] = own[name]

    def describe(self) -> str:
        return "adapts the projector"

    def save(self, folder: Path, backbone: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.detach().cpu().contiguous() for name, weight in self.named()}, folder / _FILE)

    def read(self, folder: Path) -> None:
        self.take(load_file(folder / _FILE))
