"""Labels decoded back to text, for each source and each family's chat template: answers and their ends alone carry loss."""

import pytest
from families import FAMILIES

from learnpruner.data.collate import IGNORE_INDEX, Collate
from learnpruner.data.datamodule import SceneSource
from learnpruner.data.hub import hub_source
from learnpruner.data.llava_json import LlavaJson
from tests.tiny_data import captions558k, mix665k, onevision, vsft

IMAGES = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Three samples of each source."""
    folder = tmp_path_factory.mktemp("data")
    mix, captions = mix665k(folder / "mix"), captions558k(folder / "captions")
    chat, record = str(vsft(folder / "vsft")), str(onevision(folder / "onevision"))
    made = {
        "scenes": SceneSource(questions=2),
        "665k": LlavaJson("llava_v1_5_mix665k.json", root=mix),
        "558k": LlavaJson("blip_laion_cc_sbu_558k.json", "images", root=captions),
        "messages on disk": hub_source(chat),
        "messages streamed": hub_source(chat, streaming=True),
        "conversations on disk": hub_source(record, config="small"),
        "conversations streamed": hub_source(record, config="small", streaming=True),
    }
    return {name: [one.sample(i) for i in range(IMAGES)] for name, one in made.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def processor(request):
    return FAMILIES[request.param].build()[0]


def test_answers_and_their_ends_alone_carry_loss_and_each_turn_is_a_row(processor, sources):
    tokenizer = processor.tokenizer
    for name, samples in sources.items():
        batch = Collate(processor)(samples)
        turns = [turn for sample in samples for turn in sample.turns]
        assert len(batch.labels) == len(turns) > IMAGES, name
        for (question, answer), labels, ids, asked in zip(
            turns, batch.labels, batch.input_ids, batch.prompt_mask, strict=True
        ):
            assert tokenizer.decode(labels[labels != IGNORE_INDEX]).split() == [*answer.split(), tokenizer.eos_token], (
                name
            )
            assert (labels[labels != IGNORE_INDEX] == ids[labels != IGNORE_INDEX]).all()
            words = tokenizer.decode(tokenizer(question, add_special_tokens=False)["input_ids"])
            assert words in tokenizer.decode(ids[asked]) and not (asked & (labels != IGNORE_INDEX)).any(), name
