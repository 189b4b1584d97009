"""Tiny random models for tests: seconds to build, weights scaled so that a wrong mask shows in the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

PAD, BOS, EOS, IMAGE, VOCABULARY = 0, 1, 2, 120, 128
SIDE = 6  # patches a side
TOKENS = SIDE * SIDE
WIDTH, LAYERS, HEADS = 32, 6, 4


def tiny_llava(
    layers: int = LAYERS,
    seed: int = 0,
    side: int = SIDE,
    width: int = WIDTH,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    **text: Any,
) -> Any:
    """A LLaVA of side x side visual tokens a picture of side * 8 pixels; frozen, in evaluation mode."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=64, num_hidden_layers=3, num_attention_heads=HEADS, image_size=side * 8,
        patch_size=8, projection_dim=32,
    )  # fmt: skip
    language = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            **text,
        }
    )
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_id=IMAGE, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_seq_length=side * side,
    )  # fmt: skip
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration(config)
    _sharpen(model)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None  # answers are as long as asked for
    model.generation_config.pad_token_id = PAD
    return model.requires_grad_(False).eval().to(dtype)


@torch.no_grad()
def _sharpen(model: torch.nn.Module) -> None:
    """Random weights attend almost evenly; larger ones make attention choose and logits differ."""
    factors = {"q_proj": 6, "k_proj": 6, "v_proj": 4, "o_proj": 4, "mlp": 4, "embed_tokens": 8, "lm_head": 8}
    for name, weight in model.named_parameters():
        if "language_model" in name or "lm_head" in name:
            for part, factor in factors.items():
                if part in name and weight.dim() == 2:
                    weight.mul_(factor)
        elif "projector" in name:
            weight.mul_(6)
        elif "vision" in name and weight.dim() == 2:
            weight.mul_(4)


def ids(images: int = 1, before: int = 3, after: int = 6, seed: int = 0, tokens: int = TOKENS) -> list[int]:
    """A prompt: BOS, then `before` words and an image each time, then `after` words."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(3, 110, (count,), generator=generator).tolist()

    row = [BOS]
    for _ in range(images):
        row += words(before) + [IMAGE] * tokens
    return row + words(after)


def batch(rows: list[list[int]], side: str = "left") -> dict[str, Tensor]:
    """Rows padded to one length: input_ids and attention_mask."""
    length = max(map(len, rows))
    padded = [[PAD] * (length - len(r)) + r if side == "left" else r + [PAD] * (length - len(r)) for r in rows]
    mask = [
        [0] * (length - len(r)) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * (length - len(r))
        for r in rows
    ]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def pixels(count: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Random pictures: (count, 3, side * 8, side * 8)."""
    return torch.randn(count, 3, side * 8, side * 8, generator=torch.Generator().manual_seed(seed))


def inputs(rows: list[list[int]], side: str = "left", seed: int = 0) -> dict[str, Tensor]:
    """A whole batch with its pictures, in order."""
    count = sum(row.count(IMAGE) for row in rows) // TOKENS
    found = batch(rows, side)
    return {**found, "pixel_values": pixels(count, seed)} if count else found
