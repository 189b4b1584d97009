"""The prompts that a model reads: images and questions through the processor's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.video import video_inputs
from learnpruner.data.image_padding import pad_visuals
from learnpruner.data.plain import protect_special_tokens


def encode_prompts(
    backbone: Backbone, images: Sequence[Any], questions: Sequence[str], **settings: bool
) -> BatchFeature:
    """One prompt an image through the processor's own chat template, padded on the left for generation.

    images: pictures, or videos as lists of frames; never both in one batch. settings: of the image processor, in this call.
    """
    processor = protect_special_tokens(backbone.processor)
    medium = "video" if isinstance(images[0], list) else "image"
    turns = [
        [{"role": "user", "content": [{"type": medium}, {"type": "text", "text": text}]}]
        for text in map(processor.tokenizer.protect, questions)
    ]
    prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    pictures = pad_visuals(images, backbone.image_aspect, backbone.processor)
    visuals = video_inputs(images) if medium == "video" else {"images": pictures}
    inputs = processor(text=prompts, padding=True, padding_side="left", return_tensors="pt", **visuals, **settings)
    return inputs.to(backbone.model.device, dtype=backbone.model.dtype)
