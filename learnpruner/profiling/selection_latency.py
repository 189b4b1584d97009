"""What choosing costs: milliseconds an image at 576 tokens of width 1024, the size of LLaVA-1.5's vision tower.

    python -m learnpruner.profiling.selection_latency --out docs/results/selection.json              two threads of an idle machine
    python -m learnpruner.profiling.selection_latency --clock cpu --threads 1                a busy one: this process's own CPU time

A random LLaVA of that width runs each method's plan once; what its pruners saw is then given to them again and again.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from learnpruner.backbones import Backbone
from learnpruner.core.budget import InfeasibleBudget
from learnpruner.engine.signal_clock import watch_signals
from learnpruner.plan import Plan
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import PrunerConfigs, load_pruner_config
from learnpruner.profiling.timing import Clock
from learnpruner.utils.argtypes import positive_int
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import write_json
from learnpruner.utils.project import CONF
from learnpruner.utils.provenance import commit, hardware, versions

KEPT_RATIO = 0.111  # 64 of 576 tokens; a plan that cannot have it is timed at the smallest budget that it can
QUESTION_TOKENS = 40  # tokens of the question
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
_log = logging.getLogger(__name__)


def make_random_llava(
    width: int = 1024, side: int = 24, layers: int = 8, tower_layers: int = 6, text: int = QUESTION_TOKENS
) -> Backbone:
    """Make a random LLaVA with side x side visual tokens of `width`, in the tower as in the LLM; shallow, to be quick."""
    patch, image_token = 14, 99
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=tower_layers,
        num_attention_heads=width // 64,
        image_size=side * patch,
        patch_size=patch,
        projection_dim=width,
    )
    language = LlamaConfig(
        vocab_size=100,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=side * side + text + 16,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=image_token, image_seq_length=side * side
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    return Backbone(model.requires_grad_(False).eval(), None, f"random LLaVA of width {width}")


def make_prompt(backbone: Backbone, text: int = QUESTION_TOKENS) -> dict[str, Tensor]:
    """Make one random picture and a question of `text` tokens."""
    generator = torch.Generator().manual_seed(0)
    size, image = backbone.model.config.vision_config.image_size, backbone.model.config.image_token_id
    words = torch.randint(3, image, (text,), generator=generator).tolist()
    row = torch.tensor([[1, *[image] * backbone.family.tokens, *words]])
    pixels = torch.randn(1, 3, size, size, generator=generator)
    return {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": pixels}


@torch.inference_mode()
def selection_cost(
    backbone: Backbone,
    plan: Plan,
    inputs: Mapping[str, Tensor],
    repeats: int = 7,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Time what an image costs, in milliseconds: `choosing` in the plan's pruners, `signals` in what they look at.

    Choosing is the median of `repeats`. Signals are computed while the model runs: theirs is the smaller of two passes.
    """
    with ExitStack() as stack:
        seen: list[Callable[[], Any]] = []
        for stage in plan.stages:
            handle = stage.pruner.register_forward_pre_hook(
                lambda pruner, args: seen.append(functools.partial(pruner.forward, *args))
            )
            stack.callback(handle.remove)
        first_pass = time_signals(backbone, plan, inputs, clock)
        second_pass = time_signals(backbone, plan, inputs, clock)
    warmup, choosing = 1, []
    for number in range(warmup + repeats):
        duration = sum(time_call(choose, clock) for choose in seen[: len(plan.stages)])
        if number >= warmup:
            choosing.append(duration)
    return {"choosing": float(median(choosing)), "signals": min(first_pass, second_pass)}


def time_signals(
    backbone: Backbone, plan: Plan, inputs: Mapping[str, Tensor], clock: Clock = time.perf_counter
) -> float:
    """Run the model once under the plan.

    Returns:
        Milliseconds spent on what its pruners asked to see.
    """
    durations: list[float] = []

    @contextmanager
    def stopwatch() -> Iterator[None]:
        start = clock()
        yield
        durations.append((clock() - start) * 1e3)

    with watch_signals(stopwatch), plan.on(backbone.model):
        backbone.model(**inputs, logits_to_keep=1)
    return sum(durations)


def time_call(run: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Time one call, in milliseconds."""
    start = clock()
    run()
    return (clock() - start) * 1e3


def build_at_smallest_feasible_budget(path: Path, backbone: Backbone, ratio: float = KEPT_RATIO) -> Plan:
    """Build the plan of a config at `ratio`, or at the smallest budget that it can have.

    A file of `weights` was measured on another backbone; what a choice costs does not depend on it.
    """
    made = load_pruner_config(path, ratio)
    for stage in made["stages"]:
        stage["pruner"] |= {key: None for key in stage["pruner"] if key == "weights"}
    try:
        return build_plan(made, backbone)
    except InfeasibleBudget as error:
        return build_plan(made | {"prune_ratio": error.smallest}, backbone)


def time_selections(
    files: Mapping[str, Path],
    backbone: Backbone | None = None,
    repeats: int = 7,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Method -> milliseconds an image in total, in choosing and in signals, and the budget that they were taken at.

    Args:
        files: method -> its config. One that the random LLaVA cannot run is left out.
        backbone: what is looked at; by default a random LLaVA of 576 tokens of width 1024.
        repeats: choices timed; the median counts.
        clock: which time is taken.
    """
    backbone = backbone or make_random_llava()
    inputs, found = make_prompt(backbone), {}
    tokens, layers = backbone.family.tokens, backbone.family.layers
    for method, path in files.items():
        try:
            plan = build_at_smallest_feasible_budget(path, backbone)
        except UserError as error:
            _log.warning("%s is not timed: %s", method, error)
            continue
        parts = selection_cost(backbone, plan, inputs, repeats, clock)
        averaged = plan.tokens(tokens, layers)["averaged"]
        found[method] = {"total": sum(parts.values()), **parts, "averaged_tokens": averaged}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the methods that the command line names, and write what was found as JSON."""
    parser = argparse.ArgumentParser(description="Time each method's choice at 576 x 1024.")
    parser.add_argument("methods", nargs="*", help="names in the folder; all of them by default")
    parser.add_argument("--folder", type=Path, default=CONF / "pruner", help="of the configs; by default the project's")
    parser.add_argument("--out", type=Path, help="JSON file; standard output by default")
    parser.add_argument("--repeats", type=positive_int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=positive_int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    known = PrunerConfigs((given.folder,)).files()
    methods = given.methods or list(known)
    missing = [method for method in methods if method not in known]
    if missing or not methods:
        parser.error(
            f"{given.folder} has no {', '.join(missing) or 'configs'}; give the project's conf/pruner, or one of your own, as --folder."
        )
    torch.set_num_threads(given.threads)
    result = {
        "unit": "milliseconds an image at 576 tokens of width 1024, batch 1",
        "command": f"python -m learnpruner.profiling.selection_latency --clock {given.clock} --threads {given.threads}",
        "clock": given.clock,
        "hardware": hardware(),
        "commit": commit(),
        "versions": versions(),
        "methods": time_selections(
            {method: known[method] for method in methods}, repeats=given.repeats, clock=CLOCKS[given.clock]
        ),
    }
    if given.out is None:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        write_json(result, given.out)


if __name__ == "__main__":
    main()
