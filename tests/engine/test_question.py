"""What stages before the LLM read of the question equals what a plain loop reads from the prompt."""

import pytest
import torch
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, ScorePruner, Signal, Stage

MODEL = tiny_llava()
ROWS = [ids(1), ids(2, seed=1, after=9), ids(0, seed=2), ids(1, after=4, seed=3)]
EMBEDS, MASK = Signal("text_embeds"), Signal("text_mask")


class Seen(ScorePruner):
    """Remembers the signals that it was given."""

    def __init__(self, *signals):
        super().__init__()
        self.needs, self.seen = frozenset(signals), {}

    def score(self, view):
        self.seen = {signal: view[signal] for signal in self.needs}
        return view.tokens[..., 0]


def questions(rows, images_of):
    """The embeddings of the words after the last image, for each image, in order."""
    table = MODEL.get_input_embeddings().weight
    words = [row[len(row) - row[::-1].index(IMAGE) :] for row in rows if IMAGE in row]
    return [table[w] for w, count in zip(words, images_of, strict=True) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("at", ["encoder", 0])
def test_each_image_gets_its_own_rows_question(side, at):
    pruner = Seen(EMBEDS, MASK)
    with Plan([Stage(pruner, at)], 0.5).on(MODEL):
        MODEL(**inputs(ROWS, side))
    expected = questions(ROWS, [1, 2, 1])
    assert pruner.seen[MASK].sum(1).tolist() == [6, 9, 9, 4]
    for embeds, mask, words in zip(pruner.seen[EMBEDS], pruner.seen[MASK], expected, strict=True):
        assert torch.equal(embeds[mask], words)


def test_generation_with_beams_reads_the_same_question():
    pruner = Seen(EMBEDS, MASK)
    with Plan([Stage(pruner, 0)], 0.5).on(MODEL):
        MODEL.generate(**inputs(ROWS), max_new_tokens=2, num_beams=2)
    for embeds, mask, words in zip(pruner.seen[EMBEDS], pruner.seen[MASK], questions(ROWS, [1, 2, 1]), strict=True):
        assert torch.equal(embeds[mask], words)


@torch.no_grad()
def test_answers_are_no_part_of_the_question():
    batch, pruner = inputs([ids(1, after=6)]), Seen(EMBEDS, MASK)
    labels = batch["input_ids"].clone()
    labels[:, :-2] = -100
    with Plan([Stage(pruner, "encoder")], 0.5).on(MODEL, "masked"):
        MODEL(**batch, labels=labels)
    words = batch["input_ids"][0, 4 + TOKENS : -2]
    assert torch.equal(pruner.seen[EMBEDS][0], MODEL.get_input_embeddings().weight[words])
