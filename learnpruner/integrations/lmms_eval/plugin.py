"""What lmms-eval finds through the entry point `lmms_eval.models`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model `learnpruner`; its class is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="learnpruner", chat_class_path="learnpruner.integrations.lmms_eval.model.LearnPrunerLmm"
    )
