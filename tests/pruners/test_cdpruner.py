"""CDPruner against determinants, and its relevance against CLIP itself."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from learnpruner import Plan, Stage, View
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.core.signals import TEXT_IDS, TEXT_MASK, VISION_STATES
from learnpruner.pruners.cdpruner import CDPruner, clip_relevance, dpp_kernel, greedy_map_inference, rescale_relevance
from tests.tiny_folder import tiny_folder


def determinants(matrix, keep):
    """The greedy search from its meaning: each time the token with which the set's determinant is largest."""
    chosen = []
    while len(chosen) < keep:
        rest = [j for j in range(len(matrix)) if j not in chosen]
        size = {j: torch.linalg.slogdet(matrix.double()[[*chosen, j]][:, [*chosen, j]]).logabsdet for j in rest}
        chosen.append(max(rest, key=lambda j: float(size[j])))
    return chosen


@pytest.mark.parametrize("keep", [1, 2, 7, 15])
def test_the_search_is_for_the_largest_determinant(keep):
    found = dpp_kernel(torch.randn(3, 30, 20), torch.rand(3, 30) * 0.9 + 0.1)
    assert greedy_map_inference(found, keep).tolist() == [determinants(matrix, keep) for matrix in found]


def test_at_the_rank_of_the_kernel_the_search_begins_anew():
    """Three times the same five directions: each run through them is complete before the next begins."""
    tokens = torch.nn.functional.one_hot(torch.arange(15) % 5, 5).float()[None] * 3
    order = greedy_map_inference(dpp_kernel(tokens, torch.ones(1, 15)), 15)[0]
    assert sorted(order.tolist()) == list(range(15))
    assert [sorted((order[start : start + 5] % 5).tolist()) for start in (0, 5, 10)] == [list(range(5))] * 3


def test_what_begins_anew_is_a_search_among_the_tokens_left():
    matrix = dpp_kernel(torch.randn(2, 20, 6), torch.rand(2, 20) * 0.5 + 0.5)
    for found, order in zip(matrix, greedy_map_inference(matrix, 12).tolist(), strict=True):
        left = [j for j in range(20) if j not in order[:6]]
        again = determinants(found[left][:, left], 6)
        assert order[6:] == [left[place] for place in again]


def test_every_token_comes_once_however_low_the_rank():
    tokens = torch.randn(2, 40, 3)
    for row in greedy_map_inference(dpp_kernel(tokens, torch.rand(2, 40)), 40):
        assert sorted(row.tolist()) == list(range(40))


def test_rows_may_have_budgets_and_tokens_of_their_own():
    tokens, valid = torch.randn(2, 30, 20), torch.arange(30) < torch.tensor([[30], [12]])
    found = CDPruner()(View(tokens, valid), torch.tensor([15, 5])).mask(30)
    for row, (count, real) in enumerate([(15, 30), (5, 12)]):
        matrix = dpp_kernel(tokens[row : row + 1, :real], torch.ones(1, real))[0]
        assert found[row].nonzero()[:, 0].tolist() == sorted(determinants(matrix, count))


def test_relevance_is_scaled_in_the_image_or_in_the_batch():
    values = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]])
    assert torch.allclose(rescale_relevance(values, False), torch.tensor([[0, 0.5, 1], [0, 2 / 3, 1]]), atol=1e-5)
    assert torch.allclose(rescale_relevance(values, True), torch.tensor([[0, 0.25, 0.5], [0.25, 0.75, 1]]), atol=1e-5)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.allclose(rescale_relevance(values, False, valid)[0, :2], torch.tensor([0.0, 1.0]), atol=1e-5)
    assert rescale_relevance(torch.ones(1, 4), False).tolist() == [[1, 1, 1, 1]]


def test_relevance_is_how_far_a_patch_is_from_the_mean_segment():
    patches, text = torch.randn(2, 9, 6), torch.nn.functional.normalize(torch.randn(3, 6), dim=-1)
    found = clip_relevance(patches, text.mean(0, keepdim=True))
    for row in range(2):
        far = torch.stack([-torch.cosine_similarity(patch[None], text).mean() for patch in patches[row]])
        assert torch.allclose(found[row], (far - far.min() + 1e-6) / (far.max() - far.min()), atol=1e-5)


