"""Load a model's processor; without torchvision, which Hugging Face's video processors need, one that takes images only."""

from __future__ import annotations

from typing import Any

from transformers import PROCESSOR_MAPPING, AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

from learnpruner.utils.errors import UserError
from learnpruner.utils.pretrained import NO_CODE

_PROBE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}


class NoVideoProcessor(BaseVideoProcessor):
    """In the place of a video processor where torchvision is missing."""

    model_input_names: list[str] = []  # noqa: RUF012  the base class's own type

    def __init__(self) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UserError("Videos need torchvision: install it beside torch, in the version made for it.")

    def to_dict(self) -> dict[str, Any]:
        return {}


def without_video_processor(kind: Any) -> Any:
    """Make a processor class that takes `NoVideoProcessor` in the place of a video processor."""
    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda self, name, part: type(part)})


def load_processor(source: str, revision: str | None = None) -> Any:
    """Load the processor of a folder or a Hub id, with a chat template that renders."""
    processor = _loaded(source, revision)
    try:
        processor.apply_chat_template([_PROBE], add_generation_prompt=True)
    except Exception as error:  # a template is a program: it raises what it likes
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"the chat template of {source} is missing or broken: {reason}; fetch the folder again."
        ) from None
    return processor


def _loaded(source: str, revision: str | None) -> Any:
    if is_torchvision_available():
        return AutoProcessor.from_pretrained(source, revision=revision, **NO_CODE)
    kind: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source, revision=revision, **NO_CODE)), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(source, revision=revision, **NO_CODE)
    parts = {
        "tokenizer": lambda: AutoTokenizer.from_pretrained(source, revision=revision, **NO_CODE),
        "image_processor": lambda: AutoImageProcessor.from_pretrained(source, revision=revision, **NO_CODE),
        "video_processor": NoVideoProcessor,
    }
    settings, _ = kind.get_processor_dict(source, revision=revision)
    return without_video_processor(kind).from_args_and_dict([parts[name]() for name in kind.get_attributes()], settings)
