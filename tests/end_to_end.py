"""The main job in small, on the shipped backbone: train, export, evaluate again, ask. Exits non-zero where a result is not what it must be.

python tests/end_to_end.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from learnpruner.data.scenes import make_scene  # noqa: E402

CONTRACT = {
    "plan",
    "backbone",
    "benchmark",
    "samples",
    "prune_ratio",
    "tokens",
    "accuracy",
    "unpruned",
    "retention",
    "baselines",
    "versions",
    "commit",
    "command",
    "hardware",
    "schema_version",
}


def run(folder: Path, *command: str) -> dict:
    """Runs a program of the project in its own folder and reads the results that its last line names."""
    print("$ python", *command, flush=True)
    done = subprocess.run(
        [sys.executable, *command, f"hydra.run.dir={folder}"], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    print(done.stdout, flush=True)
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("results: "), last
    return json.loads((ROOT / last.removeprefix("results: ")).read_text())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        first, size = work / f"train-{work.name}", "benchmark.limit=140"  # its name ends the name of the export's copy
        trained = run(first, "train.py", "prune_ratio=0.055", "trainer.max_steps=60", size, "name=end-to-end")
        assert set(trained) == CONTRACT, set(trained) ^ CONTRACT
        assert trained["samples"] == 140 and trained["tokens"]["entering"] == 55 and trained["tokens"]["final"] == 18
        assert abs(trained["tokens"]["averaged"] - 0.055 * 576) <= 0.5
        baselines = trained["baselines"]
        assert {"random", "random+text", "uniform", "cls", "untrained", "untrained+text"} <= set(baselines)
        naive = max(baselines[name]["retention"]["value"] for name in ("random+text", "untrained+text"))
        assert trained["retention"]["value"] > naive, "a minute of training must beat chance"
        for name in ("checkpoints/last.ckpt", "export/model.safetensors", "tokens.png", "config.yaml", "report.md"):
            assert (first / name).stat().st_size > 0, name
        assert (first / "checkpoints" / "last.ckpt").stat().st_size < 2**20, "only pruner weights are kept"
        (copy,) = (ROOT / "checkpoints").glob(f"*{work.name}")
        said = f"| scenes | 140 | 31.9 | {100 * trained['retention']['value']:.1f} |"
        assert all(said in (one / "README.md").read_text() for one in (first / "export", copy)), (
            "the card has its retention"
        )
        shutil.rmtree(copy)

        again = run(work / "again", "eval.py", f"plan={first / 'export'}", size, "benchmark.baselines_to_run=[]")
        for key in ("accuracy", "unpruned", "retention", "tokens"):
            assert again[key] == trained[key], f"{key} of the reloaded export differs from the end of training"

        shipped = run(work / "shipped", "eval.py", "benchmark.limit=210")
        best = max(row["retention"]["value"] for row in shipped["baselines"].values())
        assert shipped["unpruned"]["mean"] > 0.85, "the shipped backbone sees"
        assert shipped["retention"]["value"] > max(0.9, best), "the shipped plan keeps what the naive ones lose"

        picture = work / "scene.png"
        scene = make_scene("test", 0)
        Image.fromarray(scene.image).save(picture)
        asked = ("eval.py", f"image={picture}", f'question="{scene.questions[0].text}"')
        run(work / "asked", *asked)
    print("end to end: all assertions hold")


if __name__ == "__main__":
    main()
