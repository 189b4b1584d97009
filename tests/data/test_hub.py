"""Hub datasets, from local folders in their format: on disk and as streams."""

import json

import pytest
from datasets import Dataset, load_dataset

from learnpruner.data.hub import hub_source
from learnpruner.data.streaming import HubStream
from tests.tiny_data import COUNT, TEXT_ONLY, encoded, onevision, turns, vsft, written

SHOWN = [i for i in range(COUNT) if i != TEXT_ONLY]


@pytest.fixture(scope="module", params=["vsft", "onevision", "saved", "jsonl"])
def place(tmp_path_factory, request):
    """Settings that find the same 16 records in each shape."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "vsft":
        return {"source": str(vsft(folder))}
    onevision(folder / "files")
    if request.param == "onevision":
        return {"source": str(folder / "files"), "config": "small"}
    table = load_dataset("parquet", data_files=str(folder / "files/small/*.parquet"), split="train")
    if request.param == "saved":
        table.save_to_disk(folder / "saved")
        return {"source": str(folder / "saved")}
    for i in SHOWN:
        (folder / f"{i}.png").write_bytes(encoded(i))
    rows = [{**row, "image": f"{row['id'][1:]}.png"} for row in table.remove_columns("image")]
    rows[TEXT_ONLY]["image"] = None
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": str(folder)}


@pytest.fixture(params=[False, True], ids=["disk", "stream"])
def source(place, request):
    return lambda **more: hub_source(**place, streaming=request.param, **{"buffer": 5, **more})


def number(sample):
    """Which record a sample is of, by its picture."""
    return round(sample.image.getpixel((0, 0))[0] / 10)


def epoch(source, count=COUNT - 1, first=0):
    return [source.sample(first + i) for i in range(count)]


def test_an_epoch_meets_every_record_once_with_its_own_picture_and_turns(source):
    made = source()
    for first in (0, len(SHOWN)):
        samples = epoch(made, first=first)
        assert sorted(map(number, samples)) == SHOWN
        assert all(sample.turns == turns(number(sample)) for sample in samples)
    assert made.skips.count == 0 and made.imageless == 1


def test_longer_records_are_met_a_question_at_a_time(source):
    samples = epoch(source(questions=1), sum(len(turns(i)) for i in SHOWN))
    asked = sorted((number(sample), turn) for sample in samples for turn in sample.turns)
    assert asked == sorted((i, turn) for i in SHOWN for turn in turns(i))
    assert all(len(sample.turns) == 1 for sample in samples)


def test_order_is_a_function_of_seed_and_index(source):
    first, again, other = source(), source(), source(seed=1)
    order = [number(sample) for sample in epoch(first, 30)]
    assert order == [number(sample) for sample in epoch(again, 30)]
    assert order[:15] != order[15:] and order[:15] != sorted(order[:15])
    for entered in (1, 7, 22):
        assert order[entered:] == [number(sample) for sample in epoch(source(), 30 - entered, entered)]
    assert order != [number(other.sample(i)) for i in range(30)]


def test_a_share_is_the_same_records_for_the_same_seed(source):
    picked = [set(map(number, epoch(source(fraction=0.4, seed=seed), 16))) for seed in (0, 0, 1)]
    assert picked[0] == picked[1] != picked[2]
    assert picked[0] < set(map(number, epoch(source(fraction=0.8, seed=0), 16)))  # a greater fraction adds records
    counts = [len(set(map(number, epoch(source(fraction=0.4, seed=seed), 16)))) for seed in range(8)]
    assert sum(counts) == pytest.approx(0.4 * 8 * len(SHOWN), abs=14)
    if not isinstance(source(), HubStream):
        assert len(picked[0]) == round(0.4 * len(SHOWN))


@pytest.mark.parametrize("fraction", [0, 1.5, -1.0])
def test_a_fraction_out_of_range_is_refused(source, fraction):
    with pytest.raises(ValueError, match=r"data.fraction is .* above 0 and at most 1"):
        source(fraction=fraction)


@pytest.fixture(params=[False, True], ids=["disk", "stream"])
def broken(tmp_path, request):
    """Some records; those of the numbers given cannot be used."""

    def make(count, bad):
        rows = [
            {
                "id": f"r{i}",
                "image": {"bytes": encoded(i % 25)[: 20 if i in bad else None], "path": None},
                "conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "yes"}],
            }
            for i in range(count)
        ]
        written(tmp_path / "data", rows, Dataset.from_list(rows).features, 2)
        return hub_source(
            str(tmp_path / "data"), streaming=request.param, buffer=30, skipped=tmp_path / "skipped.jsonl"
        )

    return make, tmp_path / "skipped.jsonl"


def test_a_broken_picture_is_skipped_listed_once_and_replaced_by_the_next(broken):
    make, listed = broken
    made = make(10, {3})
    ids = [made.sample(i).id for i in range(30)]
    assert "r3" not in ids and set(ids[:10]) == {f"r{i}" for i in range(10) if i != 3}
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["r3"] and "cannot be read" in lines[0]["reason"]


def test_more_than_one_percent_stop_with_a_sentence(broken):
    make, listed = broken
    made = make(150, range(0, 150, 15))
    with pytest.raises(ValueError, match=r"records cannot be used, more than 1%.*skipped.jsonl"):
        [made.sample(i) for i in range(150)]
    assert 2 <= len(listed.read_text().splitlines()) <= 3


def test_data_of_broken_pictures_alone_stops(broken):
    with pytest.raises(ValueError, match=r"cannot be read|can be read"):
        broken[0](2, {0, 1}).sample(0)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_no_such_data_is_refused_with_a_sentence(tmp_path, streaming):
    with pytest.raises(ValueError, match=r"data.source=.*none.*nor one that the Hub gives"):
        hub_source(str(tmp_path / "none"), streaming=streaming)
    Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column with a conversation, conversations or messages"):
        hub_source(str(tmp_path), streaming=streaming)
    Dataset.from_list([{"messages": [{"role": "user", "content": "a"}]}]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column with a picture, image or images"):
        hub_source(str(tmp_path), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["disk", "stream"])
def test_pictures_come_from_the_folder_of_the_data_alone(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(1))
    (tmp_path / "data/own.png").write_bytes(encoded(2))
    said = [{"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}]
    rows = [{"id": name, "image": name, "conversations": said} for name in ("own.png", "../secret.png")]
    (tmp_path / "data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for outside, expected in ((False, {2}), (True, {1, 2})):
        made = hub_source(str(tmp_path / "data"), streaming=streaming, outside=outside)
        assert {number(made.sample(i)) for i in range(4)} == expected


def test_text_alone_is_nothing_to_train_on(tmp_path):
    rows = [{"id": "a", "image": "", "conversations": [{"from": "human", "value": "b"}]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for streaming in (False, True):
        with pytest.raises(ValueError, match="no record with an image and an answer"):
            hub_source(str(tmp_path), streaming=streaming).sample(0)


def stream(folder, count, files):
    """Records that say their number."""
    said = lambda i: [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "yes"}]  # noqa: E731
    rows = [
        {"id": str(i), "image": {"bytes": encoded(1), "path": None}, "conversations": said(i)} for i in range(count)
    ]
    written(folder, rows, Dataset.from_list(rows).features, files)
    return HubStream(str(folder))


def test_workers_share_the_records_of_a_file_out_whatever_their_number(tmp_path):
    made = stream(tmp_path, 80, 1)
    made.arrange(1, 3, 1)
    read = [[int(record["id"]) for record in made.records(lane, 0)] for lane in range(3)]
    assert read == [list(range(lane, 80, 3)) for lane in range(3)]


def test_files_come_in_another_order_each_epoch(tmp_path):
    made = stream(tmp_path, 16, 8)
    orders = [[int(record["id"]) for record in made.records(0, epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(16))


def test_a_stream_that_is_entered_before_where_it_is_begins_again(tmp_path):
    made = stream(tmp_path, 16, 2)
    names = [made.sample(i).id for i in range(12)]
    assert [made.sample(i).id for i in (9, 0, 5)] == [names[i] for i in (9, 0, 5)]
    assert hub_source(str(tmp_path), streaming=True, buffer=7).buffer == 7
