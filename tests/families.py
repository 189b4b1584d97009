"""Tiny random models of every supported family, in the real classes with the real fields, saved with their processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tiny import _sharpen
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import is_torchvision_available

from learnpruner.backbones.processors import NoVideoProcessor, without_video_processor
from learnpruner.nano.model import WORDS

LAYERS, WIDTH = 6, 32
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% endif %}"
    "{% for content in message['content'] if content['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}{{ content['text'] }}{% endfor %}"
    "{% if message['role'] == 'user' %} [/INST] {% else %}{{ '<\\\\s> ' }}{% endif %}{% endfor %}"
)
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(end: str = "</s>", begin: str | None = "<s>", **extra: str) -> hf.PreTrainedTokenizerFast:
    """Words as the embedded backbone knows them, with a family's own special tokens."""
    special = ["<pad>", "<unk>", *([begin] if begin else []), end, *extra.values()]
    words = dict.fromkeys([*special, *WORDS, "[INST]", "[/INST]", "user", "assistant", "system", "USER:", "ASSISTANT:"])
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\?"), behavior="isolated")]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token=begin, eos_token=end,
        extra_special_tokens=extra, padding_side="left", model_max_length=4096,
    )  # fmt: skip


@dataclass(frozen=True)
class Family:
    """build: a processor and a model. sizes: (height, width) of the pictures in its tests.

    videos: for the numbers of some videos their inputs, and the text that stands for each; made by hand, since the video
    processors of Hugging Face need torchvision. backbones/test_videos.py runs these too, with a stand-in.
    """

    name: str
    build: Callable[[], tuple[Any, Any]]
    videos: Callable[[list[int]], tuple[dict[str, torch.Tensor], list[str]]] | None = None
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (40, 90), (64, 33), (48, 48))

    def make(self) -> tuple[Any, Any]:
        """A processor and a model, frozen, in evaluation mode."""
        torch.manual_seed(0)
        processor, model = self.build()
        _sharpen(model)
        marks = [getattr(processor, name, None) for name in ("image_token_id", "video_token_id")]
        model.lm_head.weight.data[[mark for mark in marks if mark is not None]] = 0  # never the answer
        model.generation_config.eos_token_id = None  # answers are as long as asked for
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        return processor, model.requires_grad_(False).eval()

    def save(self, folder: Path) -> Path:
        """A folder that plain AutoModel and AutoProcessor load."""
        processor, model = self.make()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Coloured noise in coarse blocks: (height, width)."""
    values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.NEAREST)


def text(tok: hf.PreTrainedTokenizerFast, **fields: Any) -> dict[str, Any]:
    """Sizes of a language model over a tokenizer."""
    return {
        "vocab_size": len(tok), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "pad_token_id": tok.pad_token_id, "bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, **fields,
    }  # fmt: skip


def clip(side: int, patch: int) -> hf.CLIPVisionConfig:
    return hf.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=side,
        patch_size=patch, projection_dim=WIDTH,
    )  # fmt: skip


def llava(of_siglip: bool = False) -> tuple[Any, Any]:
    tok = tokenizer(image_token="<image>")
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    strategy = "full" if of_siglip else "default"  # SigLIP has no [CLS] that could be left out
    processor = hf.LlavaProcessor(
        image_processor=images, tokenizer=tok, patch_size=8, vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(not of_siglip), image_token="<image>", chat_template=VICUNA,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=siglip(48, 8) if of_siglip else clip(48, 8), text_config=hf.LlamaConfig(**text(tok)),
        image_token_id=tok.image_token_id, vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        image_seq_length=36,
    )  # fmt: skip
    return processor, hf.LlavaForConditionalGeneration(config)


PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def llava_next(mistral: bool = False) -> tuple[Any, Any]:
    tok = tokenizer(image_token="<image>")
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        image_processor=images, tokenizer=tok, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>", chat_template=MISTRAL if mistral else VICUNA,
    )  # fmt: skip
    kind = hf.MistralConfig(sliding_window=None, **text(tok)) if mistral else hf.LlamaConfig(**text(tok))
    config = hf.LlavaNextConfig(
        vision_config=clip(32, 8), text_config=kind, image_token_id=tok.image_token_id,
        image_grid_pinpoints=PINPOINTS, vision_feature_layer=-2, vision_feature_select_strategy="default",
        use_image_newline_parameter=True,
    )  # fmt: skip
    return processor, hf.LlavaNextForConditionalGeneration(config)


def siglip(side: int, patch: int) -> hf.SiglipVisionConfig:
    return hf.SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=side,
        patch_size=patch, vision_use_head=False,
    )  # fmt: skip


def with_videos(kind: Any, reader: str, **settings: Any) -> tuple[Any, Any]:
    """A processor's class and its video processor, or what stands in its place where torchvision is missing."""
    return (
        (kind, getattr(hf, reader)(**settings))
        if is_torchvision_available()
        else (without_video_processor(kind), NoVideoProcessor())
    )


