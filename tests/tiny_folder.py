"""A random LLaVA of a few thousand parameters as a folder that plain AutoModel and AutoProcessor load, for tests of the whole program."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from learnpruner.data.scenes import COLOR_NAMES, COLUMNS, ROWS, SHAPES, TEXTURES

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
WORDS = (
    "USER : ASSISTANT ? yes no is are there a the what where how many color number shape on object objects marked of above left right"
    " background same both sides squares circles triangles diamonds"
).split()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    words = [*special, *WORDS, *COLOR_NAMES, *COLUMNS, *ROWS, *SHAPES, *TEXTURES, *"0123456789"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def tiny_folder(path: Path, width: int = 32, side: int = 8, layers: int = 8, patch: int = 24, seed: int = 0) -> Path:
    """Writes the folder: ``side`` x ``side`` patches, tower width ``width``, an LLM of ``layers`` layers; returns the path."""
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=4,
        image_size=side * patch, patch_size=patch, projection_dim=width,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=image_token, image_seq_length=side * side
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    image_processor = CLIPImageProcessorPil(
        size={"height": side * patch, "width": side * patch},
        do_center_crop=False,
        crop_size={"height": side * patch, "width": side * patch},
    )
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=patch, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
