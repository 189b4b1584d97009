"""Pictures of any size, thin ones among them, whose rows or columns of patches vanish when padding is taken off."""

import random

import pytest
import torch
from families import FAMILIES, picture
from plans import masked_reference, plan, real

from learnpruner.backbones import load_backbone

THIN = [(8, 200), (200, 8), (1, 60), (60, 1), (7, 64), (64, 3)]
BATCH = 11


def sizes():
    """110 sizes, evenly over their logarithms, as (height, width)."""
    draw = random.Random(0)
    return [*THIN, *((int(2 ** draw.uniform(0, 8)), int(2 ** draw.uniform(0, 8))) for _ in range(104))]


@pytest.fixture(scope="module", params=["llava_next", "llava_onevision"])
def backbone(request, tmp_path_factory):
    return load_backbone(FAMILIES[request.param].save(tmp_path_factory.mktemp(request.param)))


def batches(backbone):
    every = sizes()
    for start in range(0, len(every), BATCH):
        shown = [[picture(size, start + i)] for i, size in enumerate(every[start : start + BATCH])]
        texts = [f"what {backbone.processor.image_token} is it red"] * len(shown)
        yield dict(backbone.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt"))


@torch.no_grad()
def test_every_size_runs_as_in_the_unmodified_model(backbone):
    for batch in batches(backbone):
        given = {name: batch[name] for name in ("pixel_values", "image_sizes", "batch_num_images") if name in batch}
        features = torch.cat(list(backbone.model.get_image_features(**given).pooler_output))
        expected, where, embeds = backbone.model(**batch).logits, real(batch), []
        handle = backbone.family.language_model.register_forward_pre_hook(
            lambda module, args, kwargs, embeds=embeds: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        with plan("three", 1.0).on(backbone.model):
            found = backbone.model(**batch).logits
        handle.remove()
        assert torch.equal(found[where], expected[where])
        torch.testing.assert_close(embeds[0][backbone.family.placeholders(batch["input_ids"])], features)


@torch.no_grad()
def test_every_size_can_be_pruned(backbone):
    for batch in batches(backbone):
        with plan("two", 0.5).on(backbone.model) as engine:
            found, record = backbone.model(**batch).logits, engine.record
        expected = masked_reference(backbone.model, batch, record.cuts, record.alive)
        text = real(batch) & ~backbone.family.placeholders(batch["input_ids"])
        assert (found - expected)[text].abs().max() < 1e-5
