"""What a prompt costs: visual tokens, FLOPs and KV bytes in closed form from the model's sizes.

A multiply-accumulate counts as 2 FLOPs, causal attention is not discounted, and the vision tower, the projector and
the text are included: the convention in which LLaVA-1.5-7B with 62 text tokens takes 8.88 T. L counts the language
model's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from learnpruner.backbones.dimensions import ModelDimensions
from learnpruner.backbones.registry import family_class
from learnpruner.plan import Plan


def model_dimensions(config: PreTrainedConfig) -> ModelDimensions:
    """Read the sizes that a model's cost depends on.

    Args:
        config: of a model of a known family.

    Raises:
        UserError: where no family is known for its model type.
    """
    return family_class(config.model_type).dimensions(config)


@dataclass(frozen=True)
class Flops:
    """FLOPs of one prompt's prefill up to the first token's logits."""

    vision: int
    projector: int
    llm: int
    head: int

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.llm + self.head


def layer_tokens(plan: Plan | None, patches: int, layers: int) -> tuple[int, ...]:
    """Count the visual tokens that each layer of the language model runs on, (L,); no plan keeps all."""
    plan, lengths = plan or Plan(), [patches] * layers
    for count, cut in zip(plan.counts(patches, layers), plan.cuts(layers), strict=True):
        lengths[cut:] = [count] * (layers - cut)
    return tuple(lengths)


def vision_flops(g: ModelDimensions) -> int:
    """Count every layer of the vision tower, the last one too: Hugging Face computes it and throws it away."""
    n, d = g.patches + g.cls, g.vision_width
    layer = 2 * n * (4 * d * d + g.vision_matrices * d * g.vision_mlp)
    attention = 4 * n * d * ((g.vision_layers - g.windowed) * n + g.windowed * g.window)
    return g.pieces * (2 * g.patches * g.patch_values * d + g.vision_layers * layer + attention)


def projector_flops(g: ModelDimensions, projected: int) -> int:
    """Count a projector of two layers on `projected` tokens; where patches merge, on what merged: all tokens, each time."""
    wide = g.merged * g.vision_width
    if g.merged > 1:
        return 2 * g.tokens * g.projectors * (wide * wide + wide * g.width)
    return 2 * projected * (wide * g.width + g.width * g.width)


def llm_flops(g: ModelDimensions, lengths: Sequence[int]) -> int:
    """Count decoder layers with a gated MLP, each on its own number of tokens, (L,), text included."""
    inner, kv = g.heads * g.head_width, g.kv_heads * g.head_width
    weights = 2 * (2 * g.width * inner + 2 * g.width * kv + 3 * g.width * g.mlp)
    return sum(n * weights + 4 * n * n * inner for n in lengths)


def prefill_flops(g: ModelDimensions, visual: Sequence[int], text: int, projected: int | None = None) -> Flops:
    """Count the FLOPs to the first token of one prompt.

    Args:
        g: the model's sizes.
        visual: (L,) visual tokens in each layer, see `layer_tokens`.
        text: text tokens.
        projected: visual tokens that pass the projector; those of the first layer when None.
    """
    return Flops(
        vision=vision_flops(g),
        projector=projector_flops(g, visual[0] if projected is None else projected),
        llm=llm_flops(g, [n + g.structural + text for n in visual]),
        head=2 * g.width * g.vocabulary,
    )


def kv_bytes(g: ModelDimensions, visual: Sequence[int], text: int, value_bytes: int = 2) -> int:
    """Count the bytes of keys and values held after the prefill; `value_bytes` is 2 for 16-bit types."""
    return sum(n + g.structural + text for n in visual) * 2 * g.kv_heads * g.head_width * value_bytes


def prompt_cost(
    config: PreTrainedConfig, plan: Plan | None, text: int, value_bytes: int = 2, projected: int | None = None
) -> dict[str, Any]:
    """Compare tokens, FLOPs and KV bytes of one prompt under `plan` with the unpruned model's, as a JSON-ready value."""
    g = model_dimensions(config)
    result: dict[str, Any] = {"text_tokens": text}
    for name, one in {"unpruned": Plan(), "pruned": plan or Plan()}.items():
        visual = layer_tokens(one, g.tokens, g.layers)
        flops = prefill_flops(g, visual, text, projected)
        result[name] = {
            "visual_tokens": one.tokens(g.tokens, g.layers),
            "flops": asdict(flops) | {"total": flops.total},
            "kv_bytes": kv_bytes(g, visual, text, value_bytes),
        }
    before, after = result["unpruned"], result["pruned"]
    result["ratio"] = {
        "flops": before["flops"]["total"] / after["flops"]["total"],
        "kv_bytes": before["kv_bytes"] / after["kv_bytes"],
    }
    return result
