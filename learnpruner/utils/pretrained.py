"""Models of Hugging Face as their files hold them: all weights or none, and none of their own code.

A model's folder can name Python files beside its weights, which Transformers would offer to run; here it never does.
"""

from __future__ import annotations

import re
from typing import Any

from learnpruner.utils.errors import UserError

NO_CODE = {"trust_remote_code": False}  # for every `from_pretrained` and `from_config`
COMPUTED = re.compile(r"(^|\.)(position_ids|inv_freq|original_inv_freq|num_batches_tracked)$")  # old files keep these


def load_model(kind: Any, source: str, **options: Any) -> Any:
    """Load by `kind.from_pretrained`, which draws at random what the files lack; this refuses in its place.

    Args:
        kind: class of the model.
        source: a folder or Hub id.
        options: of `from_pretrained`.

    Raises:
        UserError: where weights are missing, of another shape, or of no part of the model.
    """
    model, found = kind.from_pretrained(
        source, **NO_CODE, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    check_keys(source, found)
    return model


def check_keys(source: str, found: dict[str, Any]) -> None:
    """Refuse weights that are missing, of another shape, or of no part of the model."""
    faults = {
        "lack": sorted(found["missing_keys"]),
        "hold in another shape": sorted(name for name, *_ in found["mismatched_keys"]),
        "hold beside the model's": sorted(key for key in found["unexpected_keys"] if not COMPUTED.search(key)),
    }
    for what, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(
                f"the weights of {source} {what} {keys[0]}{more}: config.json and weights are not of one whole model; "
                "fetch the folder again."
            )
