"""Batches decoded back to text: what carries loss, what is a query row, which image a row sees."""

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, picture
from PIL import Image
from transformers import AutoProcessor

from learnpruner.data.collate import IGNORE_INDEX, Collate, render_turn, shared_prefix
from learnpruner.data.sample import Sample
from tests.tiny_folder import tiny_folder

TURNS = [
    [("what color is the circle?", "red"), ("where is the blue object?", "top left")],
    [("is there a red square?", "no")],
]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return AutoProcessor.from_pretrained(tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module", params=["left", "right"])
def batch(processor, request):
    images = [Image.fromarray(np.full((192, 192, 3), value, np.uint8)) for value in (0, 255)]
    samples = [Sample(image, turns, "") for image, turns in zip(images, TURNS, strict=True)]
    return Collate(processor, request.param)(samples)


def decode(processor, ids):
    return processor.tokenizer.decode(ids)


def test_labels_are_the_answer_and_its_end_and_nothing_else(processor, batch):
    answers = [decode(processor, row[row != IGNORE_INDEX]) for row in batch.labels]
    assert answers == ["red </s>", "top left </s>", "no </s>"]
    assert torch.equal(batch.labels[batch.labels != IGNORE_INDEX], batch.input_ids[batch.labels != IGNORE_INDEX])


def test_query_rows_are_the_prompt_behind_the_image(processor, batch):
    texts = [decode(processor, ids[mask]) for ids, mask in zip(batch.input_ids, batch.prompt_mask, strict=True)]
    assert texts[0] == "what color is the circle ? ASSISTANT:"
    assert not (batch.prompt_mask & (batch.labels != IGNORE_INDEX)).any()
    assert not batch.prompt_mask[~batch.attention_mask.bool()].any()


def test_rows_equal_the_processor_s_own_prompt_followed_by_the_answer(processor, batch):
    for row, (question, answer) in enumerate(turn for turns in TURNS for turn in turns):
        prompt, full = render_turn(processor, question, answer)
        image = Image.fromarray(np.zeros((192, 192, 3), np.uint8))
        own = processor(images=[image], text=[prompt], return_tensors="pt")["input_ids"][0]
        mine = batch.input_ids[row][batch.attention_mask[row].bool()]
        assert torch.equal(mine[: len(own)], own)
        assert decode(processor, mine[len(own) :]) == f"{answer} </s>" and full.endswith("</s>")


def test_rows_of_one_image_share_its_pixels(batch):
    assert batch.image_index.tolist() == [0, 0, 1] and len(batch.pixel_values) == 2
    rows = batch.rows()["pixel_values"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2])


def test_answer_positions_predict_the_labels(batch):
    rows, columns = batch.answers.T
    assert torch.equal(batch.input_ids[rows, columns + 1], batch.labels[batch.labels != IGNORE_INDEX])
    assert (columns >= batch.input_ids.shape[1] - batch.tail).all()


def test_prefix_is_the_part_that_rows_of_an_image_share(processor, batch):
    if batch.prefix:
        assert batch.attention_mask[:, : batch.prefix].all()
        shared = batch.input_ids[batch.first_rows[batch.image_index], : batch.prefix]
        assert torch.equal(batch.input_ids[:, : batch.prefix], shared)
        assert not (batch.input_ids[:, batch.prefix :] == processor.image_token_id).any()
    assert bool(batch.prefix) == bool(batch.attention_mask[:, 0].all())


def test_a_template_that_renders_answers_in_its_own_way_still_masks_the_prompt(processor):
    class Odd:
        tokenizer, image_token = processor.tokenizer, processor.image_token

        def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
            text = messages[0]["content"][1]["text"]
            return (
                f"USER: <image> {text} ASSISTANT:"
                if add_generation_prompt
                else f"USER: <image> {text} [ {messages[1]} ]"
            )

    assert render_turn(Odd(), "why?", "red") == (
        "USER: <image> why? ASSISTANT:",
        "USER: <image> why? ASSISTANT: red</s>",
    )


TEXT = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
TEMPLATES = {  # as llava-hf has them: (what is special about them, the prompt, the text behind it)
    "Mistral, whose answers end in no token": (
        "{% for message in messages %}{% if message['role'] == 'user' %}[INST] <image>\n" + TEXT + " [/INST]"
        "{% else %} " + TEXT + "{{ '<\\\\s> ' }}{% endif %}{% endfor %}",
        "[INST] <image>\nwhy? [/INST]",
        " red",
    ),
    "OneVision, with a blank before the line break of answers only": (
        "{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}{% if message['role'] == 'user' %}<image>{% endif %}"
        "{{ '\n' }}" + TEXT + "<|im_end|>{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>user <image>\nwhy?<|im_end|><|im_start|>assistant\n",
        "red",
    ),
}  # fmt: skip


def test_a_prefix_with_padding_is_not_shared():
    ids, first = torch.tensor([[0, 5, 9, 1], [0, 5, 9, 2]]), torch.tensor([0, 0])
    attended = torch.ones_like(ids).bool()
    assert shared_prefix(ids, attended, ids == 9, first) == 3
    attended[:, 0] = False
    assert shared_prefix(ids, attended, ids == 9, first) == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_follows_the_prompt_as_the_model_would_give_it(processor, name):
    template, prompt, behind = TEMPLATES[name]
    special = copy.copy(processor)
    special.chat_template = template
    assert render_turn(special, "why?", "red") == (prompt, f"{prompt}{behind}</s>")


@pytest.mark.parametrize("rows", [[0], [2, 0], [1, 1, 2, 1], [2, 1, 0]])
def test_picked_rows_are_those_of_the_batch(batch, rows):
    picked = batch.pick(torch.tensor(rows))
    answers = [set(batch.answers[batch.answers[:, 0] == row, 1].tolist()) for row in rows]
    assert [set(picked.answers[picked.answers[:, 0] == i, 1].tolist()) for i in range(len(rows))] == answers
    for name in ("input_ids", "attention_mask", "labels", "prompt_mask"):
        assert torch.equal(getattr(picked, name), getattr(batch, name)[rows])
    assert torch.equal(picked.rows()["pixel_values"], batch.rows()["pixel_values"][rows])
    assert len(picked.pixel_values) == len({int(batch.image_index[row]) for row in rows})
    assert picked.image_index[picked.first_rows].tolist() == list(range(len(picked.pixel_values)))
    images = picked.image_index.tolist()
    assert picked.slots.tolist() == [images[:i].count(image) for i, image in enumerate(images)]
    assert picked.most == max(map(images.count, images))


@pytest.mark.parametrize("rows", [[2], [1, 0], [2, 0, 2]])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next"])
def test_picked_rows_keep_what_is_an_image_s_own_where_images_differ_in_size(name, rows):
    sizes = [(64, 64), (40, 90), (48, 48)]
    samples = [Sample(picture(size, i), [("what color? " * (i + 1), "red")], "") for i, size in enumerate(sizes)]
    batch = Collate(FAMILIES[name].make()[0])(samples)
    picked, each = batch.pick(torch.tensor(rows)).rows(), [batch.pick(torch.tensor([row])).rows() for row in range(3)]
    for key in ("input_ids", "mm_token_type_ids"):
        if key in picked:
            assert torch.equal(picked[key], batch.rows()[key][rows])
    for key in picked.keys() - {"input_ids", "mm_token_type_ids", "attention_mask"}:
        assert torch.equal(picked[key], torch.cat([each[row][key] for row in rows])), key
    assert len({one["pixel_values"].double().sum().item() for one in each}) == 3
