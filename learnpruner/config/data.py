"""What a run learns from: conf/data. A source of somebody's own package takes the arguments that its class takes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag

from learnpruner.config.settings import Built
from learnpruner.config.value_ranges import Natural, Positive, Whole
from learnpruner.utils.errors import UserError

ImageAspect = Literal["processor", "pad"]
MOST_QUESTIONS = 1000  # of a scene
SCENES = "learnpruner.data.datamodule.SceneSource"
LLAVA_JSON = "learnpruner.data.llava_json.LlavaJson"
HUB = "learnpruner.data.hub.hub_source"


class DataConfig(Built):
    """What every source takes; its class's own arguments stand beside these."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    images_per_batch: Positive = 4
    questions_per_image: Positive = 8
    repeat: Natural = 0
    workers: Natural = 0
    image_aspect: ImageAspect = "processor"

    def source(self, seed: int) -> dict[str, Any]:
        """Tell what the data source is built from: its own settings, and those that all sources share; seed: of the run."""
        shared = {name for name in DataConfig.model_fields if name != "target"}
        own = {key: value for key, value in self.to_dict().items() if key not in shared}
        return own | {"questions": self.questions_per_image, "seed": seed}


def _few(value: int) -> int:
    if value > MOST_QUESTIONS:  # a scene makes as many as it is asked for
        raise UserError(
            f"data.questions_per_image is {value}; it must be {MOST_QUESTIONS} or less: each is a row of the batch."
        )
    return value


class ScenesConfig(DataConfig):
    """Procedural scenes, made on the fly."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    questions_per_image: Annotated[Whole, Field(ge=1), AfterValidator(_few)] = 8
    split: str = "train"
    edition: Literal[1, 2] = 1


class LlavaJsonConfig(DataConfig):
    """A LLaVA-Instruct JSON over a folder of images."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    json_file: str = Field(alias="json")
    images: str | None = None
    skipped: str | None = None
    root: str
    fraction: float = 1.0
    group_by_length: bool = False
    outside: bool = False


class HubConfig(DataConfig):
    """A dataset of the Hub, or of a folder."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    source_id: str = Field(alias="source")
    split: str = "train"
    config: str | None
    fraction: float = 1.0
    group_by_length: bool = False
    skipped: str | None = None
    outside: bool = False
    streaming: bool = False
    buffer: Positive = 1000


SOURCE_KINDS = {SCENES: "<scenes>", LLAVA_JSON: "<llava_json>", HUB: "<hub>"}


def _kind(value: Any) -> str:
    target = value.get("_target_") if isinstance(value, dict) else getattr(value, "target", None)
    return SOURCE_KINDS.get(str(target), "<own>")


AnyData = Annotated[
    Annotated[ScenesConfig, Tag("<scenes>")]
    | Annotated[LlavaJsonConfig, Tag("<llava_json>")]
    | Annotated[HubConfig, Tag("<hub>")]
    | Annotated[DataConfig, Tag("<own>")],
    Discriminator(_kind),
]
