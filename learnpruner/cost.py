"""What a prompt costs: visual tokens, FLOPs and KV bytes in closed form from the model's sizes.

A multiply-accumulate counts as 2 FLOPs, causal attention is not discounted, and the vision tower, the projector and
the text are included: the convention in which LLaVA-1.5-7B with 62 text tokens takes 8.88 T. L counts the language
model's layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from learnpruner.plan import Plan


@dataclass(frozen=True)
class Geometry:
    """The sizes of a LLaVA-like model that its cost depends on."""

    patches: int  # of one image; the vision tower sees one position more, [CLS]
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

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Geometry":
        """Read the sizes from a LLaVA config."""
        if config.model_type != "llava":
            raise ValueError(f"The closed form of the cost covers model type 'llava', not {config.model_type!r}.")
        vision, text = config.vision_config, config.get_text_config()
        heads = text.num_attention_heads
        return cls(
            patches=(vision.image_size // vision.patch_size) ** 2,
            patch_values=vision.num_channels * vision.patch_size**2,
            vision_layers=vision.num_hidden_layers,
            vision_width=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            mlp=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )


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


def vision_flops(g: Geometry) -> int:
    """Every layer of the vision tower, the last one too: Hugging Face computes it and throws it away."""
    n, d = g.patches + 1, g.vision_width
    layer = 2 * n * (4 * d * d + 2 * d * g.vision_mlp) + 4 * n * n * d
    return 2 * g.patches * g.patch_values * d + g.vision_layers * layer


def projector_flops(g: Geometry, projected: int) -> int:
    """A two-layer projector on `projected` tokens."""
    return 2 * projected * (g.vision_width * g.width + g.width * g.width)


def llm_flops(g: Geometry, lengths: Sequence[int]) -> int:
    """Decoder layers with a gated MLP, each on its own number of tokens, text included."""
    inner, kv = g.heads * g.head_width, g.kv_heads * g.head_width
    weights = 2 * (2 * g.width * inner + 2 * g.width * kv + 3 * g.width * g.mlp)
    return sum(n * weights + 4 * n * n * inner for n in lengths)


def prefill_flops(g: Geometry, visual: Sequence[int], text: int, projected: int | None = None) -> Flops:
    """FLOPs to the first token of one prompt.

    Args:
        visual: (L,) visual tokens in each layer, see `layer_tokens`.
        text: text tokens.
        projected: visual tokens that pass the projector; those of the first layer when None.
    """
    return Flops(
        vision=vision_flops(g),
        projector=projector_flops(g, visual[0] if projected is None else projected),
        llm=llm_flops(g, [n + text for n in visual]),
        head=2 * g.width * g.vocabulary,
    )


def kv_bytes(g: Geometry, visual: Sequence[int], text: int, value_bytes: int = 2) -> int:
    """Bytes of keys and values held after the prefill; `value_bytes` is 2 for 16-bit types."""
    return sum(n + text for n in visual) * 2 * g.kv_heads * g.head_width * value_bytes


def closed_form(
    config: PreTrainedConfig, plan: Plan | None, text: int, value_bytes: int = 2, projected: int | None = None
) -> dict[str, Any]:
    """Tokens, FLOPs and KV bytes of one prompt under `plan`, beside the unpruned model's, as a JSON-ready value."""
    g = Geometry.of(config)
    result: dict[str, Any] = {"text_tokens": text}
    for name, one in {"unpruned": Plan(), "pruned": plan or Plan()}.items():
        visual = layer_tokens(one, g.patches, g.layers)
        flops = prefill_flops(g, visual, text, projected)
        result[name] = {
            "visual_tokens": one.tokens(g.patches, g.layers),
            "flops": asdict(flops) | {"total": flops.total},
            "kv_bytes": kv_bytes(g, visual, text, value_bytes),
        }
    before, after = result["unpruned"], result["pruned"]
    result["ratio"] = {
        "flops": before["flops"]["total"] / after["flops"]["total"],
        "kv_bytes": before["kv_bytes"] / after["kv_bytes"],
    }
    return result


def counted_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products, convolutions and attention that `run` executes.

    Attention is routed to the math kernel: PyTorch's counter has no formula for the CPU's fused one and counts zero.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
