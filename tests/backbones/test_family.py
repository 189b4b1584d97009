"""The seam of other families: separators between rows of patches, and images that differ in token count."""

import pytest
import torch
from plans import KINDS, masked_reference, plan, text
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner.backbones.family import ModelFamily
from learnpruner.engine.engine import attach_engine, detach_engine

MODEL = tiny_llava()
ROWS = [ids(2), ids(1, seed=1), ids(0, seed=2)]


class Separated(ModelFamily):
    """A LLaVA whose last column of patches counts as separators: 30 visual tokens, a structural one in each row."""

    projector_skips_dropped = False
    tokens = 30

    def pack(self, rows, inputs, structural):
        rows = rows.unflatten(1, (6, 6))[:, :, :5]
        return list(torch.nn.functional.pad(rows, (0, 0, 0, 1), value=structural).flatten(1, 2))


class Uneven(ModelFamily):
    """Every second image has 20 visual tokens only; its other placeholders are structural."""

    projector_skips_dropped = False

    def pack(self, rows, inputs, structural):
        real = torch.arange(36) < torch.tensor([[36], [20]])[torch.arange(len(rows)) % 2]
        return list(torch.where(real[..., None], rows, structural))


class Mixed(Separated):
    """The same, said to mix neighbours between features and placeholders."""

    projector_is_pointwise = False


@torch.no_grad()
def run(family, pruned, batch, mode="physical"):
    adapter = family(MODEL)
    engine = attach_engine(pruned, adapter, mode)
    try:
        return MODEL(**batch).logits, engine.record
    finally:
        detach_engine(adapter)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [Separated, Uneven, Mixed])
@pytest.mark.parametrize("mode", ["physical", "masked"])
def test_dropping_equals_masking(kind, family, mode):
    batch = inputs(ROWS)
    found, record = run(family, plan(kind, 0.5), batch, mode)
    expected = masked_reference(MODEL, batch, record.cuts, record.alive)
    assert (found - expected)[text(batch)].abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [Separated, Uneven, Mixed])
def test_keep_all_is_the_unmodified_model(kind, family):
    batch = inputs(ROWS)
    found, _ = run(family, plan(kind, 1.0), batch)
    assert torch.equal(found[text(batch)], MODEL(**batch).logits[text(batch)])


def test_separators_stay_and_budgets_count_candidates():
    batch = inputs(ROWS)
    _, record = run(Separated, plan("two", 0.5), batch)
    counts = plan("two", 0.5).counts(30, 6)
    assert [t.sum().item() for t in record.tokens] == [3 * count for count in counts]
    assert record.kept[0].shape == (3, 30)
    stays = record.alive[-1][batch["input_ids"] == IMAGE].view(3, 6, 6)[..., 5]
    assert stays.all()


def test_images_get_shares_of_their_own_count():
    batch, pruned = inputs(ROWS), plan("two", 0.5)
    _, record = run(Uneven, pruned, batch)
    large, small = pruned.counts(36, 6), pruned.counts(20, 6)
    assert record.tokens[0].tolist() == [large[0], small[0], large[0]]
    assert record.tokens[1][:2].sum() == large[1] + small[1]
    assert record.tokens[1][2] == large[1]
    assert TOKENS == 36
