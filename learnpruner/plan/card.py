"""Model cards of exports: one template (card.md) for plans and for KV-cache evictions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from learnpruner.utils.privacy import hide_paths

TEMPLATE = Path(__file__).with_name("card.md")
PLACE = "PATH OR HUB ID OF THIS FOLDER"


def render_card(config: Mapping[str, Any], title: str, what: str, touched: str, usage: str, name: str) -> str:
    """Write the card of an export, without paths of this machine.

    Args:
        config: the contents of its config.json: backbone, versions, metrics, notes and evaluations are read.
        title: the heading: what it is and what it keeps.
        what: a paragraph or a list below it: how it decides.
        touched: how the backbone is used: "unmodified", or what is done to it.
        usage: lines of Python that load and use it.
        name: what the hub's index of results calls it.

    Returns:
        Markdown with a YAML head.
    """
    evaluations = [one for one in config.get("evaluations", ()) if one["retention"] is not None]
    backbone = config["backbone"]
    card = ModelCard.from_template(
        _metadata(backbone, evaluations, name),
        str(TEMPLATE),
        title=title,
        what=what,
        touched=touched,
        usage=usage.strip(),
        backbone=backbone["name"] or "not recorded",
        revision=backbone["revision"] or "not recorded",
        evaluations=evaluations,
        metrics=config["metrics"],
        notes=config.get("notes", "").strip(),
        versions=", ".join(f"{package} {found}" for package, found in config["versions"].items()),
    )
    return re.sub(r"\n{3,}", "\n\n", hide_paths(str(card))).rstrip() + "\n"


def _metadata(backbone: Mapping[str, Any], evaluations: list[Mapping[str, Any]], name: str) -> ModelCardData:
    """The head that the hub reads; a backbone that came from the hub, by revision, is the base model."""
    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=one["benchmark"],
            dataset_name=one["benchmark"],
            metric_type="retention",
            metric_name="retention, % of the unpruned score",
            metric_value=round(100 * one["retention"], 1),
        )
        for one in evaluations
    ]
    return ModelCardData(
        library_name="learnpruner",
        license="apache-2.0",
        tags=["visual-token-pruning"],
        base_model=backbone["name"] if backbone["revision"] else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
