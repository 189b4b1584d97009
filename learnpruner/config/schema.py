"""The schema of conf/: what may be set, of which type, in which range. Hydra's ConfigStore knows it as schema/*."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  omegaconf reads the annotations at run time

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from learnpruner.core.budget import check_ratio
from learnpruner.utils.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")
ASPECTS = ("processor", "pad")
MOST_QUESTIONS = 1000  # of a scene
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def at_least(name: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value >= low):
        rule = f"{low:g} or more" if math.isfinite(value) else f"a finite number, {low:g} or more"
        raise UserError(f"{name} is {value}; it must be {rule}.")


def one_of(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        known = ("null" if choice is None else choice for choice in choices)
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(known)}.")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must be 0 or more, and at most {2**32 - 1}.")


def check_name(name: str) -> None:
    """A run's name is a folder's: nothing is written outside of where runs lie."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise UserError(
            f"name is {name!r}; it names the run's folder: give one word without slashes, such as name=try."
        )


def several(name: str, ratios: list[float]) -> None:
    """Budgets for one table: at least one, each once."""
    if not ratios or len(set(ratios)) < len(ratios):
        raise UserError(f"{name} is {ratios}; give each budget once, and at least one: {name}=[0.5,0.111].")
    for ratio in ratios:
        check_ratio(ratio)


@dataclass
class BackboneConfig:
    """path: folder or hub id; revision: of a hub id; dtype: of the frozen weights; attn_implementation: of unwatched layers.

    device_map: over several devices, such as auto. quantization: 4bit or 8bit weights, where bitsandbytes is installed.
    weights: random builds the folder's config, or `shape`, without any download, for speed and memory.
    shape: fields of a config, its `model_type` among them, and of its processor under `processor` and `images`.
    """

    path: str = MISSING
    revision: Optional[str] = None  # noqa: UP045
    dtype: str = "float32"
    attn_implementation: str = "sdpa"
    device_map: Optional[str] = None  # noqa: UP045
    quantization: Optional[str] = None  # noqa: UP045
    weights: str = "pretrained"
    shape: Optional[Dict[str, Any]] = None  # noqa: UP006, UP045

    def __post_init__(self) -> None:
        one_of("backbone.dtype", self.dtype, DTYPES)
        one_of("backbone.attn_implementation", self.attn_implementation, ("sdpa", "eager", "flash_attention_2"))
        one_of("backbone.quantization", self.quantization, (None, "4bit", "8bit"))
        one_of("backbone.weights", self.weights, ("pretrained", "random"))


@dataclass
class DataConfig:
    """A source's own settings stand beside these in its schema."""

    _target_: str = MISSING
    images_per_batch: int = 4
    questions_per_image: int = 8
    repeat: int = 0
    workers: int = 0
    image_aspect: str = "processor"

    def __post_init__(self) -> None:
        at_least("data.images_per_batch", self.images_per_batch, 1)
        at_least("data.questions_per_image", self.questions_per_image, 1)
        at_least("data.repeat", self.repeat, 0)
        at_least("data.workers", self.workers, 0)
        one_of("data.image_aspect", self.image_aspect, ASPECTS)


@dataclass
class ScenesConfig(DataConfig):
    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions_per_image > MOST_QUESTIONS:  # a scene makes as many as it is asked for
            raise UserError(
                f"data.questions_per_image is {self.questions_per_image}; it must be {MOST_QUESTIONS} or less: "
                "each is a row of the batch."
            )


@dataclass
class LlavaJsonConfig(DataConfig):
    json: str = MISSING
    images: Optional[str] = None  # noqa: UP045
    skipped: Optional[str] = None  # noqa: UP045
    root: str = MISSING
    share: float = 1.0
    group_by_length: bool = False
    outside: bool = False


@dataclass
class HubConfig(DataConfig):
    source: str = MISSING
    split: str = "train"
    config: Optional[str] = MISSING  # noqa: UP045
    share: float = 1.0
    group_by_length: bool = False
    skipped: Optional[str] = None  # noqa: UP045
    outside: bool = False
    streaming: bool = False
    buffer: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data.buffer", self.buffer, 1)


