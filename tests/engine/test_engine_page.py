"""docs/engine.md says what is so: outputs under a plan, and the sentences of what is refused."""

import re
from pathlib import Path

import pytest
import torch
from plans import plan
from tiny import TOKENS, ids, inputs, tiny_llava
from torch import nn

from learnpruner.utils.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engine.md").read_text("utf-8")
SOURCE = " ".join(
    " ".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8")).split())
    for file in sorted((ROOT / "learnpruner").rglob("*.py"))
)


def sentences():
    table = PAGE.partition("## Refused")[2].partition("\n## ")[0]
    said = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    return [sentence for sentence in said if not sentence.startswith("said when the plan meets the model")]


@pytest.mark.parametrize("sentence", sentences())
def test_every_refusal_on_the_page_is_said_like_that(sentence):
    fixed = [
        part.strip() for part in re.split(r"\.\.\.| N |LlavaModel\.|vision_feature_layer(?:=-1)?|\(-2\)", sentence)
    ]
    assert all(part in SOURCE for part in fixed if part), sentence


@torch.no_grad()
def test_outputs_are_as_long_as_the_page_says():
    model, row = tiny_llava(attention="eager"), ids(1)
    pruned, batch, words = plan("two", 0.5), inputs([row]), len(row) - TOKENS
    first, second = (words + count for count in pruned.counts(TOKENS, 6))
    with pruned.on(model):
        out = model(**batch, output_hidden_states=True, output_attentions=True)
    assert out.logits.shape[1] == len(row)
    assert [state.shape[1] for state in out.hidden_states] == [first] * 3 + [second] * 3 + [len(row)]
    assert [tuple(part.shape[2:]) for part in out.attentions] == [(first, first)] * 2 + [(second, second)] * 4
    assert out.past_key_values.get_seq_length() == len(row)
    assert [out.past_key_values.get_seq_length(layer) for layer in range(6)] == [first] * 2 + [second] * 4
    features = out.image_hidden_states.flatten(0, -2)
    assert int((features == 0).all(-1).sum()) == TOKENS - (first - words)


def test_what_is_wrapped_around_a_model_is_looked_through():
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan().on(model), torch.no_grad():
        expected = model(**batch).logits
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        with plan().on(wrapped) as engine, torch.no_grad():
            assert torch.equal(model(**batch).logits, expected)
            engine.verify()
    torch.compiler.reset()


def test_a_core_or_something_else_is_refused():
    with pytest.raises(UserError, match="with its language head"):
        plan().attach(tiny_llava().model)
    with pytest.raises(UserError, match="not on a Linear"):
        plan().attach(nn.Linear(2, 2))
