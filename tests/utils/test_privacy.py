"""Paths by name: what is below the working folder and hub ids stay as they are."""

import pytest

from learnpruner.utils.privacy import command_line, hide_path_values, hide_paths, shown_name


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
    assert shown_name(path) == name
    assert hide_path_values({"a": [path, 1, None, {"b": (path,)}]}) == {"a": [name, 1, None, {"b": [name]}]}


def test_a_path_below_the_working_folder_is_relative(here):
    assert shown_name(here / "logs/x/export") == "logs/x/export" == hide_path_values(str(here / "logs/x/export"))


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
    assert hide_paths(text) == said


@pytest.mark.parametrize("text", ["ASSISTANT:", "[/INST]", ".*_proj", "model.layers.(?:q|k)", "12/32", "/", "a\n/b"])
def test_other_texts_stay(text):
    assert hide_path_values(text) == text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.root=/home/Jane Doe/llava", "data.root=llava"),
        ("plan='~/Jane Doe/my plan'", "plan='my plan'"),
        ("data.json=[/home/Jane Doe/a.json,../Jane Doe/b c.json]", "data.json=[a.json,b c.json]"),
        ("'benchmark.datasets={pope: {source: /home/Jane Doe/pope}}'", "'benchmark.datasets={pope: {source: pope}}'"),
        ("plan=file:///home/Jane Doe/plan", "plan=plan"),
        ("benchmark.datasets.x.judge={url: http://host/v1, model: m}", "benchmark.datasets.x.judge={url: http://host/v1, model: m}"),
        ("question=left / right, or and/or: which?", "question=left / right, or and/or: which?"),
        ("backbone.path=llava-hf/llava-1.5-7b-hf", "backbone.path=llava-hf/llava-1.5-7b-hf"),
    ],
)  # fmt: skip
def test_a_command_names_files_whose_folders_have_blanks_in_them(word, said):
    assert command_line(["python", "train.py", word]) == f"python train.py {said}"
