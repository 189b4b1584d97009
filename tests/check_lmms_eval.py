"""The plugin inside the real lmms-eval: its answers on a tiny task equal ours. Not part of the suite.

Run in lmms-eval's own environment (docs/lmms_eval.md), from the repository: python tests/check_lmms_eval.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from tiny_benchmarks import color
from tiny_folder import tiny_folder

from learnpruner import Plan, Stage
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention

TASK = """task: tiny_colors
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4, temperature: 0, do_sample: false, until: ["ASSISTANT:"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
UTILS = """from PIL import Image


def visual(row):
    return [Image.open(row["image"]).convert("RGB")]


def text(row):
    return row["question"]
"""


def make_task(folder: Path) -> list[dict[str, str]]:
    """Five questions on five pictures as a task folder of lmms-eval."""
    rows = []
    for i in range(5):
        color(i).save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "question": f"What color is it? {'the ' * i}", "answer": "red"})
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "tiny_colors.yaml").write_text(TASK.format(rows=folder / "rows.json"))
    (folder / "utils.py").write_text(UTILS)
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root, task = Path(place), Path(place) / "task"
        task.mkdir()
        rows, model = make_task(task), tiny_folder(root / "model")
        backbone = load_backbone(model)
        stages = [Stage(LearnedPruner(), "encoder", 3), Stage(TextAttention(), "12/32", 1)]
        plan = Plan(stages, 0.2).prepare(backbone.family)
        plan.save(root / "plan", backbone=backbone.name)
        found = simple_evaluate(
            model="learnpruner",
            model_args=f"pretrained={model},plan={root / 'plan'},dtype=float32",
            tasks=["tiny_colors"],
            task_manager=TaskManager(include_path=str(task)),
            device="cpu",
            batch_size=1,
            log_samples=True,
            bootstrap_iters=0,
        )
        said = {sample["doc_id"]: sample["filtered_resps"][0] for sample in found["samples"]["tiny_colors"]}
        for i, row in enumerate(rows):
            (ours,) = generate_and_verify(backbone, plan, encode_prompts(backbone, [color(i)], [row["question"]]), 4)
            assert said[i] == ours, (said[i], ours)
        print(f"lmms-eval's answers equal ours on {len(rows)} samples: {sorted(set(said.values()))}")


if __name__ == "__main__":
    main()
