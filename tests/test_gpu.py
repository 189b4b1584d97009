"""tests/gpu.py without a GPU: its checks run in small, and what fails is recorded while the others go on."""

import json
import subprocess
import sys
from pathlib import Path

import gpu
from on_gpu.report import Report

PROGRAM = Path(gpu.__file__)


def run(out, *arguments):
    words = [sys.executable, str(PROGRAM), str(out), "--device", "cpu", "--quick", *arguments]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, json.loads(out.read_text())


def test_a_check_runs_in_small_on_a_cpu_and_says_what_it_was(tmp_path):
    code, result = run(tmp_path / "folder" / "gpu.json", "--only", "memory", "--commit", "abc")
    assert code == 0 and result["failed"] == [] and result["commit"] == "abc"
    assert result["versions"]["torch"] and result["device"]
    assert result["command"].startswith("python tests/gpu.py gpu.json --device cpu")
    assert list(result["checks"]["memory"]["cases"]) == ["flat over attachments", "peak of a prefill"]


def test_a_check_that_cannot_run_or_has_no_time_left_is_recorded_and_the_next_goes_on(tmp_path):
    code, result = run(tmp_path / "gpu.json", "--only", "memory", "waits", "--budget", "3", "--side-by-side", "1")
    assert str(PROGRAM.parents[1]) not in json.dumps(result)
    assert code == 2 and result["failed"] == ["memory", "waits"]
    assert {one["error"][:12] for one in result["checks"].values()} <= {"not done wit", "no time was "}


def test_a_case_that_raises_leaves_its_trace_and_what_it_found_so_far(tmp_path):
    report = Report(tmp_path / "part.json")
    with report.case("raises") as found:
        found["seen"] = float("nan")
        raise RuntimeError("device-side assert")
    with report.case("next") as found:
        found["seen"] = 1.0
    first, second = json.loads(report.path.read_text()).values()
    assert not first["ok"] and first["seen"] == "nan" and "device-side assert" in first["trace"]
    assert second["ok"] and second["seen"] == 1.0
