"""What becomes of pictures that are not square: the same in training and in evaluation."""

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image

import learnpruner
from learnpruner.backbones import Backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.collate import Collate
from learnpruner.data.image_padding import apply_image_aspect, pad_to_square
from learnpruner.data.sample import Sample

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))


class One:
    """A source of one wide picture."""

    def arrange(self, images, world, workers):
        pass

    def sample(self, index):
        return Sample(WIDE, [("what color?", "red")], "one")


@pytest.fixture(scope="module")
def processor():
    return FAMILIES["llava"].build()[0]


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (41, 90), (40, 40)])
def test_a_square_holds_the_whole_picture_in_its_middle_and_the_mean_colour_around(size):
    picture = WIDE.resize(size)
    made, pixels = np.asarray(pad_to_square(picture, [0.5, 0.25, 0.0])), np.asarray(picture)
    side, (width, height) = max(size), size
    top, left = (side - height) // 2, (side - width) // 2
    expected = np.broadcast_to(np.array([127, 63, 0], np.uint8), (side, side, 3)).copy()
    expected[top : top + height, left : left + width] = pixels
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("aspect", ["processor", "pad"])
def test_evaluation_shows_a_picture_as_training_does(processor, aspect):
    trained = Collate(processor)([apply_image_aspect(One(), aspect, processor).sample(0)]).pixel_values
    model = torch.nn.Linear(1, 1)
    model.device, model.dtype = torch.device("cpu"), torch.float32
    backbone = Backbone(model, processor, "x", image_aspect=aspect)
    assert torch.equal(encode_prompts(backbone, [WIDE], ["what color?"])["pixel_values"], trained)
    by_hand = pad_to_square(WIDE, processor.image_processor.image_mean) if aspect == "pad" else WIDE
    own = processor(images=[by_hand], text=[processor.image_token], return_tensors="pt")["pixel_values"]
    assert torch.equal(trained, own)


def test_the_two_ways_differ(processor):
    found = [Collate(processor)([apply_image_aspect(One(), a, processor).sample(0)]) for a in ("pad", "processor")]
    assert not torch.equal(found[0].pixel_values, found[1].pixel_values)


def test_an_export_says_how_it_was_trained(tmp_path):
    plan = learnpruner.Plan()
    plan.image_aspect = "pad"
    again = learnpruner.load(plan.save(tmp_path / "export"))
    assert again.image_aspect == "pad" and "pictures padded to squares" in again.describe(576, 32)
    assert learnpruner.load(learnpruner.Plan().save(tmp_path / "other")).image_aspect == "processor"
