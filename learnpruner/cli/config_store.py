"""The schema as Hydra needs it: the settings of each program with their defaults, laid below what conf/ says."""

from __future__ import annotations

from functools import cache

from hydra.core.config_store import ConfigStore

from learnpruner.config.eval_config import EvalConfig
from learnpruner.config.key_names import all_keys, defaults
from learnpruner.config.settings import Settings
from learnpruner.config.train_config import TrainConfig

SCHEMAS: dict[str, type[Settings]] = {"train": TrainConfig, "eval": EvalConfig}


def register() -> None:
    """Make the defaults known to Hydra; conf/train.yaml and conf/eval.yaml begin with ``schema@_global_: NAME``."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(group="schema", name=name, node=defaults(schema))


@cache
def every_key() -> tuple[str, ...]:
    """List dotted names of the settings of all programs."""
    return tuple(dict.fromkeys(key for schema in SCHEMAS.values() for key in all_keys(schema)))
