"""A model of real size with random weights, for speed and memory; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PROCESSOR_MAPPING, AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from learnpruner.backbones.processors import NoVideoProcessor, load_processor, without_video_processor
from learnpruner.utils.errors import UserError
from learnpruner.utils.pretrained import NO_CODE

_DRAWS = 1_000_003
_MEDIA_TOKENS = {"image_token": "<image>", "video_token": "<video>"}
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<' + part['type'] + '>\n' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_random_model(
    source: str,
    shape: Mapping[str, Any] | None,
    dtype: torch.dtype,
    device: str,
    attention: str,
    known: Callable[[str | None], Any],
) -> tuple[Any, Any]:
    """Build a model with random weights, and its processor.

    Args:
        source: a folder, whose config has the sizes; `shape` has them where it is none.
        shape: fields of the model's config, `model_type` among them, and of its processor under `processor` and
            `images`.
        dtype: of the weights.
        device: that they are drawn on.
        attention: as Hugging Face names it.
        known: refuses a model type that no adapter is for.

    Raises:
        UserError: where neither has the sizes.
    """
    if (Path(source) / "config.json").is_file():
        config, processor = AutoConfig.from_pretrained(source, **NO_CODE), load_processor(source)
        known(config.model_type)
    elif shape is None:
        raise UserError(
            f"weights='random' needs the sizes of {source!r}: give backbone.shape, or a folder with a config."
        )
    else:
        config, processor = config_and_processor(shape, known)
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention, **NO_CODE)
    draw_weights(model)
    model.tie_weights()
    model.generation_config.eos_token_id = None  # answers are as long as asked for
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Draw weights as these families start: norms 1, biases 0, the rest N(0, 0.02); in seconds for billions.

    Numbers are drawn once and repeated; how many is a prime, so that the rows of a matrix begin at another of them each.
    """
    draws = 0.02 * torch.randn(_DRAWS, generator=torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith(("bias", "weight")):
            parameter.fill_(float(name.endswith("weight")))
            continue
        draws = draws.to(parameter)
        for part in parameter.view(-1).split(_DRAWS):
            part.copy_(draws[: len(part)])


def config_and_processor(shape: Mapping[str, Any], known: Callable[[str | None], Any]) -> tuple[Any, Any]:
    """Make a config from its fields, and a processor that reads text byte by byte."""
    fields = dict(shape)
    kind, settings, images = fields.pop("model_type"), fields.pop("processor", {}), fields.pop("images", {})
    known(kind)
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(kind, **fields)
    config.image_token_id = tokenizer.image_token_id
    if hasattr(config, "video_token_id"):
        config.video_token_id = tokenizer.video_token_id
    processor: Any = PROCESSOR_MAPPING[type(config)]
    backends: Any = IMAGE_PROCESSOR_MAPPING[type(config)]
    pictures = backends["pil"](**images)
    parts = {"tokenizer": tokenizer, "image_processor": pictures}
    if "video_processor" in processor.get_attributes():
        processor, parts["video_processor"] = without_video_processor(processor), NoVideoProcessor()
    return config, processor(**parts, **settings, chat_template=_CHAT_TEMPLATE)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of one token a byte: as good as any where the answers mean nothing."""
    special = ["<pad>", "<s>", "</s>", *_MEDIA_TOKENS.values()]
    words = {word: i for i, word in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(words, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True) for word in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=_MEDIA_TOKENS,
        padding_side="left",
    )
