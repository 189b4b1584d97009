"""Two processes with two workers each: an epoch meets every sample once, broken ones are listed once, a resumed one goes on."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from learnpruner.data.datamodule import RankBatchSampler, ResumableLoader, SourceBatches
from learnpruner.data.hub import hub_source
from learnpruner.data.llava_json import LlavaJson
from tests.tiny_data import TEXT_ONLY, mix665k, vsft
from tests.utils.test_distributed import launch

WORLD, WORKERS, IMAGES, RECORDS = 2, 2, 2, 24
BATCHES = RECORDS // (WORLD * IMAGES)  # of each process: one sample more than there are, the first of the next epoch
BROKEN = 8  # a record whose picture is cut short
KINDS = ("json", "disk", "stream", "two files")


def source(kind, folder, skipped=None):
    """24 records, one of them without an image; streams share four files, or two, out to four workers."""
    if kind == "json":
        settings = {"json": "llava_v1_5_mix665k.json", "root": folder / "json", "group_by_length": True}
        return LlavaJson(**settings, skipped=skipped)
    files = folder / ("two" if kind == "two files" else "hub")
    return hub_source(str(files), streaming=kind != "disk", buffer=3, skipped=skipped)


def write(folder, broken=()):
    mix665k(folder / "json", RECORDS)
    vsft(folder / "hub", RECORDS, broken=broken)
    vsft(folder / "two", RECORDS, files=2, broken=broken)
    for i in broken:
        picture = folder / f"json/coco/train2017/{i}.jpg"
        picture.write_bytes(picture.read_bytes()[:100])
    return folder


def met(kind, folder, rank, total=BATCHES, done=0, skipped=None):
    """The pictures of each batch that one process's loader yields."""
    records = source(kind, folder, skipped)
    records.arrange(IMAGES, WORLD, WORKERS)
    pictures = lambda samples: [round(s.image.getpixel((0, 0))[0] / 10) for s in samples]  # noqa: E731
    loader = ResumableLoader(
        SourceBatches(records, pictures, IMAGES), RankBatchSampler(total, rank, WORLD), lambda: 0, WORKERS
    )
    loader.load_state_dict({"batches": done})
    return list(loader)


def main(whole, cut):
    """What one process meets: an epoch, its rest when it is entered in the middle, and three epochs with a broken record."""
    rank = int(os.environ["RANK"])
    found = {}
    for kind in KINDS:
        skipped = cut / f"{kind}.jsonl"
        found[kind] = {
            "epoch": met(kind, whole, rank),
            "resumed": met(kind, whole, rank, done=1),
            "broken": met(kind, cut, rank, 3 * BATCHES, skipped=skipped),
        }
    print(json.dumps(found))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each process met, and the folder of the lists of what was skipped."""
    whole, cut = (tmp_path_factory.mktemp(name) for name in ("whole", "cut"))
    program = ["-m", "tests.data.test_processes", str(write(whole)), str(write(cut, (BROKEN,)))]
    return [json.loads(said.splitlines()[-1]) for said in launch(WORLD, program, whole)], cut


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_meets_every_sample_once_and_none_is_lost(processes, kind):
    seen = Counter(picture for found in processes[0] for batch in found[kind]["epoch"] for picture in batch)
    assert set(seen) == set(range(RECORDS)) - {TEXT_ONLY}
    assert seen.total() == RECORDS and max(seen.values()) == 2  # one sample too many: the first of the next epoch


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_process_goes_on_with_the_next_batch(processes, kind):
    for found in processes[0]:
        assert found[kind]["resumed"] == found[kind]["epoch"][1:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_record_is_listed_once_by_all_processes_and_workers(processes, kind):
    found, folder = processes
    seen = Counter(picture for one in found for batch in one[kind]["broken"] for picture in batch)
    assert set(seen) == set(range(RECORDS)) - {TEXT_ONLY, BROKEN}
    (line,) = (folder / f"{kind}.jsonl").read_text().splitlines()
    assert "cannot be read" in json.loads(line)["reason"]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