@dataclass
class RelaxationConfig:
    _target_: str = MISSING
    temperature: float = 1.0


@dataclass
class ObjectiveConfig:
    """A weighted sum; a weight of 0 leaves its term out.

    kl: distance to the unpruned model's distribution. cross_entropy: the data's own answers. hidden: last hidden states of the
    unpruned model. budget: used where the relaxation does not meet the budget by itself; higher holds it closer.
    """

    kl: float = 1.0
    cross_entropy: float = 0.0
    hidden: float = 0.0
    budget: float = 100.0

    def __post_init__(self) -> None:
        for name in ("kl", "cross_entropy", "hidden", "budget"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"objective.{name} is {weight}; a weight is a finite number, 0 or above.")
        if self.kl == self.cross_entropy == self.hidden == 0:
            raise UserError("objective has no term to learn from; give kl, cross_entropy or hidden a weight above 0.")


@dataclass
class OptimizerConfig:
    """Handed to `_target_` as a partial."""

    _target_: str = MISSING
    _partial_: bool = True
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        at_least("optimizer.lr", self.lr, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)


@dataclass
class AdaptConfig:
    """What learns beside the pruner. lr: its own learning rate, which follows the same schedule; None is the pruner's."""

    _target_: Optional[str] = None  # noqa: UP045
    lr: Optional[float] = None  # noqa: UP045

    def __post_init__(self) -> None:
        if self.lr is not None:
            at_least("adapt.lr", self.lr, 0)
            if self._target_ is None:
                raise UserError(f"adapt.lr is {self.lr}, but nothing is adapted: choose adapt=lora or adapt=projector.")


