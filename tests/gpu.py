"""Every check that needs a GPU, each in a process of its own, into one JSON that is written anew after each. Not part of the suite.

python tests/gpu.py OUT.json                         within 8 minutes on one H100 or H200
python tests/gpu.py OUT.json --device cpu --quick    the same paths in small; on a CPU it shows that they run, and no more
python tests/gpu.py OUT.json --only speed_llava15_7b waits

What needs no clock runs side by side, first; timings follow, alone on the device. A check that fails, crashes or outlasts its seconds is
recorded, with its trace, and the others go on. The exit code is the number of checks that are not as they must be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "backbones")]
FAMILIES = ("llava", "llava_next", "llava_onevision", "video_llava", "qwen2_5_vl", "qwen3_vl", "llava_next_mistral")
TRAININGS = ("mixed", "fp32", "bfloat16", "float16", "eager", "relative", "lora", "eviction")
PACKAGES = "torch torchvision triton transformers tokenizers lightning peft accelerate hydra-core numpy safetensors datasets wandb".split()


@dataclass(frozen=True)
class Check:
    """A function of a module of tests/on_gpu with its arguments. limit: seconds. alone: nothing else runs meanwhile."""

    place: str
    arguments: tuple[str, ...] = ()
    limit: float = 150
    alone: bool = False

    def __call__(self, report: Any, device: str, quick: bool) -> None:
        module, function = self.place.split(".")
        getattr(import_module(f"on_gpu.{module}"), function)(report, device, quick, *self.arguments)


CHECKS = {  # the most important first
    **{f"parity_{family}": Check("parity.family", (family,)) for family in FAMILIES},
    "parity_methods": Check("parity.methods"),
    "waits": Check("waits.waits"),
    "precision": Check("precision.precision"),
    "threads": Check("serving.threads"),
    "memory": Check("serving.memory"),
    "placement": Check("serving.placement"),
    "shipped": Check("programs.shipped"),
    **{f"train_{name}": Check("programs.training", (name,), 150) for name in TRAININGS},
    "static": Check("serving.static", limit=150),
    "compiled": Check("serving.compiled", limit=150),
    "speed_llava15_7b": Check("speed.speed", ("llava15_7b",), 150, alone=True),
    "speed_llava_next_7b": Check("speed.speed", ("llava_next_7b",), 150, alone=True),
    "train_step_llava15_7b": Check("speed.train_step", ("llava15_7b",), 90, alone=True),
}


def main() -> None:
    asked = arguments()
    if asked.check is not None:
        worker(asked)
        return
    start, names = time.monotonic(), asked.only or list(CHECKS)
    result = {
        "command": " ".join(["python", "tests/gpu.py", *sys.argv[1:]]).replace(str(asked.out), asked.out.name),
        "commit": asked.commit or commit(),
        "device": device_name(asked.device),
        "cpus": os.cpu_count(),
        "versions": versions(),
        "budget_seconds": asked.budget,
        "checks": {},
    }
    for name, found in carried_out(names, asked, start + asked.budget):
        result["checks"][name] = found
        result["failed"] = [key for key, one in result["checks"].items() if not one["ok"]]
        result["seconds"] = round(time.monotonic() - start, 1)
        write(asked.out, result)
        bad = [case for case, one in found["cases"].items() if not one["ok"]]
        print(f"{result['seconds']:6.1f} s  {name}: {'ok' if found['ok'] else 'FAILED'} {' '.join(bad)}", flush=True)
    sys.exit(min(100, len(result["failed"])))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few cases")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--only", nargs="*", choices=CHECKS, help="these checks")
    parser.add_argument(
        "--side-by-side", type=int, default=max(1, 3 * (os.cpu_count() or 1) // 4), help="at once at most"
    )
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)  # what a process of its own is started with
    return parser.parse_args()


def carried_out(names: Iterable[str], asked: argparse.Namespace, end: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each check's result as it ends."""
    together = [name for name in names if not CHECKS[name].alone]
    alone = [name for name in names if CHECKS[name].alone]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.side_by_side) as pool:
        jobs = {pool.submit(process, name, asked, end, Path(folder)): name for name in together}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
        for name in alone:
            yield name, process(name, asked, end, Path(folder))


def process(name: str, asked: argparse.Namespace, end: float, folder: Path) -> dict[str, Any]:
    """One check in a process of its own: a fault of the GPU ends the process that met it, and no other."""
    part, log, start = folder / f"{name}.json", folder / f"{name}.log", time.monotonic()
    seconds = min(CHECKS[name].limit, end - start)
    if seconds < 2:
        return {"ok": False, "error": "no time was left for it", "seconds": 0.0, "cases": {}}
    command = [sys.executable, __file__, str(part), "--check", name, "--device", asked.device]
    with log.open("w") as out:
        child = subprocess.Popen(
            command + ["--quick"] * asked.quick, stdout=out, stderr=out, cwd=ROOT, start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            child.wait(seconds)
            error = f"exit code {child.returncode}" if child.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            error = f"not done within {seconds:.0f} s"
    cases = json.loads(part.read_text()) if part.exists() else {}
    found = {
        "ok": error is None and bool(cases) and all(case["ok"] for case in cases.values()),
        "seconds": round(time.monotonic() - start, 1),
        "cases": cases,
    }
    return found | ({"error": error, "log": log.read_text(errors="replace")[-4000:]} if error else {})


def worker(asked: argparse.Namespace) -> None:
    """One check, in this process."""
    import torch
    import transformers
    from on_gpu.report import Report

    transformers.logging.set_verbosity_error()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    CHECKS[asked.check](Report(asked.out), asked.device, asked.quick)


def write(path: Path, result: dict[str, Any]) -> None:
    """The whole of it or what was there before, without this machine's folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    text = json.dumps(result, indent=1, allow_nan=False)
    for folder in sorted({str(ROOT), *map(os.path.abspath, filter(None, sys.path))}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    beside.write_text(text + "\n")
    beside.replace(path)


def commit() -> str | None:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or None


def device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return platform.processor() or platform.machine()
    words = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not known: {error}"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


if __name__ == "__main__":
    main()
