"""One example under a plan: what the model saw, what it kept and what it answered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import Benchmark, Example, VisualInput
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.image import as_rgb
from learnpruner.evaluation.generation import attached, generate_greedy
from learnpruner.plan import Plan


@dataclass(frozen=True)
class ExampleResult:
    """One example as the model saw it.

    image: (H, W, 3) in [0, 1], the pixels that the vision tower received, or the picture where it is cut up.
    answer: the right answer, None where nobody knows it.
    kept: for each stage its name and the tokens kept, bool on the patch grid (h, w).
    """

    image: NDArray[np.float64]
    question: str
    answer: str | None
    unpruned: str
    pruned: str
    unpruned_right: bool | None
    pruned_right: bool | None
    kept: tuple[tuple[str, NDArray[np.bool_]], ...]


def stage_names(plan: Plan, layers: int) -> list[str]:
    """Name where each stage acts, in words."""
    places = [(stage.at, cut) for stage, cut in zip(plan.stages, plan.cuts(layers), strict=True)]
    return ["after the encoder" if at == "encoder" else f"from layer {cut}" for at, cut in places]


def seen(backbone: Backbone, pixel_values: torch.Tensor) -> NDArray[np.float64]:
    """Undo the normalisation of the processor's pixels: (n, 3, H, W) -> (n, H, W, 3) in [0, 1]."""
    processor = backbone.processor.image_processor
    pixels = pixel_values.float().cpu().numpy().transpose(0, 2, 3, 1)
    return np.clip(pixels * np.array(processor.image_std) + np.array(processor.image_mean), 0, 1)


def shown(image: VisualInput) -> NDArray[np.float64]:
    """Show a picture as it is, where the model cuts it up or resizes it in its own way; of a video the last frame."""
    picture = image[-1] if isinstance(image, list) else image
    return np.asarray(as_rgb(picture), dtype=np.float64) / 255


@torch.inference_mode()
def run_examples(
    backbone: Backbone,
    plan: Plan,
    examples: Sequence[Example],
    benchmark: Benchmark | None = None,
    max_new_tokens: int = 32,
) -> list[ExampleResult]:
    """Answer with and without the plan and note the kept tokens; a benchmark words and scores the questions."""
    parts = family_of(backbone.model)
    questions = [benchmark.wording(one.question) if benchmark else one.question for one in examples]
    inputs = encode_prompts(backbone, [one.image for one in examples], questions)
    unpruned, _ = generate_greedy(backbone, inputs, max_new_tokens)
    with attached(plan, backbone.model) as engine:
        pruned, _ = generate_greedy(backbone, inputs, max_new_tokens)
        kept = [[stage.cpu().numpy() for stage in engine.record.finest(i)] for i in range(len(examples))]
    names = stage_names(plan, parts.layers)
    pixels = inputs.get("pixel_values")
    if parts.features_are_placeholders and pixels is not None and pixels.ndim == 4:  # neither tiles nor frames
        images = list(seen(backbone, pixels))
    else:
        images = [shown(one.image) for one in examples]
    looks = []
    for i, one in enumerate(examples):
        looks.append(
            ExampleResult(
                image=images[i],
                question=one.question,
                answer=one.answer if benchmark else None,
                unpruned=unpruned[i],
                pruned=pruned[i],
                unpruned_right=bool(benchmark.score(unpruned[i], one)) if benchmark else None,
                pruned_right=bool(benchmark.score(pruned[i], one)) if benchmark else None,
                kept=tuple(zip(names, kept[i], strict=False)),
            )
        )
    return looks
