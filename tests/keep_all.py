"""What the engine costs by itself, in this checkout and in another: python tests/keep_all.py OTHER [--rounds 3]. Not part of the suite.

CPU time of a prompt and eight new tokens on the embedded backbone, unpruned and with a plan that keeps all tokens, one after
the other in one process on one thread; checkouts take turns. CPU time, since other work on the machine does not count in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEASURES = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    for _ in range(asked.rounds):
        for checkout in (asked.other.resolve(), ROOT):
            words = [sys.executable, __file__, "--measure", str(asked.batch)]
            environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(words, cwd=checkout, env=environment, text=True, capture_output=True, check=True)
            print(f"{'this checkout' if checkout == ROOT else 'the other'}: {done.stdout.strip()}", flush=True)


def measure(batch: int) -> str:
    """Medians in the checkout that is first on the path."""
    import torch

    import learnpruner
    from learnpruner.backbones import load_backbone

    torch.set_num_threads(1)
    backbone = load_backbone("checkpoints/nano-llava")
    model, plan = backbone.model, learnpruner.load("checkpoints/nano-r0.055", prune_ratio=1.0)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[1, *[model.config.image_token_id] * backbone.family.tokens, 5, 6, 7, 8, 9, 10]])
    side = model.config.vision_config.image_size
    inputs = {"input_ids": ids.expand(batch, -1), "attention_mask": torch.ones(batch, ids.shape[1], dtype=torch.long)}
    inputs["pixel_values"] = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))

    def seconds() -> float:
        start = time.process_time()
        model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return time.process_time() - start

    unpruned, kept = [], []
    for _ in range(MEASURES + 2):  # the first two warm up
        unpruned.append(seconds())
        with plan.on(model):
            kept.append(seconds())
    a, b = (1000 * statistics.median(times[2:]) for times in (unpruned, kept))
    return f"unpruned {a:.1f} ms, keep all {b:.1f} ms, {b / a:.3f} times"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measure(int(sys.argv[2])))
    else:
        main()
