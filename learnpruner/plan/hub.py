"""The calls that Hugging Face users know, for whatever is exported as a folder: save, push, and what a card goes on to say."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from learnpruner.plan.card import PLACE
from learnpruner.plan.export import CARD_FILE, CONFIG_FILE
from learnpruner.utils.io import write_text_atomically
from learnpruner.utils.privacy import hide_paths
from learnpruner.utils.provenance import command, device_name


@dataclass(frozen=True)
class Evaluation:
    """What an export scored, as its card says it.

    Attributes:
        benchmark: its name, with what of it was asked.
        samples: questions.
        tokens: visual tokens kept, on the average of the LLM's layers.
        retention: pruned over unpruned score, 1.0 is no loss; None where the unpruned model scored nothing.
        low: lower end of its 95 % interval.
        high: upper end.
        command: what was run.
        commit: of this project.
        hardware: of the machine.
    """

    benchmark: str
    samples: int
    tokens: float
    retention: float | None
    low: float | None
    high: float | None
    command: str
    commit: str | None
    hardware: str


@dataclass(frozen=True)
class ExportRecord:
    """What an export says of itself, kept by what was loaded from it.

    Attributes:
        config: its config.json.
        spec: of the object as it was loaded.
        weights: of the object as it was loaded.
    """

    config: Mapping[str, Any]
    spec: Mapping[str, Any]
    weights: Mapping[str, Tensor]


class Exportable(nn.Module):
    """What is saved as a folder of config.json, model.safetensors and a card."""

    record: ExportRecord | None = None

    @abstractmethod
    def save(
        self,
        folder: str | Path,
        backbone: str | None = None,
        revision: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        notes: str = "",
    ) -> Path:
        """Write the folder."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Describe what it does, as config.json has it."""

    @abstractmethod
    def card(self, config: Mapping[str, Any], source: str = PLACE) -> str:
        """Word the card of a config.json; `source` is what its example loads."""

    def recorded_sizes(self) -> dict[str, int]:
        """Sizes of the backbone that it was exported for; empty where it was not loaded from an export."""
        known = self.record.config.get("backbone", {}) if self.record else {}
        return {key: value for key, value in known.items() if isinstance(value, int)}

    def remember(self, config: Mapping[str, Any]) -> None:
        """Keep what the export that it was just loaded from says of it."""
        weights = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        self.record = ExportRecord(config, self.spec(), weights)

    def add_evaluation(self, folder: str | Path, evaluation: Evaluation, source: str = PLACE) -> Path:
        """Write into an export what it scored: into config.json, and into its card.

        Args:
            folder: an export of this object; an earlier result on the same benchmark gives way.
            evaluation: the result.
            source: what the card's example loads.

        Returns:
            The card's path.
        """
        folder = Path(folder)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        others = [one for one in config.get("evaluations", ()) if one["benchmark"] != evaluation.benchmark]
        one = {key: hide_paths(value) if isinstance(value, str) else value for key, value in asdict(evaluation).items()}
        return self._rewrite(folder, {**config, "evaluations": [*others, one]}, source)

    def save_pretrained(self, folder: str | Path, source: str = PLACE) -> Path:
        """Save to a folder that `from_pretrained` reads.

        What it was loaded from goes on to be said: the backbone always, training and results only where neither weights
        nor budget have changed since.

        Args:
            folder: made where it is not there.
            source: what the card's example loads.

        Returns:
            The folder.
        """
        known = dict(self.record.config) if self.record else {}
        backbone = known.get("backbone", {})
        path = self.save(folder, backbone.get("name"), backbone.get("revision"))
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        if self._unchanged():
            kept = {key: known[key] for key in ("metrics", "notes", "evaluations") if known.get(key)}
            config = {**config, **kept}
        self._rewrite(path, config, source)
        return path

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload with learnpruner",
    ) -> str:
        """Upload to a model repository of the Hugging Face Hub, which is made where it is not there.

        Args:
            repo_id: "name" or "owner/name".
            private: who sees a new repository; None is the owner's default.
            token: an access token; None is the one that `hf auth login` stored.
            revision: the branch; None is main.
            create_pr: open a pull request in place of a commit on the branch.
            commit_message: of the commit.

        Returns:
            The commit's address.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, source=repo_id)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )
        return str(done.commit_url)

    def _unchanged(self) -> bool:
        """Whether it is what its record tells of: neither spec nor weights differ."""
        if self.record is None or self.record.spec != self.spec():
            return False
        weights = self.state_dict()
        return all(
            name in weights and torch.equal(known, weights[name].to(known))
            for name, known in self.record.weights.items()
        )

    def _rewrite(self, folder: Path, config: Mapping[str, Any], source: str) -> Path:
        card = write_text_atomically(folder / CARD_FILE, hide_paths(self.card(config, source)))
        write_text_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
        return card


def write_retention(learner: Exportable, folders: Iterable[Path], results: Path, device: torch.device) -> None:
    """Write what a run's evaluation found into the cards of its export; nothing where it measured no retention.

    Args:
        learner: what was exported.
        folders: the export and its copies.
        results: the evaluation's results.json.
        device: where it ran.
    """
    found = json.loads(results.read_text(encoding="utf-8"))
    retention = found.get("retention")
    if not isinstance(retention, Mapping) or retention.get("value") is None:
        return
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    evaluation = Evaluation(
        benchmark=found["benchmark"],
        samples=found["samples"],
        tokens=found["tokens"]["averaged"],
        retention=retention["value"],
        low=retention["low"],
        high=retention["high"],
        command=command(),
        commit=found["commit"],
        hardware=f"{device_name(device)}{threads}",
    )
    for folder in folders:
        learner.add_evaluation(folder, evaluation)