def llava_onevision() -> tuple[Any, Any]:
    tok = tokenizer("<|im_end|>", None, image_token="<image>", video_token="<video>", start="<|im_start|>")
    pinpoints = [[rows * 32, columns * 32] for rows in range(1, 4) for columns in range(1, 4)]
    images = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints)
    kind, videos = with_videos(
        hf.LlavaOnevisionProcessor, "LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32}
    )
    processor = kind(
        image_processor=images, tokenizer=tok, video_processor=videos, num_image_tokens=16,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4",
        chat_template=QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
        .replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>"),
    )  # fmt: skip
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(32, 8), text_config=hf.Qwen2Config(use_sliding_window=False, **text(tok)),
        image_token_index=tok.image_token_id, video_token_index=tok.video_token_id, image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4",
    )  # fmt: skip
    return processor, hf.LlavaOnevisionForConditionalGeneration(config)


def video_llava() -> tuple[Any, Any]:
    tok = tokenizer(image_token="<image>", video_token="<video>")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    kind, videos = with_videos(hf.VideoLlavaProcessor, "VideoLlavaVideoProcessor", **size)
    processor = kind(
        image_processor=VideoLlavaImageProcessor(**size), tokenizer=tok, video_processor=videos, patch_size=8, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1, video_token="<video>",
        chat_template=VICUNA,
    )  # fmt: skip
    config = hf.VideoLlavaConfig(
        vision_config=clip(32, 8), text_config=hf.LlamaConfig(**text(tok)), image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id, vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_seq_length=16, video_seq_length=3 * 17,
    )  # fmt: skip
    return processor, hf.VideoLlavaForConditionalGeneration(config)


def qwen(three: bool = False) -> tuple[Any, Any]:
    marks = {"first": "<|vision_start|>", "last": "<|vision_end|>", "turn": "<|im_start|>"}
    if three:
        marks |= {f"second{i}": f"<{i}.5 seconds>" for i in range(0, 8, 2)}
    tok = tokenizer("<|im_end|>", None, image_token="<|image_pad|>", video_token="<|video_pad|>", **marks)
    size = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, **size)
    kind, videos = with_videos(
        hf.Qwen3VLProcessor if three else hf.Qwen2_5_VLProcessor,
        "Qwen3VLVideoProcessor" if three else "Qwen2VLVideoProcessor",
        size={"shortest_edge": 16 * 16, "longest_edge": 8 * 64 * 64},
        **size,
    )
    processor = kind(image_processor=images, tokenizer=tok, video_processor=videos, chat_template=QWEN)
    vision = {
        "depth": 4, "hidden_size": WIDTH, "intermediate_size": 64, "num_heads": 4, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64,
    }  # fmt: skip
    ids = {
        "image_token_id": tok.image_token_id, "video_token_id": tok.video_token_id,
        "vision_start_token_id": tok.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tok.convert_tokens_to_ids("<|vision_end|>"),
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
    if three:
        rope["mrope_interleaved"] = True
        config = hf.Qwen3VLConfig(
            vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2]},
            text_config=text(tok, head_dim=16, rope_parameters=rope), **ids,
        )  # fmt: skip
        return processor, hf.Qwen3VLForConditionalGeneration(config)
    config = hf.Qwen2_5_VLConfig(
        vision_config={**vision, "window_size": 16, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2},
        text_config=text(tok, rope_parameters=rope, use_sliding_window=False), **ids,
    )  # fmt: skip
    return processor, hf.Qwen2_5_VLForConditionalGeneration(config)


def patches(numbers: list[int], stepwise: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Videos of four frames, two a step in time, of 6 x 8 patches of 4 x 4 pixels; stepwise: with text between steps."""
    seeds = [torch.Generator().manual_seed(number) for number in numbers]
    rows = torch.cat([torch.randn(2 * 6 * 8, 3 * 2 * 4 * 4, generator=seed) for seed in seeds])
    grids = torch.tensor([[2, 6, 8]] * len(numbers))
    steps = "".join(f"<|vision_start|>{'<|video_pad|>' * 12}<|vision_end|>" for _ in range(2))
    whole = f"<|vision_start|>{'<|video_pad|>' * 24}<|vision_end|>"
    return {"pixel_values_videos": rows, "video_grid_thw": grids}, [steps if stepwise else whole] * len(numbers)


def clips(numbers: list[int], frames: int, side: int, each: int, more: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Videos of `frames` square frames with `each` placeholders a frame, and `more` behind the last."""
    seeds = [torch.Generator().manual_seed(number) for number in numbers]
    pixels = [torch.randn(frames, 3, side, side, generator=seed) for seed in seeds]
    return {"pixel_values_videos": torch.stack(pixels)}, ["<video>" * (frames * each + more)] * len(numbers)


FAMILIES = {
    family.name: family
    for family in (
        Family("llava", llava),
        Family("llava_siglip", lambda: llava(of_siglip=True)),
        Family("llava_next", llava_next),
        Family("llava_next_mistral", lambda: llava_next(mistral=True)),
        Family(
            "llava_onevision",
            llava_onevision,
            videos=lambda numbers: clips(numbers, frames=4, side=32, each=4, more=1),
            sizes=((96, 96), (40, 90), (64, 33), (48, 48)),
        ),
        Family("video_llava", video_llava, lambda numbers: clips(numbers, frames=3, side=32, each=17)),
        Family("qwen2_5_vl", qwen, patches, sizes=((48, 48), (24, 64), (40, 32), (32, 32))),
        Family(
            "qwen3_vl",
            lambda: qwen(three=True),
            lambda numbers: patches(numbers, stepwise=True),
            sizes=((48, 48), (24, 64), (40, 32), (32, 32)),
        ),
    )
}
