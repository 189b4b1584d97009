"""Two processes with two workers each: an epoch meets every sample once, and a resumed one goes on where it stopped."""

import pytest

from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.module import Batches, BatchNumbers, ResumableLoader
from tests.tiny_data import TEXT_ONLY, mix665k

WORLD, WORKERS, IMAGES = 2, 2, 2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """16 records, one of them without an image."""
    folder = mix665k(tmp_path_factory.mktemp("json"))
    return lambda: LlavaJson("llava_v1_5_mix665k.json", root=folder, group_by_length=True)


def met(make, rank, total, done=0):
    """The pictures of each batch that one process's loader yields."""
    source = make()
    source.arrange(IMAGES, WORLD, WORKERS)
    pictures = lambda samples: [round(s.image.getpixel((0, 0))[0] / 10) for s in samples]  # noqa: E731
    loader = ResumableLoader(Batches(source, pictures, IMAGES), BatchNumbers(total, rank, WORLD), lambda: 0, WORKERS)
    loader.load_state_dict({"batches": done})
    return list(loader)


def test_an_epoch_meets_every_sample_once_and_none_is_lost(source):
    batches = [batch for rank in range(WORLD) for batch in met(source, rank, 4)]
    seen = [picture for batch in batches for picture in batch]
    assert set(seen) == set(range(16)) - {TEXT_ONLY}
    assert len(seen) == 16  # one more than there are: the first of the next epoch


def test_a_resumed_process_goes_on_with_the_next_batch(source):
    for rank in range(WORLD):
        assert met(source, rank, 4, done=1) == met(source, rank, 4)[1:]
