"""What no program can use is refused by its command line in one sentence, before anything is computed."""

import importlib
import sys

import pytest

from tests.tiny_folder import tiny_folder

BAD = {
    "profiling.selection_latency": ["--threads=0", "--repeats=0", "--repeats=many"],
    "profiling.compute_estimate": [
        "--gpus=0",
        "--batch=-1",
        "--mfu=1.5",
        "--peak=inf",
        "--bandwidth=0",
        "--pool=-1",
        "--images=0",
    ],
    "comparison.compare_exports": ["--limit=0", "--batch-size=-1"],
    "data.scenes.__main__": ["--count=0", "--questions=-1", "--seed=-1"],
    "nano.pretrain": ["--threads=0", "--scale=0", "--scale=nan"],
    "nano.condition": ["--count=0", "--batch=-1"],
}


@pytest.mark.parametrize(("program", "word"), [(name, word) for name, words in BAD.items() for word in words])
def test_a_bad_number_is_named_with_its_rule(program, word, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    taken = [str(tmp_path / "one")] if program in ("comparison.compare_exports", "data.scenes.__main__") else []
    monkeypatch.setattr(sys, "argv", [program, *taken, word])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"learnpruner.{program}").main()
    option, value = word.split("=")
    assert stopped.value.code == 2
    assert f"error: argument {option}: {value!r} is refused; give a " in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("comparison.compare_exports", ["nowhere"], "nowhere"),
        ("comparison.compare_exports", ["one", "--backbone=nowhere"], "nowhere"),
        ("comparison.compare_exports", ["a/one", "b/one"], "two plans are named one"),
        ("nano.condition", ["--edition=1", "--backbone=nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_one_sentence(program, words, said, monkeypatch, capsys, tmp_path):
    if words == ["nowhere"]:
        words = [*words, f"--backbone={tiny_folder(tmp_path / 'tiny')}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"learnpruner.{program}").main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "error: " in last and said in last
