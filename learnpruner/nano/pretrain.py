"""Trains the embedded backbone from nothing and writes it as a plain Hugging Face folder.

    python -m learnpruner.nano.pretrain

Every step saves and resumes; a finished step is skipped. Steps ``vision`` and ``language`` do not need each other: with ``--only`` they can
run side by side, a thread each.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from learnpruner.nano.language import language_stage
from learnpruner.nano.model import NanoShape, build_nano_model, build_nano_processor, initialise_weights
from learnpruner.nano.stage import PretrainStage, run_pretrain_stage, summarise_stage
from learnpruner.nano.symbols import SymbolTable
from learnpruner.nano.tuning import alignment_stage, scale_to_features, tuning_stage
from learnpruner.nano.vision import vision_stages
from learnpruner.utils.argtypes import exit_on_bad_input, positive_float, positive_int
from learnpruner.utils.provenance import commit

STAGE_STEPS = {
    "vision-windows": 700,
    "vision-whole": 600,
    "language": 2400,
    "alignment": 200,
    "tuning": 1000,
    "sparse": 400,
}
STEP_GROUPS = ("vision", "language", "tuning")


def pretrain_backbone(
    work: Path, steps: dict[str, int], only: str | None = None, device: str = "cpu"
) -> LlavaForConditionalGeneration:
    """Runs the steps that ``work`` does not hold yet and returns the model as far as it got."""
    torch.manual_seed(0)
    model = build_nano_model(NanoShape())
    initialise_weights(model)
    model.to(torch.device(device))  # type: ignore[arg-type]
    table = SymbolTable(model.model.language_model.embed_tokens).to(device)
    if only in (None, "vision"):
        _run(vision_stages(model, steps["vision-windows"], steps["vision-whole"]), work)
    if only in (None, "language"):
        _run([language_stage(model, table, steps["language"])], work)
    if only == "tuning":
        _load(model, table, work)
    if only in (None, "tuning"):
        scale_to_features(model)
        _run([alignment_stage(model, table, steps["alignment"])], work)
        _run([tuning_stage(model, steps["tuning"])], work)
        sparse = tuning_stage(
            model, steps["sparse"], "sparse", rate=4e-4, full_share=0.3, late_share=0.5, bare_share=0.3, seed=5
        )
        _run([sparse], work)
    return model


def _run(stages: list[PretrainStage], work: Path) -> None:
    for stage in stages:
        run_pretrain_stage(stage, work)


def _load(model: LlavaForConditionalGeneration, table: SymbolTable, work: Path) -> None:
    """Weights of the finished steps ``vision`` and ``language``."""
    for name in ("vision-whole", "language"):
        if not (work / f"{name}.pt").exists():
            raise SystemExit(f"{work} holds no finished step {name!r}; run it first, or leave out --only.")
    vision = torch.load(work / "vision-whole.pt", weights_only=True)["modules"]
    language = torch.load(work / "language.pt", weights_only=True)["modules"]
    model.model.vision_tower.load_state_dict(vision["tower"])
    model.model.language_model.load_state_dict(language["language"])
    model.lm_head.load_state_dict(language["head"])
    table.load_state_dict(language["table"])


def export_backbone(model: LlavaForConditionalGeneration, work: Path, out: Path) -> None:
    """Weights in bfloat16, processor, and what the training took as ``training.json``."""
    done = {name: dict(zip(("steps", "seconds"), summarise_stage(name, work), strict=True)) for name in STAGE_STEPS}
    facts = {
        "command": "python -m learnpruner.nano.pretrain",
        "commit": commit(),
        "hardware": _hardware(model.device),
        "torch": torch.__version__,
        "stages": done,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    model.cpu().bfloat16()
    model.save_pretrained(out)
    build_nano_processor().save_pretrained(out)
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def main() -> None:
    """Pre-train the embedded backbone, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/nano-llava"), help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("logs/nano"), help="folder of the snapshots")
    parser.add_argument(
        "--only", choices=STEP_GROUPS, help="run one group of steps; writes no model unless it is the last, tuning"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=positive_int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--scale", type=positive_float, default=1.0, help="multiplies all step counts; below 1 is for trying out"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    steps = {name: max(2, round(count * options.scale)) for name, count in STAGE_STEPS.items()}
    with exit_on_bad_input(parser):
        model = pretrain_backbone(options.work, steps, options.only, options.device)
    if options.only in (None, "tuning"):
        export_backbone(model, options.work, options.out)
        logging.info("wrote %s", options.out)


if __name__ == "__main__":
    main()
