"""Where a number comes from: versions, commit, command and hardware."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from learnpruner.utils.privacy import command_line


def command() -> str:
    """Tell how this program was called, without where its folder and the files that it names lie."""
    told = [word for word in sys.argv[1:] if not word.startswith("hydra.")]
    return command_line(["python", Path(sys.argv[0]).name, *told])


def commit() -> str | None:
    """Find the commit of the source tree that this package runs from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """List what the export was made with."""
    found = {"python": platform.python_version()}
    for name in ("learnpruner", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def processor() -> str:
    """Name the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def hardware() -> dict[str, Any]:
    """List what a time depends on."""
    return {"processor": processor(), "threads": torch.get_num_threads()}


def machine(model: Any) -> dict[str, Any]:
    """List what a time depends on, and the most memory that this process has held so far."""
    return {
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "host_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def device_name(device: torch.device) -> str:
    """Name the GPU, or the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def provenance() -> dict[str, Any]:
    """Tell where numbers come from: versions, command, commit and hardware, as results hold them."""
    return {"versions": versions(), "command": command(), "commit": commit(), "hardware": hardware()}