@dataclass
class LoraConfig(AdaptConfig):
    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str = ".*_proj"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("adapt.r", self.r, 1)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError(f"adapt.alpha is {self.alpha}; it must be above 0.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"adapt.dropout is {self.dropout}; it is a share below 1.")
        try:
            re.compile(self.target_modules)
        except re.error as error:
            raise UserError(
                f"adapt.target_modules={self.target_modules!r} is no regular expression: {error}."
            ) from None


@dataclass
class SgdConfig(OptimizerConfig):
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("optimizer.momentum", self.momentum, 0)


@dataclass
class ScheduleConfig:
    """Linear warm-up, then linear decay. warmup: share of all steps; floor: share of the learning rate at the last step."""

    warmup: float = 0.05
    floor: float = 0.02

    def __post_init__(self) -> None:
        for name in ("warmup", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it is a share between 0 and 1.")


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    precision: str = "auto"
    max_steps: int = 100
    accumulate: int = 1
    clip: float = 1.0
    log_every: int = 10
    profiler: Optional[str] = None  # noqa: UP045

    def __post_init__(self) -> None:
        if not isinstance(self.devices, str) and (isinstance(self.devices, bool) or not isinstance(self.devices, int)):
            raise UserError(
                f"trainer.devices is {self.devices}; it is a number, auto, or device numbers in quotes: '0,1'."
            )
        one_of("trainer.precision", self.precision, PRECISIONS)
        at_least("trainer.max_steps", self.max_steps, 1)
        at_least("trainer.accumulate", self.accumulate, 1)
        at_least("trainer.clip", self.clip, 0)
        at_least("trainer.log_every", self.log_every, 1)
        if self.profiler is not None:
            one_of("trainer.profiler", self.profiler, ("simple", "advanced", "pytorch"))


@dataclass
class LoggerConfig:
    """csv: metrics.csv in the run's folder. wandb: Weights & Biases; mode auto is online when a key is found, else offline."""

    csv: bool = True
    wandb: bool = False
    project: str = "learnpruner"
    entity: Optional[str] = None  # noqa: UP045
    group: Optional[str] = None  # noqa: UP045
    mode: str = "auto"

    def __post_init__(self) -> None:
        one_of("logger.mode", self.mode, ("auto", "online", "offline"))


@dataclass
class CallbacksConfig:
    """checkpoint_every: steps between checkpoints, 0 saves none; the last step and a failure are saved as well."""

    checkpoint_every: int = 50
    progress: bool = True

    def __post_init__(self) -> None:
        at_least("callbacks.checkpoint_every", self.checkpoint_every, 0)


@dataclass
class KvConfig:
    """Gates for KV-cache eviction, trained in place of a pruner. policy, budget, every: as `learnpruner.kv_eviction.Eviction`;
    teacher, capacity: as `learnpruner.kv_eviction.lit_module.KVGateLitModule`.
    """

    policy: Dict[str, Any] = MISSING  # noqa: UP006
    budget: int = 64
    every: int = 16
    teacher: str = "transcript"
    capacity: float = 1.0

    def __post_init__(self) -> None:
        at_least("kv.budget", self.budget, 1)
        at_least("kv.every", self.every, 1)
        one_of("kv.teacher", self.teacher, ("turn", "transcript"))
        at_least("kv.capacity", self.capacity, 0)


@dataclass
class TrainConfig:
    """What `python train.py` reads."""

    name: str = "train"
    seed: int = 0
    prune_ratio: Optional[float] = None  # noqa: UP045
    plan: Optional[str] = None  # noqa: UP045
    ckpt_path: Optional[str] = None  # noqa: UP045
    copy: bool = True
    allow: List[str] = field(default_factory=list)  # noqa: UP006
    pool: Optional[int] = None  # noqa: UP045
    backbone: BackboneConfig = MISSING
    data: DataConfig = MISSING
    pruner: Dict[str, Any] = MISSING  # noqa: UP006
    kv: Optional[KvConfig] = None  # noqa: UP045
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    relaxation: RelaxationConfig = MISSING
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    callbacks: CallbacksConfig = MISSING
    benchmark: Dict[str, Any] = MISSING  # noqa: UP006

    def __post_init__(self) -> None:
        if self.prune_ratio is not None:
            check_ratio(self.prune_ratio)
        if self.pool is not None:
            at_least("pool", self.pool, 0)
        check_name(self.name)
        check_seed(self.seed)
        if self.ckpt_path is not None and not Path(self.ckpt_path).is_file():
            found = "a folder" if Path(self.ckpt_path).is_dir() else "missing"
            raise UserError(
                f"ckpt_path={self.ckpt_path} is {found}; it must be a checkpoint of a run, such as last.ckpt."
            )
        if self.plan == "none":
            raise UserError("plan=none keeps all tokens and has nothing to train: give an export, or pruner=NAME.")
        if self.benchmark.get("_target_") == "learnpruner.comparison.task.Peers":
            raise UserError(
                "benchmark=peers compares many plans; train first, then run eval.py benchmark=peers plan=PATH."
            )
        if self.benchmark.get("_target_") == "learnpruner.training.head_importance.HeadImportanceTask":
            raise UserError("benchmark=heads measures no trained plan; run eval.py plan=none benchmark=heads.")


@dataclass
class EvalConfig:
    """What `python eval.py` reads."""

    name: str = "eval"
    seed: int = 0
    prune_ratio: Optional[float] = None  # noqa: UP045
    prune_ratios: Optional[List[float]] = None  # noqa: UP006, UP045
    plan: Optional[str] = None  # noqa: UP045
    allow: List[str] = field(default_factory=list)  # noqa: UP006
    device: str = "auto"
    image_aspect: Optional[str] = None  # noqa: UP045
    image: Optional[str] = None  # noqa: UP045
    question: Optional[str] = None  # noqa: UP045
    backbone: BackboneConfig = MISSING
    pruner: Optional[Dict[str, Any]] = None  # noqa: UP006, UP045
    benchmark: Dict[str, Any] = MISSING  # noqa: UP006

    def __post_init__(self) -> None:
        if self.prune_ratio is not None:
            check_ratio(self.prune_ratio)
        if self.prune_ratios is not None:
            several("prune_ratios", self.prune_ratios)
        one_of("image_aspect", self.image_aspect, (None, *ASPECTS))
        check_name(self.name)
        check_seed(self.seed)
        if self.device == "meta":
            raise UserError("device=meta holds no weights to compute with; choose cpu, cuda or auto.")
        for key, text in (("image", self.image), ("question", self.question)):
            if text is not None and not text.strip():
                raise UserError(
                    f"{key}= is blank; give a picture's file as image= and what to ask about it as question=."
                )
        if (self.image is None) != (self.question is None):
            raise UserError("image= and question= go together: give both, or neither for the benchmark.")
        if self.plan == "none" and self.prune_ratio not in (None, 1.0):
            raise UserError(
                f"plan=none keeps all tokens and prune_ratio={self.prune_ratio:g} of them cannot be had: leave one out, "
                "or give plan=PATH or pruner=NAME."
            )
        if self.image is not None and self.plan == "none":
            raise UserError("plan=none keeps all tokens: a picture of the kept ones needs plan=PATH or pruner=NAME.")


def never_mixed(benchmark: Collection[str]) -> None:
    """Refuse a list of benchmarks, composed into one node, in which a task that runs by itself is among the field's."""
    if {"dataset", "datasets"} <= set(benchmark):
        raise UserError("benchmark= lists scenes or speed beside the field's benchmarks: run it by itself.")


def only_peers(config: EvalConfig) -> None:
    """Refuse settings of a single plan where all are compared."""
    if config.pruner is not None or config.prune_ratio is not None:
        raise UserError(
            "benchmark=peers runs every config of conf/pruner: choose by benchmark.methods=[NAME] and prune_ratios=[0.111], "
            "without pruner= and prune_ratio=."
        )


def never_peers(config: EvalConfig) -> None:
    """Refuse settings of the comparison where a single plan runs."""
    if config.prune_ratios is not None:
        raise UserError(f"prune_ratios={config.prune_ratios} is for benchmark=peers; a single plan takes prune_ratio=.")


def source_settings(config: TrainConfig) -> dict[str, Any]:
    """What the data source is built from: its own settings, and those that all sources share."""
    shared = {f.name for f in fields(DataConfig)} - {"_target_"}
    own = {f.name: getattr(config.data, f.name) for f in fields(config.data) if f.name not in shared}
    return own | {"questions": config.data.questions_per_image, "seed": config.seed}


def kv_settings(config: TrainConfig) -> KvConfig:
    """The settings of gates that are trained in place of a pruner."""
    assert config.kv is not None
    if config.plan is not None:
        raise UserError(f"plan={config.plan} and kv= are both given; gates are trained on the unpruned model.")
    if config.adapt._target_ is not None:
        raise UserError("adapt= and kv= are both given; gates are trained on the unmodified model: use adapt=none.")
    if config.benchmark.get("name") != "kv":
        raise UserError("kv= needs benchmark=kv: run experiment=kv, or give both.")
    return config.kv


SCHEMAS: dict[str, type] = {"train": TrainConfig, "eval": EvalConfig}


def register() -> None:
    """Make the schema known to Hydra; a YAML takes its part with ``/schema/<group>@_here_: <name>``."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="eval", node=EvalConfig)
    store.store(group="schema/data", name="scenes", node=ScenesConfig)
    store.store(group="schema/data", name="llava_json", node=LlavaJsonConfig)
    store.store(group="schema/data", name="hub", node=HubConfig)
    store.store(group="schema/kv", name="kv", node=KvConfig)
    store.store(group="schema/adapt", name="adapt", node=AdaptConfig)
    store.store(group="schema/adapt", name="lora", node=LoraConfig)
    store.store(group="schema/optimizer", name="adamw", node=OptimizerConfig)
    store.store(group="schema/optimizer", name="sgd", node=SgdConfig)
