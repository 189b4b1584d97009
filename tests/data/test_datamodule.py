"""The data module: a batch is a function of its number, and loaders can be entered anywhere."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoProcessor

from learnpruner.data.collate import Collate
from learnpruner.data.datamodule import PrunerData, RankBatchSampler, ResumableLoader, SceneSource, SourceBatches
from learnpruner.utils.errors import UserError
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return AutoProcessor.from_pretrained(tiny_folder(tmp_path_factory.mktemp("tiny")))


def batches(processor, repeat=0, seed=0):
    return SourceBatches(SceneSource(questions=2, seed=seed), Collate(processor), images=2, repeat=repeat)


def loader(data, total=4, workers=0, done=0):
    return ResumableLoader(data, RankBatchSampler(total), lambda: done, workers)


def pixels(loaded):
    return [float(batch.pixel_values.double().sum()) for batch in loaded]


def test_resumed_loader_continues_with_the_next_batch(processor):
    whole = pixels(loader(batches(processor)))
    resumed = loader(batches(processor))
    resumed.load_state_dict(loader(batches(processor), done=1).state_dict())
    assert pixels(resumed) == whole[1:] and len(set(whole)) == 4 and len(resumed) == 4


def test_batches_do_not_depend_on_workers_and_leave_the_random_state_alone(processor):
    state = torch.get_rng_state()
    assert pixels(loader(batches(processor), workers=2)) == pixels(loader(batches(processor)))
    assert torch.equal(state, torch.get_rng_state())


def test_seed_changes_the_scenes(processor):
    assert pixels(loader(batches(processor, seed=1))) != pixels(loader(batches(processor)))


def test_repeat_cycles_over_the_first_batches(processor):
    values = pixels(loader(batches(processor, repeat=2)))
    assert values[:2] == values[2:] and values[0] != values[1]


def test_ranks_share_the_batches_out():
    ranks = [list(RankBatchSampler(3, rank, 2)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == list(range(6)) and not set(ranks[0]) & set(ranks[1])


class Broken(SceneSource):
    def sample(self, index):
        raise UserError("3 of 200 records cannot be used.")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_source_refuses_reaches_the_trainer_as_it_was_said(processor, workers):
    data = SourceBatches(Broken(), Collate(processor), images=1)
    with pytest.raises(ValueError, match=r"^3 of 200 records cannot be used\.$"):
        list(loader(data, workers=workers))


def test_a_loader_is_that_of_its_process_and_step(processor):
    arranged = []
    source = SceneSource(questions=2)
    source.arrange = lambda *given: arranged.append(given)
    data = PrunerData(source, processor, images_per_batch=3, workers=0)
    data.trainer = SimpleNamespace(
        max_steps=4, accumulate_grad_batches=2, global_rank=1, world_size=5, global_step=3, training=True
    )
    loader = data.train_dataloader()
    assert arranged == [(3, 5, 0)]
    assert list(loader.numbers) == [number * 5 + 1 for number in range(8)] and loader.state_dict() == {"batches": 6}
