"""A random LLaVA of a few hundred thousand parameters as a folder that plain AutoModel and AutoProcessor load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from learnpruner.data.scenes import CANVAS
from learnpruner.nano.model import build_nano_processor


def tiny_folder(path: Path, width: int = 32, side: int = 8, layers: int = 8, seed: int = 0) -> Path:
    """The embedded backbone's processor over ``side`` x ``side`` patches; weights are scaled so that tokens matter."""
    processor = build_nano_processor()
    processor.patch_size = CANVAS // side
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=CANVAS // side,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=processor.tokenizer.pad_token_id,
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=processor.image_token_id,
        image_seq_length=side * side,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
