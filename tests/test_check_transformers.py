"""tests/check_transformers.py on a small stand-in of a checkout: what only a plan makes fail is named with its reason."""

import os
import subprocess
import sys
from pathlib import Path

import check_transformers as check

TESTS = """
import pytest
import torch
from tiny import ids, inputs, tiny_llava
from transformers import LlavaForConditionalGeneration

BATCH = inputs([ids(1)])


def test_logits_and_answers():
    model = tiny_llava()
    assert model(**BATCH).logits.isfinite().all()
    assert model.generate(**BATCH, max_new_tokens=2, do_sample=False).shape[1] == BATCH["input_ids"].shape[1] + 2


def test_nothing_but_the_class_may_generate():
    assert "generate" not in vars(tiny_llava())


@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_but_the_class_may_generate_when_loaded(tmp_path, fresh):
    tiny_llava().save_pretrained(tmp_path)
    assert "generate" not in vars(LlavaForConditionalGeneration.from_pretrained(tmp_path))


def test_embeddings():
    model = tiny_llava()
    embeddings = model.get_input_embeddings()(BATCH["input_ids"])
    model.generate(inputs_embeds=embeddings, pixel_values=BATCH["pixel_values"], max_new_tokens=1)


def test_fails_in_any_case():
    raise AssertionError("never right")


@pytest.mark.skip(reason="never run")
def test_skipped():
    pass
"""


def run(checkout, *arguments):
    words = [sys.executable, check.__file__, str(checkout), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout, done.stderr


def test_what_fails_newly_is_grouped_by_reason(tmp_path):
    folder = tmp_path / "checkout" / "tests" / "models" / "llava"
    folder.mkdir(parents=True)
    (folder / "test_modeling_llava.py").write_text(TESTS)
    code, out, _ = run(tmp_path / "checkout", "--family", "llava", "video_llava", "--out", str(tmp_path / "out"))
    before, after = (dict(check.read(tmp_path / "out" / f"{name}.jsonl")) for name in ("unmodified", "attached"))
    names = {test.rpartition("::")[2]: test for test in before}
    passed = {name for name, test in names.items() if before[test][0] == "passed"}
    assert passed == set(names) - {"test_fails_in_any_case", "test_skipped"} and len(names) == 7
    assert after[names["test_logits_and_answers"]][0] == "passed"
    assert code == 1 and "5 tests pass unmodified; " in out
    same = [
        f"test_nothing_but_the_class_may_generate{rest}" for rest in ("", "_when_loaded[False]", "_when_loaded[True]")
    ]
    assert {after[names[name]][0] for name in same} == {"failed"} and "3 tests, NOT LISTED: AssertionError" in out
    assert "test_fails_in_any_case" not in out and "test_skipped" not in out


def test_only_a_refusal_whose_words_the_page_has_may_remain(capsys):
    page = "| `inputs_embeds=` with a picture | *`inputs_embeds` beside pictures is refused: give input_ids.* |"
    ours = "learnpruner.utils.errors.UserError: inputs_embeds beside pictures is refused: give input_ids."
    newly = {
        "a": ours,
        "b": ours,
        "c": "ValueError: inputs_embeds beside pictures is refused: give input_ids.",
        "d": "x: y",
    }
    assert check.report(newly, page) == 2
    assert "2 tests, listed" in capsys.readouterr().out
    assert check.report(newly, "") == 4


def test_a_folder_that_is_no_checkout_is_refused_in_a_sentence(tmp_path):
    code, _, said = run(tmp_path)
    assert code == 2 and "no checkout of transformers" in said and Path(str(tmp_path)).name in said