def test_without_a_text_tower_it_asks_for_nothing():
    assert CDPruner().needs == frozenset()
    with pytest.raises(ValueError, match="needs tokenizer="):
        CDPruner(clip="somewhere")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny LLaVA, and a tiny CLIP whose vision half is its tower's size; words are those of the LLaVA."""
    llava, clip = tiny_folder(tmp_path_factory.mktemp("llava")), tmp_path_factory.mktemp("clip")
    tokenizer = load_backbone(llava).processor.tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    return llava, clip


QUESTIONS = ["is there a circle left of the marked square ?", "what color is the square left of the circle ?"]


@torch.no_grad()
def test_relevance_is_what_clip_says_of_the_question(folders):
    llava, clip = folders
    backbone = load_backbone(llava)
    inputs = encode_prompts(backbone, [torch.zeros(3, 192, 192), torch.rand(3, 192, 192)], QUESTIONS)
    pruner, seen = CDPruner(str(clip), str(llava)), []
    pruner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with Plan([Stage(pruner, 0)], 0.25).on(backbone.model) as engine:
        backbone.model(**inputs)
    (view,) = seen
    assert {signal.name for signal in view.signals} == {s.name for s in (VISION_STATES, TEXT_IDS, TEXT_MASK)}
    model, words = CLIPModel.from_pretrained(clip), backbone.processor.tokenizer
    states = backbone.model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][
        :, 1:
    ]
    patches = model.visual_projection(model.vision_model.post_layernorm(states))
    for row, question in enumerate(QUESTIONS):
        ids = words(question, add_special_tokens=False).input_ids
        assert len(ids) > 6 and words.unk_token_id not in ids, "a question of several segments"
        segments = [[words.bos_token_id, *ids[i : i + 6], words.eos_token_id] for i in range(0, len(ids), 6)]
        texts = [model.get_text_features(torch.tensor([segment])).pooler_output[0] for segment in segments]
        far = -sum(torch.cosine_similarity(patches[row], text[None]) for text in texts) / len(texts)
        expected = (far - far.min() + 1e-6) / (far.max() - far.min())
        assert torch.allclose(pruner.relevance(view)[row], expected, atol=1e-4)
    chosen = greedy_map_inference(dpp_kernel(view.tokens, pruner.relevance(view)), 16).sort(1).values
    assert torch.equal(engine.record.selections[0].index, chosen)
    assert not torch.equal(chosen, greedy_map_inference(dpp_kernel(view.tokens, torch.ones(2, 64)), 16).sort(1).values)


def test_the_text_tower_is_no_part_of_the_export(folders):
    llava, clip = folders
    pruner = CDPruner(str(clip), str(llava))
    assert not pruner.state_dict()
    assert pruner.arguments() == {
        "clip": str(clip),
        "tokenizer": str(llava),
        "suffix": "ASSISTANT:",
        "batchwise": False,
    }


def test_a_text_tower_that_does_not_fit_is_refused(folders, tmp_path):
    llava, clip = folders
    with pytest.raises(ValueError, match="must be folders or hub ids"):
        CDPruner(str(tmp_path), str(llava)).prepare(48)
    pruner = CDPruner(str(clip), str(llava))
    pruner.prepare(48)
    signals = {
        VISION_STATES: torch.randn(1, 9, 24),
        TEXT_IDS: torch.zeros(1, 3, dtype=torch.long),
        TEXT_MASK: torch.ones(1, 3).bool(),
    }
    with pytest.raises(ValueError, match="is 32 wide, the backbone's tower 24"):
        pruner(View(torch.randn(1, 9, 48), signals=signals), torch.tensor([3]))


def test_without_relevance_the_first_token_comes_first_and_rounding_decides_nothing():
    """All are as like themselves as can be: equals, of which the first is taken, in a batch of any shape."""
    tokens = torch.randn(3, 40, 1023)
    found = dpp_kernel(tokens, torch.ones(3, 40))
    assert (found.diagonal(dim1=1, dim2=2) == 1).all()
    assert greedy_map_inference(found, 1).tolist() == [[0], [0], [0]]
    weights = torch.rand(3, 40)
    assert torch.equal(dpp_kernel(tokens, weights).diagonal(dim1=1, dim2=2), weights.square())
    assert not dpp_kernel(torch.zeros(1, 4, 8), torch.ones(1, 4)).any()
