"""What `python train.py experiment=kv` trains: gates of KV-cache eviction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate

from learnpruner.backbones import Backbone
from learnpruner.cli.trainable import make_data, make_loss
from learnpruner.config.train_config import TrainConfig
from learnpruner.data.datamodule import PrunerData
from learnpruner.evaluation.downsampling import Downsampling
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.kv_eviction.conversation_data import TranscriptDataModule
from learnpruner.kv_eviction.eviction import Eviction
from learnpruner.kv_eviction.lit_module import KVGateLitModule
from learnpruner.plan import Plan
from learnpruner.plan.export import outside_packages
from learnpruner.training.base_module import FrozenBackboneLitModule
from learnpruner.utils.errors import UserError


@dataclass
class KVGateTrainable:
    """Gates of an eviction policy; a `learnpruner.cli.trainable.Trainable`."""

    learner: Eviction
    module: FrozenBackboneLitModule
    data: PrunerData
    prune_ratio: float = 1.0  # no visual token is dropped

    @classmethod
    def build(cls, config: TrainConfig, backbone: Backbone) -> KVGateTrainable:
        """Build the gates that the settings name."""
        settings = config.kv_eviction
        assert settings is not None
        if config.trainer.val_check_interval is not None:
            raise UserError(
                f"trainer.val_check_interval={config.trainer.val_check_interval} and kv_eviction= are both given; only pruners are "
                "validated while they train: leave it out."
            )
        eviction = Eviction(instantiate(settings.policy), settings.budget, settings.evict_interval).prepare(
            backbone.family
        )
        module = KVGateLitModule(
            backbone,
            eviction,
            make_loss(config),
            instantiate(config.optimizer.to_dict()),
            settings.capacity_weight,
            settings.teacher,
            instantiate(config.scheduler.to_dict()),
            config.to_dict(),
        )
        return cls(eviction, module, make_data(TranscriptDataModule, config, backbone))

    def describe(self, backbone: Backbone) -> str:
        return self.learner.describe()

    def evaluate(
        self,
        task: Task,
        backbone: Backbone,
        export: Path,
        folder: Path,
        baselines: Mapping[str, Plan | Downsampling],
        label: str,
    ) -> tuple[Path, str]:
        allow = outside_packages([self.learner.policy])
        return task.run(TaskContext(backbone, folder, policy=str(export), allow=allow))
