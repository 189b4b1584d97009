"""The LightningDataModule: endless sources in fixed-size batches, entered at any batch number when a run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from learnpruner.data.collate import Batch, Collate
from learnpruner.data.length import FitsContext
from learnpruner.data.sample import Sample, Source
from learnpruner.data.scene_editions import check_edition, scene_of_edition
from learnpruner.utils.errors import UserError


class SceneSource:
    """Procedural scenes made on the fly; never the same twice.

    Args:
        questions: a scene.
        edition: 2, or 1 for the scenes as they were first.
    """

    def __init__(self, split: str = "train", questions: int = 8, seed: int = 0, edition: int = 1) -> None:
        check_edition(edition)
        self.split, self.questions, self.seed, self.edition = split, questions, seed, edition
        self.fits: Callable[[Sample], str | None] = lambda sample: None

    def held_out(self, samples: int) -> SceneSource:
        """Scenes of the validation split, which share no handwriting with those that are trained on."""
        return SceneSource("validation", self.questions, self.seed, self.edition)

    def arrange(self, images: int, world: int, workers: int) -> None:
        """Scenes have no order to keep."""

    def admit(self, fits: Callable[[Sample], str | None]) -> None:
        self.fits = fits

    def sample(self, index: int) -> Sample:
        scene = scene_of_edition(self.edition, self.split, index, self.seed, self.questions)
        assert scene.image is not None
        turns = [(question.text, question.answer) for question in scene.questions]
        sample = Sample(Image.fromarray(scene.image), turns, f"{self.split}-{index}")
        if (reason := self.fits(sample)) is not None:
            raise UserError(f"scene {sample.id}: {reason}; ask fewer data.questions_per_image.")
        return sample


@dataclass(frozen=True)
class RefusedData:
    """What a worker found wrong with the data, on its way to the process that trains: PyTorch would add a stack trace."""

    reason: str


class SourceBatches(Dataset[Batch | RefusedData]):
    """Batch ``number`` of a source: a function of the number.

    Args:
        repeat: cycle over the first so many batches (0 does not).
    """

    def __init__(self, source: Source, collate: Collate, images: int, repeat: int = 0) -> None:
        self.source, self.collate, self.images, self.repeat = source, collate, images, repeat

    def __getitem__(self, number: int) -> Batch | RefusedData:
        number = number % self.repeat if self.repeat else number
        try:
            samples = [self.source.sample(number * self.images + i) for i in range(self.images)]
        except UserError as error:
            return RefusedData(str(error))
        return self.collate(samples)


class HeldOutBatches(Dataset[Batch]):
    """Batches of these samples of a source."""

    def __init__(self, source: Source, collate: Collate, groups: Sequence[Sequence[int]]) -> None:
        self.source, self.collate, self.groups = source, collate, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> Batch:
        return self.collate([self.source.sample(index) for index in self.groups[number]])


class RankBatchSampler(Sampler[int]):
    """The batch numbers of one rank: ``start`` of ``total`` are done already."""

    def __init__(self, total: int, rank: int = 0, world: int = 1) -> None:
        self.total, self.rank, self.world, self.start = total, rank, world, 0

    def __iter__(self) -> Iterator[int]:
        return (number * self.world + self.rank for number in range(self.start, self.total))

    def __len__(self) -> int:
        return self.total


class ResumableLoader(DataLoader[Batch | RefusedData]):
    """A DataLoader that Lightning saves and restores: its state is the number of batches that reached the weights."""

    def __init__(
        self, batches: SourceBatches, numbers: RankBatchSampler, done: Callable[[], int], workers: int
    ) -> None:
        self.numbers, self.done = numbers, done
        super().__init__(
            batches,
            sampler=numbers,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),  # leaves the global random state alone
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a plain iterator is all that a trainer asks for
        for batch in super().__iter__():
            if isinstance(batch, RefusedData):
                raise UserError(batch.reason)
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.done()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.numbers.start = state["batches"]


class PrunerData(L.LightningDataModule):
    """Batches of a training, entered at any number when a run resumes.

    Args:
        source: where samples come from.
        images_per_batch: distinct images of a step on one device.
        repeat: train on the first so many batches again and again (0 does not).
        workers: processes that prepare batches beside the training.
        positions: of the language model; a sample that needs more is left out.
        held_out: samples for validation while training, None for none.
        validation_samples: so many of them.
    """

    collate: type[Collate] = Collate

    def __init__(
        self,
        source: Source,
        processor: Any,
        images_per_batch: int = 4,
        repeat: int = 0,
        workers: int = 0,
        positions: int | None = None,
        held_out: Source | None = None,
        validation_samples: int = 50,
    ) -> None:
        super().__init__()
        self.batches = SourceBatches(source, self.collate(processor), images_per_batch, repeat)
        self.held_out, self.validation_samples = held_out, validation_samples
        for one in (source, held_out):
            if positions is not None and one is not None:
                one.admit(FitsContext(self.batches.collate, positions))
        self.workers = workers

    def val_dataloader(self) -> DataLoader[Batch]:
        """Each process meets its share of the held-out samples, in the same batches each time."""
        trainer, source, images = self.trainer, self.held_out, self.batches.images
        assert trainer is not None and source is not None
        source.arrange(images, 1, 0)
        own = range(self.validation_samples)[trainer.global_rank :: trainer.world_size]
        groups = [own[first : first + images] for first in range(0, len(own), images)]
        made: Dataset[Batch] = HeldOutBatches(source, self.batches.collate, groups)
        generator = torch.Generator().manual_seed(0)  # leaves the global random state alone
        return DataLoader(made, batch_size=None, shuffle=False, generator=generator)

    def train_dataloader(self) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        accumulate = trainer.accumulate_grad_batches
        numbers = RankBatchSampler(trainer.max_steps * accumulate, trainer.global_rank, trainer.world_size)
        self.batches.source.arrange(self.batches.images, trainer.world_size, self.workers)
        return ResumableLoader(self.batches, numbers, lambda: trainer.global_step * accumulate, self.workers)
