"""Which frozen model: conf/backbone."""

from __future__ import annotations

from typing import Any, Literal

from learnpruner.config.settings import Settings


class BackboneConfig(Settings):
    """Which frozen model, and how it is loaded; conf/backbone says more.

    Attributes:
        path: folder or hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of the frozen weights.
        attn_implementation: of layers that no plan watches.
        device_map: over several devices, such as auto.
        quantization: 4bit or 8bit weights, where bitsandbytes is installed.
        weights: random builds the folder's config, or `shape`, without any download, for speed and memory.
        shape: fields of a config, its `model_type` among them, and of its processor under `processor` and `images`.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    device_map: str | None = None
    quantization: Literal["4bit", "8bit"] | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    shape: dict[str, Any] | None = None
