"""Whatever a file of records holds, training gets samples of it or one sentence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnpruner.data.conversation_records import image_of, turns_of
from learnpruner.data.hub import hub_source
from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.sample import Sample
from learnpruner.utils.errors import UserError
from tests.tiny_data import encoded


def bounded(examples):
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


TEXT = st.sampled_from(["human", "gpt", "user", "assistant", "why?", "<image>\nso", "", "\ud800", "0.png"]) | st.text(
    max_size=6
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=5,
)
SPEAKER, CONTENT = st.sampled_from(["human", "gpt", "user", "assistant"]) | ANY, TEXT | ANY
PART = st.fixed_dictionaries({"type": st.just("text") | ANY, "text": CONTENT}) | ANY
TURN = (
    st.fixed_dictionaries({"from": SPEAKER, "value": CONTENT})
    | st.fixed_dictionaries({"role": SPEAKER, "content": CONTENT | st.lists(PART, max_size=2)})
    | ANY
)
CELL = st.sampled_from(["0.png", "1.png", "../0.png", "missing.png", "/", "", "x" * 300, "a\0b"]) | ANY
RECORD = ANY | st.fixed_dictionaries(
    {"conversations": st.lists(TURN, max_size=4) | ANY},
    optional={"id": ANY, "image": CELL, "images": st.lists(CELL, max_size=2), "messages": st.lists(TURN, max_size=2)},
)


def right(turns):
    return bool(turns) and all(isinstance(text, str) and text for turn in turns for text in turn)


def samples_or_sentence(make):
    try:
        source = make()
        found = [source.sample(i) for i in range(3)]
    except UserError as error:
        assert str(error).strip()
    else:
        assert all(isinstance(one, Sample) and right(one.turns) and one.image.mode == "RGB" for one in found)


def pictures(folder):
    for i in range(2):
        (folder / f"{i}.png").write_bytes(encoded(i))


@bounded(400)
@given(record=RECORD)
def test_a_record_has_turns_of_text_or_none(record):
    turns = turns_of(record)
    assert turns is None or right(turns)
    if isinstance(record, dict):
        image_of(record)


@bounded(100)
@given(records=st.lists(RECORD, max_size=4), lines=st.booleans())
def test_json_of_any_records_is_samples_or_a_sentence(tmp_path, records, lines):
    pictures(tmp_path)
    path = tmp_path / ("data.jsonl" if lines else "data.json")
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    samples_or_sentence(lambda: LlavaJson(path, skipped=None))


@bounded(100)
@given(content=st.binary(max_size=40) | TEXT.map(lambda text: text.encode(errors="surrogatepass")), lines=st.booleans())
def test_any_bytes_as_json_are_samples_or_a_sentence(tmp_path, content, lines):
    path = tmp_path / ("data.jsonl" if lines else "data.json")
    path.write_bytes(content)
    samples_or_sentence(lambda: LlavaJson(path))


@bounded(100)
@given(content=st.binary(max_size=60), at=st.integers(0, 90))
def test_any_bytes_as_a_picture_are_a_sample_or_a_sentence(tmp_path, content, at):
    whole = encoded(1)
    (tmp_path / "0.png").write_bytes(whole[:at] + content + whole[at + len(content) :])
    said = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    (tmp_path / "data.json").write_text(json.dumps([{"image": "0.png", "conversations": said}]))
    samples_or_sentence(lambda: LlavaJson(tmp_path / "data.json"))


SAYS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
SHOWS = {
    "bytes": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "paths": pa.string(),
    "lists": pa.list_(pa.string()),
    "numbers": pa.int64(),
}
WORDS = st.sampled_from(["human", "gpt", "why?", ""]) | st.none()
SAID = st.none() | st.lists(st.none() | st.fixed_dictionaries({"from": WORDS, "value": WORDS}), max_size=3)
PATH = st.none() | st.sampled_from(["0.png", "../0.png", "", "x"])
SHOWN = {
    "bytes": st.none()
    | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=9) | st.just(encoded(0)), "path": PATH}),
    "paths": PATH,
    "lists": st.none() | st.lists(PATH, max_size=2),
    "numbers": st.none() | st.integers(0, 9),
}


@bounded(25)
@given(data=st.data(), kind=st.sampled_from(sorted(SHOWS)), streaming=st.booleans())
def test_parquet_of_any_rows_is_samples_or_a_sentence(tmp_path, data, kind, streaming):
    pictures(tmp_path)
    rows = data.draw(st.lists(st.tuples(SAID, SHOWN[kind]), min_size=1, max_size=4))
    said, shown = zip(*rows, strict=True)
    table = pa.table({"conversations": pa.array(said, SAYS), "image": pa.array(shown, SHOWS[kind])})
    pq.write_table(table, tmp_path / "train.parquet")
    samples_or_sentence(lambda: hub_source(str(tmp_path), streaming=streaming, buffer=2))
