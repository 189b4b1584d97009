"""Paths by name: what is below the working folder and hub ids stay as they are."""

import pytest

from learnpruner.utils.privacy import name_of, plain, published


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("checkpoints/own", "checkpoints/own"),
        ("/data/me/llava", "llava"),
        ("~/models/llava", "llava"),
        ("../me/llava", "llava"),
        ("a/../../me/llava", "llava"),
        ("file:///data/me/llava", "llava"),
    ],
)
def test_a_path_by_its_name(path, name):
    assert name_of(path) == name
    assert published({"a": [path, 1, None, {"b": (path,)}]}) == {"a": [name, 1, None, {"b": [name]}]}


def test_a_path_below_the_working_folder_is_relative(here):
    assert name_of(here / "logs/x/export") == "logs/x/export" == published(str(here / "logs/x/export"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python train.py backbone.path=/data/me/llava name=x", "python train.py backbone.path=llava name=x"),
        ("'data.json=[/data/me/a.json,~/b.json]'", "'data.json=[a.json,b.json]'"),
        ("plan=../me/plan", "plan=plan"),
        ("python eval.py plan=checkpoints/own data=https://hub.co/a/b", "python eval.py plan=checkpoints/own data=https://hub.co/a/b"),
        ("at 12/32, pruned / unpruned, and/or", "at 12/32, pruned / unpruned, and/or"),
    ],
)  # fmt: skip
def test_a_text_names_files_without_where_they_lie(text, said):
    assert plain(text) == said


@pytest.mark.parametrize("text", ["ASSISTANT:", "[/INST]", ".*_proj", "model.layers.(?:q|k)", "12/32", "/", "a\n/b"])
def test_other_texts_stay(text):
    assert published(text) == text
