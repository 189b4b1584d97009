"""train.py and eval.py as a user starts them, on the embedded backbone."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from on_gpu.report import Report, must

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = 0.02  # share of the shipped plan's questions that may be answered otherwise on another device
RUNS = {
    "mixed": (),  # as it comes, in bf16 where the GPU computes in it
    "fp32": ("trainer.precision=32-true",),
    "bfloat16": ("backbone.dtype=bfloat16",),
    "float16": ("backbone.dtype=float16",),
    "eager": ("relaxation=soft_topk", "backbone.attn_implementation=eager"),
    "relative": ("pruner=dynamic_llava",),
    "lora": ("adapter=lora",),
    "eviction": ("experiment=kv", "benchmark.limit=2", "benchmark.budgets=[128]", "data.questions_per_image=4"),
}


def run(script: str, folder: Path, *settings: str) -> tuple[dict[str, Any], str]:
    """What results.json says, and what was printed; raises with the end of it where the program fails."""
    words = [sys.executable, script, f"hydra.run.dir={folder}", *settings]
    done = subprocess.run(
        words,
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ | {"HYDRA_FULL_ERROR": "1", "WANDB_MODE": "disabled"},
    )
    must(done.returncode == 0, f"{' '.join(words[1:])} ended with {done.returncode}: {done.stderr[-2500:]}")
    return json.loads((folder / "results.json").read_text()), done.stdout


def training(report: Report, device: str, quick: bool, name: str) -> None:
    """A few steps of one way to train, exported and evaluated; every loss is finite."""
    kind, steps, batch = ("gpu", 12, 4) if device.startswith("cuda") else ("cpu", 2, 2)
    with report.case(name) as found, tempfile.TemporaryDirectory() as place:
        size = [
            f"trainer={kind}",
            f"trainer.max_steps={steps}",
            f"data.images_per_batch={batch}",
            "trainer.log_every_n_steps=1",
        ]
        size += ["logger=csv", "publish_export=false", "benchmark.limit=14", "benchmark.baselines_to_run=[]"]
        result, _ = run("train.py", Path(place) / "run", *size, *RUNS[name])
        found["losses"] = losses(Path(place) / "run")
        found["retention"] = result.get("retention")
        must(len(found["losses"]) > 0, "no loss was logged")
        must(all(map(math.isfinite, found["losses"])), "a loss is not finite")


def losses(folder: Path) -> list[float]:
    """The losses of a run's metrics, in order."""
    (file,) = folder.rglob("metrics.csv")
    rows: list[Mapping[str, str]] = list(csv.DictReader(file.open()))
    names = [name for name in rows[0] if name.split("/")[-1] in ("loss", "train_loss")]
    return [float(row[name]) for row in rows for name in names if row[name]]


def shipped(report: Report, device: str, quick: bool) -> None:
    """The plan that ships answers on the device as on a CPU, in fp32, and nearly so in bfloat16."""
    size = ["plan=checkpoints/nano-r0.055", "benchmark.baselines_to_run=[]", f"benchmark.limit={14 if quick else 70}"]
    with tempfile.TemporaryDirectory() as place:
        expected: dict[str, Any] = {}
        for name, settings in {
            "cpu": ["device=cpu"],
            "fp32": [f"device={device}"],
            "bfloat16": [f"device={device}", "backbone.dtype=bfloat16"],
        }.items():
            with report.case(name) as found:
                result, _ = run("eval.py", Path(place) / name, *size, *settings)
                found |= {key: result[key] for key in ("accuracy", "unpruned", "retention")}
                expected = expected or found
                for key in ("accuracy", "unpruned"):
                    found[f"{key}: apart"] = abs(found[key]["mean"] - expected[key]["mean"])
                    must(found[f"{key}: apart"] <= ANSWERS * (1 if name != "bfloat16" else 2), f"{key} differs")
