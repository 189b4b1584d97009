"""The list of what was left out, written by several processes at once."""

import json
import multiprocessing

import pytest

from learnpruner.data.skipped_records import SkippedRecords

PROCESSES, RECORDS = 4, 60


def add(path, start, gate):
    """Two thirds of the records, in an order of its own."""
    gate.wait()
    skips = SkippedRecords(100_000, path)
    for i in range(RECORDS * 2 // 3):
        record = (start * 15 + i) % RECORDS
        skips.add(str(record), f"name {record}", "x" * (50 * record))


def test_processes_that_write_at_once_lose_no_line_and_repeat_none(tmp_path):
    path, context = tmp_path / "new" / "skipped.jsonl", multiprocessing.get_context("fork")
    gate = context.Barrier(PROCESSES)
    processes = [context.Process(target=add, args=(path, start, gate)) for start in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(int(line["record"]) for line in lines) == list(range(RECORDS))
    assert all(
        line == {"record": r, "id": f"name {r}", "reason": "x" * (50 * int(r))}
        for line in lines
        for r in [line["record"]]
    )


def test_records_that_others_have_listed_count_towards_the_limit(tmp_path, caplog):
    first, second = (SkippedRecords(300, tmp_path / "skipped.jsonl") for _ in range(2))
    first.add("a", "a", "broken")
    first.add("b", "b", "broken")
    first.add("c", "c", "broken")
    second.add("a", "a", "broken")
    assert caplog.text.count("skipped record") == 3 and second.count == 3
    with pytest.raises(
        ValueError, match=r"4 of 300 records cannot be used, more than 1%; the last one is d: broken; all"
    ):
        second.add("d", "d", "broken")


def test_a_stream_counts_those_it_has_read():
    skips = SkippedRecords(None, None)
    skips.seen = 1000
    for i in range(10):
        skips.add(str(i), "", "")
    with pytest.raises(ValueError, match="11 of 1000 read records cannot be used"):
        skips.add("10", "", "")


def test_one_record_may_be_broken_in_data_of_any_size():
    skips = SkippedRecords(10, None)
    skips.add("a", "a", "broken")
    with pytest.raises(ValueError, match="2 of 10 records cannot be used"):
        skips.add("b", "b", "broken")
