"""How a run trains, and when it validates: conf/trainer and `validation`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, model_validator

from learnpruner.config.sentences import no_setting
from learnpruner.config.settings import Settings
from learnpruner.config.value_ranges import Amount, Positive
from learnpruner.utils.errors import UserError
from learnpruner.utils.validation import is_int

LIGHTNING = frozenset(  # further arguments of Lightning's Trainer; a test compares them with its signature
    """barebones benchmark check_val_every_n_epoch detect_anomaly deterministic enable_autolog_hparams enable_model_summary
    fast_dev_run gradient_clip_algorithm inference_mode limit_predict_batches limit_test_batches limit_train_batches
    limit_val_batches max_time min_epochs min_steps model_registry num_sanity_val_steps overfit_batches
    reload_dataloaders_every_n_epochs sync_batchnorm""".split()
)
MADE_HERE = {
    "callbacks": "callbacks=",
    "default_root_dir": "hydra.run.dir=",
    "enable_checkpointing": "callbacks.checkpoint",
    "enable_progress_bar": "callbacks.progress",
    "logger": "logger=",
    "max_epochs": "trainer.max_steps",
    "plugins": "trainer.precision and trainer.strategy",
    "use_distributed_sampler": "the data",
}


class ValidationConfig(Settings):
    """What is held out of the training, for `trainer.val_check_interval`.

    Attributes:
        samples: images, with their questions.
    """

    samples: Positive = 50


def _devices(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"trainer.devices is {value}; it is a number, auto, or device numbers in quotes: '0,1'.")
    return value


def _interval(value: Any) -> Any:
    if value is None or is_int(value, 1):
        return value
    if isinstance(value, float) and 0 < value <= 1:
        return value
    raise UserError(
        f"trainer.val_check_interval is {value}; it is a number of batches, a share of the run such as 0.25, or null."
    )


class TrainerConfig(Settings):
    """Arguments of Lightning's Trainer by its own names; those that are not here may stand beside these.

    Attributes:
        gradient_clip_val: largest gradient norm; 0 does not clip.
        accumulate_grad_batches: batches a step.
        max_steps: optimizer steps of the run.
        val_check_interval: batches, or share of the run, between validations; None validates never.
        precision: auto is bf16-mixed where the hardware computes in bfloat16, else 32-true.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    accelerator: str = "auto"
    devices: Annotated[int | str, BeforeValidator(_devices)] = 1
    num_nodes: Positive = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    max_steps: Positive = 100
    accumulate_grad_batches: Positive = 1
    gradient_clip_val: Amount = 1.0
    log_every_n_steps: Positive = 10
    val_check_interval: Annotated[int | float | None, BeforeValidator(_interval)] = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None

    @model_validator(mode="after")
    def _known_to_lightning(self) -> Self:
        for name in self.model_extra or {}:
            if name in MADE_HERE:
                raise UserError(f"trainer.{name} is made by {MADE_HERE[name]}: set that.")
            if name not in LIGHTNING:
                raise UserError(no_setting(f"trainer.{name}", [*TrainerConfig.model_fields, *LIGHTNING]))
        return self
