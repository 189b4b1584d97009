"""Shape, vocabulary and processor of the embedded LLaVA: LLaVA-1.5's geometry in small (24 x 24 patches, penultimate layer, [CLS] dropped)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from learnpruner.data.scenes import CANVAS, COLOR_NAMES, COLUMN_NAMES, GRID, OUTLINES, PATCH, ROW_NAMES, TEXTURES

SPECIAL_WORDS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
QUESTION_WORDS = (
    "USER: ASSISTANT: ? is there a what color shape number the on object objects marked where how many are "
    "left of above background same both sides yes no squares circles triangles diamonds"
).split()
_NUMBERS = tuple(str(number) for number in range(13))  # digits, and counts up to twelve
WORDS = tuple(
    dict.fromkeys(
        (*SPECIAL_WORDS, *QUESTION_WORDS, *COLOR_NAMES, *OUTLINES, *TEXTURES, *ROW_NAMES, *COLUMN_NAMES, *_NUMBERS)
    )
)
WORD_ID = {word: i for i, word in enumerate(WORDS)}
PIXEL_MEAN, PIXEL_STD = 0.45, 0.27
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}{% endif %}"
    "{% else %} ASSISTANT: "
    "{% if message['content'] is string %}{% generation %}{{ message['content'] }}</s>{% endgeneration %}{% else %}"
    "{% for item in message['content'] if item['type'] == 'text' %}"
    "{% generation %}{{ item['text'] }}</s>{% endgeneration %}{% endfor %}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class NanoShape:
    """Widths and depths. The tower has one layer more than the features need: LLaVA reads the output of the penultimate one."""

    vision_width: int = 128
    vision_layers: int = 5
    text_width: int = 128
    text_layers: int = 8
    heads: int = 4


def build_nano_model(shape: NanoShape) -> LlavaForConditionalGeneration:
    """Make a LLaVA of this shape with starting weights."""
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.heads,
        image_size=CANVAS,
        patch_size=PATCH,
        projection_dim=shape.vision_width,
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=shape.text_width,
        intermediate_size=3 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        pad_token_id=WORD_ID["<pad>"],
        bos_token_id=WORD_ID["<s>"],
        eos_token_id=WORD_ID["</s>"],
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=WORD_ID["<image>"],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    settings = model.generation_config
    settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = (WORD_ID[w] for w in ("<pad>", "<s>", "</s>"))
    return model


def build_nano_processor() -> LlavaProcessor:
    """Make its processor: a word a token, pictures as they are."""
    tokenizer = Tokenizer(models.WordLevel(WORD_ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\?"), behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", WORD_ID["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
    )
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"shortest_edge": CANVAS},
        do_center_crop=True,
        crop_size={"height": CANVAS, "width": CANVAS},
        do_rescale=True,
        do_normalize=True,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def normalise_pixels(images: Tensor) -> Tensor:
    """(B, 192, 192, 3) uint8 -> (B, 3, 192, 192) as the processor would deliver it."""
    return ((images.float() / 255 - PIXEL_MEAN) / PIXEL_STD).permute(0, 3, 1, 2).contiguous()


def sine_cosine_positions(side: int, width: int) -> Tensor:
    """(side * side, width): two-dimensional sine-cosine values, the first half of the width for rows."""
    rates = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")

    def waves(place: Tensor) -> Tensor:
        angle = place.flatten()[:, None].float() * rates
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return torch.cat([waves(rows), waves(columns)], dim=1)


@torch.no_grad()
def initialise_weights(model: LlavaForConditionalGeneration) -> None:
    """Starting values without which nothing is learned in minutes (see docs/LOG.md).

    Attention starts mimetic (arXiv 2305.09828): query and key maps are equal, so that a token first attends to tokens that look like what
    it carries; output maps are the transposed value maps. Positions of the tower start as sine-cosine values.
    """
    tower, language = model.model.vision_tower, model.model.language_model
    tower.embeddings.position_embedding.weight[1:] = 0.5 * sine_cosine_positions(GRID, tower.config.hidden_size)
    patches = tower.embeddings.patch_embedding.weight
    patches.normal_(0, 1 / math.sqrt(patches[0].numel()))
    for layer in tower.encoder.layers:
        _mimetic(layer.self_attn, layer.self_attn.out_proj, query_scale=0.7, output_scale=0.5)
    for layer in language.layers:
        _mimetic(layer.self_attn, layer.self_attn.o_proj, query_scale=1.0, output_scale=0.7)
        for linear, scale in ((layer.mlp.gate_proj, 1.0), (layer.mlp.up_proj, 1.0), (layer.mlp.down_proj, 0.3)):
            linear.weight.normal_(0, scale / math.sqrt(linear.weight.shape[1]))
    for table in (language.embed_tokens.weight, model.lm_head.weight):
        table.normal_(0, 1 / math.sqrt(table.shape[1]))
    for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        linear.weight.normal_(0, 1 / math.sqrt(linear.weight.shape[1]))
        linear.bias.zero_()


def _mimetic(attention: Any, output: nn.Linear, query_scale: float, output_scale: float) -> None:
    width = output.weight.shape[0]
    attention.q_proj.weight.normal_(0, query_scale / math.sqrt(width))
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.v_proj.weight.normal_(0, 1 / math.sqrt(width))
    output.weight.copy_(output_scale * attention.v_proj.weight.T)
