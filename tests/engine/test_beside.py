"""Questions side by side on a pruned cache: a 4-D mask over the whole prompt, of which each layer holds a part."""

import pytest
import torch
from plans import plan
from tiny import ids, inputs, tiny_llava

MODEL = tiny_llava()
QUESTIONS = ([5, 6, 7, 8], [31, 32, 33, 34])


def mask_of(length, prompt, dtype):
    """(1, 1, 2 q, L + 2 q): the prompt, and one's own question up to here."""
    total = sum(map(len, QUESTIONS))
    order = torch.arange(total)
    own = (order[:, None] // length == order // length) & (order[:, None] >= order)
    seen = torch.cat([prompt.expand(total, -1), own], 1)[None, None]
    return seen if dtype is bool else torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["encoder", "zero", "two"])
@pytest.mark.parametrize("dtype", [bool, float])
@pytest.mark.parametrize("padded", [False, True])
def test_questions_side_by_side_answer_as_each_alone(kind, dtype, padded):
    prompt = inputs([ids(1)])
    if padded:
        prompt["input_ids"] = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt["input_ids"]], 1)
        prompt["attention_mask"] = (torch.arange(prompt["input_ids"].shape[1]) >= 3).long()[None]
    length = prompt["input_ids"].shape[1]
    places = length + torch.arange(4) - 3 * padded
    pruned = plan(kind, 0.25)
    real = prompt["attention_mask"].bool()[0]

    def follow(tokens, mask, positions):
        with pruned.on(MODEL):
            cache = MODEL(**prompt, use_cache=True).past_key_values
            out = MODEL(
                input_ids=torch.tensor([tokens]), attention_mask=mask, position_ids=positions[None],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
        return out.logits[0]

    both = follow([*QUESTIONS[0], *QUESTIONS[1]], mask_of(4, real, dtype), places.repeat(2))
    alone = [follow(one, torch.cat([real.long(), torch.ones(4).long()])[None], places) for one in QUESTIONS]
    assert (both - torch.cat(alone)).abs().max() < 1e-5
    assert (alone[0] - alone[1]).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["encoder", "two"])
@pytest.mark.parametrize("dtype", [bool, float])
def test_fillers_of_a_shorter_row_are_seen_by_no_question(kind, dtype):
    prompt = inputs([ids(1), ids(1, before=9, seed=1)])
    length = prompt["input_ids"].shape[1]
    real, asked = prompt["attention_mask"].bool(), torch.tensor([QUESTIONS[0]] * 2)
    masks = torch.cat([mask_of(4, row, dtype)[:, :, :4, : length + 4] for row in real])
    flat, found = torch.cat([real.long(), torch.ones(2, 4).long()], 1), []
    for mask in (masks, flat):
        with plan(kind, 0.25).on(MODEL):
            cache = MODEL(**prompt, use_cache=True).past_key_values
            places = length + torch.arange(4)
            out = MODEL(input_ids=asked, attention_mask=mask, position_ids=places[None], past_key_values=cache)
        found.append(out.logits)
    assert (found[0] - found[1]).abs().max() < 1e-5
