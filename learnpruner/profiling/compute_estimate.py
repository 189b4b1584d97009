"""How long a training and an evaluation take on GPUs, computed from FLOPs and bytes; nothing here is measured.

    python -m learnpruner.profiling.compute_estimate                                   LLaVA-1.5-7B on eight A100
    python -m learnpruner.profiling.compute_estimate --backbone llava_next_7b --gpus 1 --peak 989 --bandwidth 3350      one H100

A GPU is taken to reach the share `--mfu` of its peak in a prefill or a training step, and to read its weights once for
each further token of a batch. Reading images, start-up and uneven work of the GPUs come on top.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from omegaconf import OmegaConf

from learnpruner.backbones import load_backbone
from learnpruner.backbones.dimensions import ModelDimensions
from learnpruner.core.budget import budgets
from learnpruner.evaluation import table_format
from learnpruner.profiling.flops import llm_flops, model_dimensions, prefill_flops, projector_flops, vision_flops
from learnpruner.utils.argtypes import non_negative_int, positive_float, positive_int, unit_fraction
from learnpruner.utils.project import CONF

_RATIOS = (1.0, 0.2222, 0.1111, 0.0556)  # the unpruned model and the paper's 128, 64, 32 of 576 tokens
BENCHMARK_SIZES = {  # questions of each benchmark, in the paper's order
    "gqa": 12_578,
    "scienceqa": 2_017,
    "textvqa": 5_000,
    "pope": 9_000,
    "mme": 2_374,
    "vqav2": 214_354,
    "mmbench": 4_329,
    "mmbench_cn": 4_329,
}


@dataclass(frozen=True)
class GpuCluster:
    """GPUs that work together, and how much of them is reached.

    Args:
        gpus: of them.
        peak: FLOP a second of one.
        mfu: share of it that is reached.
        bandwidth: bytes a second of one.
    """

    gpus: int = 8
    peak: float = 312e12
    mfu: float = 0.35
    bandwidth: float = 2.0e12

    def minutes(self, flops: float, read: float = 0.0) -> float:
        """Estimate the minutes for so many FLOPs and bytes of weights read on all GPUs together."""
        return (flops / (self.peak * self.mfu) + read / self.bandwidth) / self.gpus / 60


@dataclass(frozen=True)
class PromptSizes:
    """Lengths of a prompt, in tokens.

    Args:
        text: tokens of a question.
        answer: tokens of an answer.
        questions: of an image in training, rows of their own.
    """

    text: int = 62
    answer: int = 8
    questions: int = 4


def visual_tokens_per_layer(g: ModelDimensions, ratio: float) -> list[int]:
    """Count the visual tokens of each layer, (L,), under LearnPruner: 3 : 1, the second stage at 12/32 of the layers."""
    cut = max(1, round(12 * g.layers / 32))
    first, second = budgets(ratio, g.tokens, g.layers, [(0, 3.0), (cut, 1.0)])
    return [first] * cut + [second] * (g.layers - cut)


def train_step_flops(g: ModelDimensions, ratio: float, prompts: PromptSizes, pool: int) -> int:
    """Count the FLOPs of one image of a training step.

    The vision tower runs once. The unpruned model reads the image once and all questions behind it. The pruned one reads
    each question on a row of its own, with the tokens kept at its input and `pool` of the dropped ones in all layers, and
    goes back over it at the cost of another forward pass: the frozen weights get no gradient.
    """
    each = prompts.text + prompts.answer
    teacher = llm_flops(g, [g.tokens + g.structural + prompts.questions * each] * g.layers)
    row = min(g.tokens, visual_tokens_per_layer(g, ratio)[0] + pool) + g.structural + each
    student = 2 * prompts.questions * llm_flops(g, [row] * g.layers)
    heads = 3 * 2 * prompts.questions * prompts.answer * g.width * g.vocabulary
    return vision_flops(g) + 2 * projector_flops(g, g.tokens) + teacher + student + heads


def evaluation_minutes(
    g: ModelDimensions,
    weight_bytes: float,
    samples: int,
    ratio: float,
    machine: GpuCluster,
    prompts: PromptSizes,
    batch: int,
) -> float:
    """Estimate the minutes of a benchmark under one plan: prefills, and weights read for each further token of a batch."""
    prefill = prefill_flops(g, visual_tokens_per_layer(g, ratio), prompts.text).total
    return machine.minutes(samples * prefill, samples / batch * (prompts.answer - 1) * weight_bytes)


def estimate_table(
    g: ModelDimensions,
    weight_bytes: float,
    machine: GpuCluster,
    prompts: PromptSizes,
    images: int,
    batch: int,
    pool: int,
) -> table_format.Table:
    """Build a row of training and one a benchmark; a column a budget."""
    minutes: dict[str, Sequence[float | None]] = {
        name: [evaluation_minutes(g, weight_bytes, count, ratio, machine, prompts, batch) for ratio in _RATIOS]
        for name, count in BENCHMARK_SIZES.items()
    }
    minutes["all eight"] = [sum(column) for column in zip(*minutes.values(), strict=True)]
    training = [None, *(machine.minutes(images * train_step_flops(g, ratio, prompts, pool)) for ratio in _RATIOS[1:])]
    rows = [(f"training on {images:,} images", training, 0), *((name, found, 1) for name, found in minutes.items())]

    def column(number: int) -> table_format.Column:
        kept = f"{round(_RATIOS[number] * g.tokens)} of {g.tokens}" if _RATIOS[number] < 1 else "unpruned"
        return table_format.Column(kept, lambda row: table_format.decimal(row[1][number], row[2]))

    return table_format.build_table(
        [table_format.Column("minutes", itemgetter(0)), *map(column, range(len(_RATIOS)))], rows
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimate, as the command line says."""
    parser = argparse.ArgumentParser(description="Hours of training and evaluation, computed.")
    parser.add_argument("--backbone", default="llava15_7b", help="a name in conf/backbone")
    parser.add_argument("--gpus", type=positive_int, default=GpuCluster.gpus)
    parser.add_argument(
        "--peak", type=positive_float, default=GpuCluster.peak / 1e12, help="TFLOP/s of one GPU in bfloat16"
    )
    parser.add_argument(
        "--bandwidth", type=positive_float, default=GpuCluster.bandwidth / 1e9, help="GB/s of one GPU's memory"
    )
    parser.add_argument("--mfu", type=unit_fraction, default=GpuCluster.mfu, help="share of the peak that is reached")
    parser.add_argument(
        "--images", type=positive_int, default=64_000, help="of the training, about a tenth of LLaVA-665K"
    )
    parser.add_argument("--text", type=positive_int, default=PromptSizes.text, help="text tokens of a question")
    parser.add_argument("--answer", type=positive_int, default=PromptSizes.answer, help="tokens of an answer")
    parser.add_argument("--questions", type=positive_int, default=PromptSizes.questions, help="of an image in training")
    parser.add_argument("--batch", type=positive_int, default=8, help="questions answered together")
    parser.add_argument("--pool", type=non_negative_int, default=32, help="dropped tokens of a row in training")
    given = parser.parse_args(arguments)
    path = CONF / "backbone" / f"{given.backbone}.yaml"
    if not path.is_file():
        parser.error(f"{path} does not exist; name a config of conf/backbone, in a checkout of the project.")
    shape = OmegaConf.to_container(OmegaConf.load(path)).get("shape")  # type: ignore[union-attr]
    model = load_backbone(given.backbone, dtype="bfloat16", device="meta", weights="random", shape=shape).model
    machine = GpuCluster(given.gpus, given.peak * 1e12, given.mfu, given.bandwidth * 1e9)
    prompts = PromptSizes(given.text, given.answer, given.questions)
    weight_bytes = sum(2 * p.numel() for p in model.parameters())
    cells = estimate_table(
        model_dimensions(model.config), weight_bytes, machine, prompts, given.images, given.batch, given.pool
    )
    print(table_format.markdown_table(cells))


if __name__ == "__main__":
    main()
