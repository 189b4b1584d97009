"""What a prompt costs: visual tokens, FLOPs and KV bytes in closed form from the model's sizes.

A multiply-accumulate counts as 2 FLOPs, causal attention is not discounted, and the vision tower, the projector and
the text are included: the convention in which LLaVA-1.5-7B with 62 text tokens takes 8.88 T. L counts the language
model's layers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from learnpruner.backbones import llava_next, qwen2_5_vl
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError


@dataclass(frozen=True)
class ModelDimensions:
    """The sizes of a model that its cost depends on, and those of one image, as large as its family counts its tokens."""

    patches: int  # of one piece of the image: of all of it, or of a tile
    patch_values: int  # numbers in a patch of pixels
    vision_layers: int
    vision_width: int
    vision_mlp: int
    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tokens: int  # visual tokens of the image
    structural: int = 0  # placeholders beside them that always stay: line breaks
    pieces: int = 1
    cls: int = 1  # positions that the vision tower sees beside the patches of a piece
    vision_matrices: int = 2  # of an MLP in the tower; 3 with a gate
    windowed: int = 0  # layers of the tower whose attention stays inside windows
    window: int = 0  # patches of a window
    merged: int = 1  # patches that make a token on their way into the projector
    projectors: int = 1  # beside the tower's end, some models project from layers within

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "ModelDimensions":
        """Read the sizes from a model's config."""
        text: Any = config.get_text_config()
        heads = text.num_attention_heads
        language = {
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "mlp": text.intermediate_size,
            "heads": heads,
            "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
            "head_width": getattr(text, "head_dim", None) or text.hidden_size // heads,
            "vocabulary": text.vocab_size,
        }
        if config.model_type in ("llava", "llava_next", "llava_onevision", "video_llava"):
            return cls(**language, **_squares(config))
        if config.model_type in ("qwen2_5_vl", "qwen3_vl"):
            return cls(**language, **_patches(config))
        raise UserError(f"The closed form of the cost does not cover model type {config.model_type!r}.")


def _squares(config: Any) -> dict[str, int]:
    """Square pieces through a tower and a projector of two layers; with tiles, the base image and 2 x 2 of them."""
    vision, tiled = config.vision_config, config.model_type in ("llava_next", "llava_onevision")
    rows, pieces = vision.image_size // vision.patch_size, llava_next.QUOTED_TILES if tiled else 1
    return {
        "patches": rows**2,
        "patch_values": vision.num_channels * vision.patch_size**2,
        "vision_layers": vision.num_hidden_layers,
        "vision_width": vision.hidden_size,
        "vision_mlp": vision.intermediate_size,
        "tokens": pieces * rows**2,
        "structural": 2 * rows if tiled else 0,
        "pieces": pieces,
        "cls": 0 if config.model_type == "llava_onevision" else 1,
    }


def _patches(config: Any) -> dict[str, int]:
    """One image of any size, four patches a token; Qwen2.5-VL attends inside windows but for a few layers."""
    vision, windows = config.vision_config, config.model_type == "qwen2_5_vl"
    rows = qwen2_5_vl.QUOTED_SIDE // (vision.patch_size * vision.spatial_merge_size) * vision.spatial_merge_size
    merged = vision.spatial_merge_size**2
    return {
        "patches": rows**2,
        "patch_values": vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        "vision_layers": vision.depth,
        "vision_width": vision.hidden_size,
        "vision_mlp": vision.intermediate_size,
        "tokens": rows**2 // merged,
        "cls": 0,
        "vision_matrices": 3 if windows else 2,
        "windowed": vision.depth - len(vision.fullatt_block_indexes) if windows else 0,
        "window": (vision.window_size // vision.patch_size) ** 2 if windows else 0,
        "merged": merged,
        "projectors": 1 if windows else 1 + len(vision.deepstack_visual_indexes),
    }


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
    """Visual tokens that each layer of the language model runs on, (L,); no plan keeps all."""
    plan, lengths = plan or Plan(), [patches] * layers
    for count, cut in zip(plan.counts(patches, layers), plan.cuts(layers), strict=True):
        lengths[cut:] = [count] * (layers - cut)
    return tuple(lengths)


def vision_flops(g: ModelDimensions) -> int:
    """Every layer of the vision tower, the last one too: Hugging Face computes it and throws it away."""
    n, d = g.patches + g.cls, g.vision_width
    layer = 2 * n * (4 * d * d + g.vision_matrices * d * g.vision_mlp)
    attention = 4 * n * d * ((g.vision_layers - g.windowed) * n + g.windowed * g.window)
    return g.pieces * (2 * g.patches * g.patch_values * d + g.vision_layers * layer + attention)


def projector_flops(g: ModelDimensions, projected: int) -> int:
    """A projector of two layers on `projected` tokens; where patches merge, on what merged: all tokens, each time."""
    wide = g.merged * g.vision_width
    if g.merged > 1:
        return 2 * g.tokens * g.projectors * (wide * wide + wide * g.width)
    return 2 * projected * (wide * g.width + g.width * g.width)


def llm_flops(g: ModelDimensions, lengths: Sequence[int]) -> int:
    """Decoder layers with a gated MLP, each on its own number of tokens, text included."""
    inner, kv = g.heads * g.head_width, g.kv_heads * g.head_width
    weights = 2 * (2 * g.width * inner + 2 * g.width * kv + 3 * g.width * g.mlp)
    return sum(n * weights + 4 * n * n * inner for n in lengths)


def prefill_flops(g: ModelDimensions, visual: Sequence[int], text: int, projected: int | None = None) -> Flops:
    """FLOPs to the first token of one prompt.

    Args:
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
    """Bytes of keys and values held after the prefill; `value_bytes` is 2 for 16-bit types."""
    return sum(n + g.structural + text for n in visual) * 2 * g.kv_heads * g.head_width * value_bytes


def prompt_cost(
    config: PreTrainedConfig, plan: Plan | None, text: int, value_bytes: int = 2, projected: int | None = None
) -> dict[str, Any]:
    """Tokens, FLOPs and KV bytes of one prompt under `plan`, beside the unpruned model's, as a JSON-ready value."""
    g = ModelDimensions.of(config)
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
