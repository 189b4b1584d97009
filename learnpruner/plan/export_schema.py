"""The schema of an export's config.json: every field is checked once, before anything is built from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from learnpruner.utils.errors import UserError
from learnpruner.utils.typed_arguments import first_violation

_DEEPEST = 20  # of lists and mappings in each other
_PLACE = re.compile(r"encoder|\d+|\d+/0*[1-9]\d*")


def _place(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _PLACE.fullmatch(str(value)):
        raise UserError("a stage acts at 'encoder', 0, a layer K, or a fraction of depth such as '12/32'")
    return value


class ExportEntry(BaseModel):
    """No value is turned into another type, and no field is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class DescribedObject(ExportEntry):
    """A class, and its arguments beside it."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")


class StageEntry(ExportEntry):
    """A stage of an exported plan."""

    pruner: DescribedObject
    at: Annotated[Any, AfterValidator(_place)]
    share: PositiveFloat | dict[str, PositiveFloat] = 1.0


class AdapterEntry(ExportEntry):
    """What a plan adapts in the model itself: kind, folder, and the arguments of the kind."""

    model_config = ConfigDict(extra="allow")

    kind: str
    folder: str = "adapter"


class BackboneEntry(ExportEntry):
    """What it was trained on; sizes where it has met a model."""

    name: str | None = None
    revision: str | None = None
    tokens: PositiveInt | None = None
    layers: PositiveInt | None = None
    feature_width: PositiveInt | None = None
    width: PositiveInt | None = None
    heads: PositiveInt | None = None


class EvaluationEntry(ExportEntry):
    """What it scored; see `learnpruner.plan.hub.Evaluation`."""

    benchmark: str
    samples: PositiveInt
    tokens: float
    retention: float | None = None
    low: float | None = None
    high: float | None = None
    command: str
    commit: str | None = None
    hardware: str


class ExportedConfig(ExportEntry):
    """What every export says: format, backbone, versions and metrics."""

    format: Literal[1] = 1
    backbone: BackboneEntry = BackboneEntry()
    versions: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    notes: str = ""
    evaluations: list[EvaluationEntry] = []


class ExportedPlan(ExportedConfig):
    """config.json of an exported plan."""

    prune_ratio: float = Field(gt=0, le=1)
    positions: Literal["original", "compact"] = "original"
    image_aspect: Literal["processor", "pad"] = "processor"
    stages: list[StageEntry]
    budgets: dict[str, Any] = {}
    adapter: AdapterEntry | None = None


class ExportedEviction(ExportedConfig):
    """config.json of an exported eviction."""

    policy: DescribedObject
    budget: PositiveInt
    every: PositiveInt


_E = TypeVar("_E", bound=ExportedConfig)


def read_config(path: Path, kind: type[_E]) -> _E:
    """Read a config.json and check every field of it.

    Raises:
        UserError: with a sentence that says which field is wrong.
    """
    what = "eviction" if kind is ExportedEviction else "plan"
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
        if _depth(values) > _DEEPEST:
            raise RecursionError
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the config of an exported {what}: {error}.") from None
    except RecursionError:
        raise UserError(
            f"{path} cannot be read as the config of an exported {what}: it is nested too deeply."
        ) from None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(
            f"{path} is not the config of an exported {what}: {first_violation(error)}; export it again."
        ) from None


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inside = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level, depth = [one for values in inside for one in values], depth + 1
    return depth
