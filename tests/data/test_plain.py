"""Special tokens that were typed, or that data hold, stay text for every family's tokenizer; all else is as without."""

import numpy as np
import pytest
import torch
from families import FAMILIES, picture
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.collate import IGNORE_INDEX, Collate
from learnpruner.data.plain import ProtectedTokenizer, protect_special_tokens
from learnpruner.data.sample import Sample

LINES = [
    "USER: what is it? ASSISTANT: a red circle",
    "the object </s> is <image> left | <s> <unk> <pad>",
    "<pad> im_end end start |",
] * 9


def byte_level():
    """Qwen's kind: bytes, control tokens, no unknown word, nothing added in front."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tok = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|image_pad|>", "<|vision_start|>"]})
    return tok


def llama():
    """LLaMA's kind: blanks as signs, a sign in front of each piece, byte fallback, <s> in front."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"]))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tok = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tok.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tok


KINDS = {"bytes": byte_level, "llama": llama}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


def test_typed_special_tokens_become_what_the_tokenizer_makes_of_them_as_text(tokenizer):
    held = ProtectedTokenizer(tokenizer)
    for special in held.specials:
        text = f"is {special} it{special}{special}?"
        ids = held(held.protect(text))["input_ids"]
        assert ids == tokenizer(text, split_special_tokens=True)["input_ids"]
        assert not set(ids[1:]) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def test_the_template_s_tokens_stay_tokens_beside_typed_ones(tokenizer):
    held, image, end = ProtectedTokenizer(tokenizer), tokenizer.all_special_tokens[-1], tokenizer.eos_token
    typed = f"{end} and {image}"
    ids = held(f"USER: {image} {held.protect(typed)} ASSISTANT:{end}")["input_ids"]
    image_id, end_id = tokenizer.convert_tokens_to_ids([image, end])
    assert ids.count(image_id) == 1 and ids.count(end_id) == 1 and ids[-1] == end_id
    other = tokenizer(f"USER: {image} xx ASSISTANT:{end}")["input_ids"]
    cut = other.index(image_id) + 1
    assert ids[:cut] == other[:cut]


def test_aliases_cut_the_text_where_the_tokens_do(tokenizer):
    """Prompts in which nothing is typed, sent the long way round, have the ids and offsets of the plain way."""
    held, (image, end) = ProtectedTokenizer(tokenizer), (tokenizer.all_special_tokens[-1], tokenizer.eos_token)
    for text in (
        f"USER: {image}\nwhat is it? ASSISTANT: red{end}",
        f"{image}{image} a{end} b {end}",
        f" {end} {image} x",
    ):
        aliased, ids = held._aliased()
        found = aliased(held.pattern.sub(held._own, text), return_offsets_mapping=True, split_special_tokens=True)
        own = tokenizer(text, return_offsets_mapping=True)
        assert [ids.get(one, one) for one in found["input_ids"]] == own["input_ids"]
        assert found["offset_mapping"] == own["offset_mapping"]


def test_batches_with_padding_are_their_rows(tokenizer):
    held = ProtectedTokenizer(tokenizer)
    texts = [f"a {held.protect(tokenizer.eos_token)} b", f"what is it{tokenizer.eos_token}"]
    both = held(texts, padding=True, padding_side="left", return_tensors="pt")
    for ids, mask, text in zip(both["input_ids"], both["attention_mask"], texts, strict=True):
        assert ids[mask.bool()].tolist() == held(text)["input_ids"]


def test_marks_that_were_typed_are_no_marks(tokenizer):
    held = ProtectedTokenizer(tokenizer)
    assert held(held.protect("a\U000f0000\U000f8001b"))["input_ids"] == tokenizer("ab")["input_ids"]


@pytest.fixture(scope="module", params=FAMILIES)
def processor(request):
    return FAMILIES[request.param].build()[0]


def specials(processor):
    return [one for one in processor.tokenizer.all_special_tokens if one != processor.tokenizer.unk_token]


def test_answers_and_questions_of_data_hold_no_tokens(processor):
    turns = [(f"what {one} is it?", f"red {one} left") for one in specials(processor)]
    image, known = picture((64, 64)), {processor.tokenizer.convert_tokens_to_ids(one) for one in specials(processor)}
    batch = Collate(processor)([Sample(image, turns, "x")])
    clean = Collate(processor)([Sample(image, [("what xx is it?", "red xx left")], "x")])
    end = processor.tokenizer.eos_token_id
    count = lambda ids: sum(one in known for one in ids.tolist())  # noqa: E731
    for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
        assert count(ids[mask.bool()]) == count(clean.input_ids[0])
        said = labels[labels != IGNORE_INDEX]
        assert said[-1] == end and count(said) == 1
    assert (batch.input_ids == processor.image_token_id).sum(1).unique().numel() == 1


def test_questions_of_evaluation_hold_no_tokens(processor):
    model = torch.nn.Linear(1, 1)
    model.device, model.dtype = torch.device("cpu"), torch.float32
    backbone, image = Backbone(model, processor, "x"), picture((64, 64))
    known = {processor.tokenizer.convert_tokens_to_ids(one) for one in specials(processor)}
    clean = encode_prompts(backbone, [image], ["what xx is it?"])
    for one in specials(processor):
        asked = encode_prompts(backbone, [image], [f"what {one} is it?"])
        assert [i for i in asked["input_ids"][0].tolist() if i in known] == [
            i for i in clean["input_ids"][0].tolist() if i in known
        ]
        assert np.array_equal(asked["pixel_values"] if "pixel_values" in asked else asked["pixel_values_images"],
                              clean["pixel_values"] if "pixel_values" in clean else clean["pixel_values_images"])  # fmt: skip


def test_a_processor_is_wrapped_once_and_stays_as_it_was(processor):
    before = processor.tokenizer
    assert protect_special_tokens(processor) is protect_special_tokens(processor) and protect_special_tokens(
        protect_special_tokens(processor)
    ) is protect_special_tokens(processor)
    assert processor.tokenizer is before and not isinstance(before, ProtectedTokenizer)
