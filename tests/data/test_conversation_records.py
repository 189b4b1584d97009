"""What a training record shows: one image or none that counts."""

import pyarrow as pa

from learnpruner.data.conversation_records import image_of, text_digest
from learnpruner.data.hub import has_image


def test_a_record_of_several_images_shows_none():
    assert image_of({"images": ["a.png"]}) == image_of({"image": "a.png"}) == "a.png"
    assert image_of({"images": ["a.png", "b.png"]}) is image_of({"images": []}) is image_of({"image": ""}) is None


def test_a_digest_is_of_the_seed_and_of_each_part():
    several = [text_digest(["a", "bc"], seed) for seed in (0, 1)] + [text_digest(["ab", "c"]), text_digest(["a", "bd"])]
    assert len(set(several)) == 4 and text_digest(["a", "bc"]) == several[0] < 2**64


def test_rows_with_exactly_one_image_have_one_however_it_is_stored():
    lists = pa.chunked_array([pa.array([["a"], ["a", "b"], [], None])])
    cells = pa.chunked_array([pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "p"}, None])])
    texts = pa.chunked_array([pa.array(["a", "", None])])
    assert has_image(lists).to_pylist() == [True, False, False, False]
    assert has_image(cells).to_pylist() == [True, True, False]
    assert has_image(texts).to_pylist() == [True, False, False]
