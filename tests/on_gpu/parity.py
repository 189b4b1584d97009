"""In full precision a GPU gives what a CPU gives: logits, kept tokens and answers, for every family and every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import FAMILIES
from plans import KINDS, plan, real

from learnpruner.engine.kv_lengths import check_prefill_lengths
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import load_pruner_config
from on_gpu.report import Report, must
from on_gpu.twins import Twin, apart, same, saved

CONF = Path(__file__).parents[2] / "conf" / "pruner"
LIMIT = (
    1e-3  # of the largest logit, in fp32 without TF32: the order of sums differs, and sharp random weights carry it on
)
ROUNDING = 1e-5  # keep all hands the projector a copy, for which cuBLAS may choose another kernel than for a view
TIES = 1.0  # share of kept tokens in common; no two scores of these pictures are within rounding


def family(report: Report, device: str, quick: bool, name: str) -> None:
    folder = saved(name)
    for medium in ("image", "video")[: 1 + bool(FAMILIES[name].videos)]:
        here, there = Twin(folder, name, medium), Twin(folder, name, medium, device)
        with report.case(f"{medium}: without a plan") as found:
            compare(found, here, there, None)
        for kind in KINDS[-2:] if quick else KINDS:
            for mode in ("physical", "masked"):
                with report.case(f"{medium}: {kind}, {mode}") as found:
                    compare(found, here, there, lambda kind=kind: plan(kind, 0.5), mode)
        with report.case(f"{medium}: keep all is the unmodified model") as found:
            batch = there.rows()
            (pruned, _), (whole, _) = there.logits(batch, plan("three", 1.0)), there.logits(batch)
            found["apart"] = apart(pruned, whole, real(batch))
            found["bit_for_bit"] = torch.equal(pruned[real(batch)], whole[real(batch)])
            must(
                found["apart"] <= ROUNDING,
                f"keep all is {found['apart']:.2g} of the largest logit off the unmodified model",
            )
        with report.case(f"{medium}: answers") as found:
            answers(found, here, there)


def compare(found: dict[str, Any], here: Twin, there: Twin, make: Any, mode: str = "physical") -> None:
    """Logits and kept sets of one batch on both devices."""
    batch, put = here.rows(), there.rows()
    (expected, known), (logits, record) = (
        twin.logits(rows, None if make is None else make().to(twin.model.device), mode)
        for twin, rows in ((here, batch), (there, put))
    )
    where = here.text(batch)
    if record is not None and known is not None:
        found["kept_in_common"] = same(record.kept, known.kept)
    found["apart"] = apart(logits, expected, where)
    must(found.get("kept_in_common", 1.0) >= TIES, f"kept sets have only {found.get('kept_in_common')} in common")
    must(found["apart"] <= LIMIT, f"logits are {found['apart']:.2g} of the largest apart, more than {LIMIT}")


def answers(found: dict[str, Any], here: Twin, there: Twin) -> None:
    """Greedy answers, of a batch and of a row alone, with what the cache must hold."""
    expected, _ = here.generate(here.rows(), plan("three", 0.5))
    tokens, record = there.generate(there.rows(), plan("three", 0.5).to(there.model.device))
    check_prefill_lengths(record)
    must(torch.equal(tokens.cpu(), expected), f"answers differ: {tokens.tolist()} and {expected.tolist()}")
    alone, _ = there.generate(there.rows(only=1), plan("three", 0.5).to(there.model.device))
    must(torch.equal(alone[0], tokens[1]), "a row alone must be answered as in its batch")
    beams, _ = there.generate(there.rows(), plan("three", 0.5).to(there.model.device), num_beams=2)
    known, _ = here.generate(here.rows(), plan("three", 0.5), num_beams=2)
    found["tokens"] = tokens.tolist()
    must(torch.equal(beams.cpu(), known), "beams differ between the devices")


def methods(report: Report, device: str, quick: bool) -> None:
    """Every file of conf/pruner on LLaVA, at a budget that all designs can have."""
    folder = saved("llava")
    here, there = Twin(folder, "llava"), Twin(folder, "llava", "image", device)
    files = sorted(CONF.glob("*.yaml"))
    for file in files[:: 8 if quick else 1]:
        with report.case(file.stem) as found:

            def make(twin: Twin, file: Path = file) -> Any:
                return build_plan(load_pruner_config(file, 0.7, twin.backbone.name), twin.backbone)

            batch, put = here.rows(), there.rows()
            for mode in ("physical", "masked"):
                (expected, known), (logits, record) = (
                    here.logits(batch, make(here), mode),
                    there.logits(put, make(there), mode),
                )
                found[f"{mode}: kept_in_common"] = same(record.kept, known.kept)
                found[f"{mode}: apart"] = apart(logits, expected, here.text(batch))
            tokens, _ = there.generate(put, make(there))
            found["answers_alike"] = bool(torch.equal(tokens.cpu(), here.generate(batch, make(here))[0]))
            must(min(value for key, value in found.items() if "kept" in key) >= TIES, "kept sets differ")
            must(max(value for key, value in found.items() if "apart" in key) <= LIMIT, "logits differ")
            must(found["answers_alike"], "answers differ")
