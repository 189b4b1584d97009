"""The golden runner: it finds what differs, it resolves what a case inherits, and all cases of vectors/ pass."""

import json
import subprocess
import sys
from pathlib import Path

import golden
import pytest
import torch
from goldens import expected
from goldens.pyramiddrop import earlier
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "vectors"
FILES = sorted(FOLDER.glob("*.safetensors"))


def test_every_checker_has_vectors():
    checkers = {path.stem for path in (ROOT / "tests" / "goldens").glob("*.py")} - {"__init__"}
    assert checkers == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_method_agrees_with_the_golden_vectors(path):
    lines = list(golden.compare(path))
    assert [str(line) for line in lines if line.wrong] == []
    assert any(line.verdict == "ok" for line in lines)


def write(path, tensors, metadata):
    save_file(tensors, str(path), {case: json.dumps(values) for case, values in metadata.items()} | {"format": "pt"})
    return path


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A method that keeps the largest scores, its checker, and a folder with one golden file for it."""
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "largest.py").write_text(
        "def check(name, tensors, settings):\n"
        "    if 'keep_indices' not in tensors:\n"
        "        return False\n"
        "    found = tensors['scores'].topk(settings['keep']).indices.sort().values\n"
        "    assert found.tolist() == tensors['keep_indices'].tolist(), f'kept {found.tolist()}'\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(golden, "CHECKERS", "made_up")
    folder = tmp_path / "files"
    folder.mkdir()
    tensors = {"small/scores": torch.tensor([3.0, 1.0, 2.0]), "small_keep2/keep_indices": torch.tensor([0, 2])}
    write(folder / "largest.safetensors", tensors, {"small": {"grid": 1}, "small_keep2": {"keep": 2}})
    yield folder
    for name in [name for name in sys.modules if name.startswith("made_up")]:
        del sys.modules[name]


def test_agreement_is_exit_code_0_with_a_line_a_case(made, capsys):
    assert golden.main([str(made)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines[:2]] == [["small", "inputs", "only"], ["small_keep2", "ok"]]
    assert lines[-1] == "1 files: 1 cases ok, 0 wrong, 1 with inputs only"


def test_a_wrong_index_is_found(made, capsys):
    tensors = {"small/scores": torch.tensor([3.0, 1.0, 2.0]), "small_keep2/keep_indices": torch.tensor([0, 1])}
    write(made / "largest.safetensors", tensors, {"small": {}, "small_keep2": {"keep": 2}})
    assert golden.main([str(made)]) == 1
    assert "DIFFERS: kept [0, 2]" in capsys.readouterr().out


def test_a_method_that_raises_differs_and_hides_no_other_case(made, capsys):
    tensors = {
        "small/scores": torch.tensor([3.0, 1.0, 2.0]),
        "small_a/keep_indices": torch.tensor([0, 2]),
        "small_b/keep_indices": torch.tensor([0, 2]),
    }
    write(made / "largest.safetensors", tensors, {"small_a": {}, "small_b": {"keep": 2}})
    assert golden.main([str(made)]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS: KeyError: 'keep'" in said
    assert "1 cases ok, 1 wrong" in said


def test_a_nested_prefix_is_resolved_nearest_first(tmp_path):
    tensors = {
        "small/x": torch.tensor([0]),
        "small/y": torch.tensor([0]),
        "small_k8/y": torch.tensor([1]),
        "smaller/x": torch.tensor([9]),
    }
    metadata = {
        "small": {"grid": 8, "alpha": 0.1},
        "small_k8": {"alpha": 0.5},
        "small_k8_r2": {"r": 2},
        "small_k9_RAISES": {"keep": 9},
    }
    cases = {
        case: (found, given) for case, found, given in golden.read(write(tmp_path / "f.safetensors", tensors, metadata))
    }
    assert sorted(cases) == ["small", "small_k8", "small_k8_r2", "small_k9_RAISES", "smaller"]
    found, given = cases["small_k8_r2"]
    assert {name: value.item() for name, value in found.items()} == {"x": 0, "y": 1, "small/y": 0}
    assert given == {"grid": 8, "alpha": 0.5, "r": 2, "cases": metadata}
    assert cases["small_k9_RAISES"][1] == {"grid": 8, "alpha": 0.1, "keep": 9, "cases": metadata}
    assert cases["smaller"][0]["x"].item() == 9
    assert "y" not in cases["smaller"][0]


def test_what_is_kept_is_said_by_one_case_alone(tmp_path):
    tensors = {
        "a/keep_indices": torch.tensor([0]),
        "a/keep_mask": torch.tensor([1]),
        "a_b/keep_mask": torch.tensor([2]),
    }
    cases = {case: found for case, found, _ in golden.read(write(tmp_path / "f.safetensors", tensors, {"a_b_c": {}}))}
    assert set(cases["a"]) == {"keep_indices", "keep_mask"}
    assert {name: value.item() for name, value in cases["a_b"].items()} == {"keep_mask": 2}
    assert cases["a_b_c"].keys() == cases["a_b"].keys()


def test_a_checker_cannot_change_another_case(tmp_path):
    tensors = {"a/x": torch.zeros(2), "a_b/y": torch.zeros(1)}
    first, second = golden.read(write(tmp_path / "f.safetensors", tensors, {"a": {"keep": 2}}))
    first[1]["x"] += 1
    first[2]["cases"]["a"]["keep"] = 3
    assert second[1]["x"].tolist() == [0, 0]
    assert second[2] == {"keep": 2, "cases": {"a": {"keep": 2}}}


def test_what_a_case_keeps_is_said_by_indices_by_a_mask_or_by_both_alike():
    index, mask = torch.tensor([[2, 0]]), torch.tensor([[True, False, True]])
    assert expected({}, 1) is None
    for said in ({"keep_indices": index}, {"keep_mask": mask}, {"keep_indices": index, "keep_mask": mask}):
        assert expected(said, 1).tolist() == [[0, 2]]
    with pytest.raises(AssertionError, match="other tokens"):
        expected({"keep_indices": index, "keep_mask": ~mask}, 1)


def test_earlier_stages_keep_what_their_cases_say_or_shrink_evenly():
    cases = {"small": {"image_len": 64}, "small_stage0_keep48": {"keep": 48}, "b_stage0_keep9": {"keep": 9}}
    given = {"image_len": 64, "cases": cases}
    assert earlier("small_stage0_keep48", given, entering=64) == []
    assert earlier("small_stage1_keep32", given, entering=48) == [48]
    assert earlier("small_stage2_keep8", given, entering=24) == [48, 24]
    assert earlier("large_stage2_keep8", given, entering=16) == [32, 16]


@pytest.mark.parametrize("stem", ["nobody", "not-a-name"])
def test_a_file_without_a_checker_is_wrong(made, capsys, stem):
    write(made / f"{stem}.safetensors", {"a/x": torch.zeros(1)}, {})
    assert golden.main([str(made)]) == 1
    assert f"NO CHECKER: no method of this name is compared; write tests/made_up/{stem}.py" in capsys.readouterr().out


def test_a_checker_that_cannot_be_imported_is_wrong_and_hides_no_file(made, capsys):
    (made.parent / "made_up" / "broken.py").write_text("import nothing.of.that.name")
    write(made / "broken.safetensors", {"a/x": torch.zeros(1)}, {})
    assert golden.main([str(made)]) == 1
    said = capsys.readouterr().out
    assert "BROKEN CHECKER: ModuleNotFoundError" in said
    assert "1 cases ok, 1 wrong" in said


def test_a_file_of_which_nothing_is_compared_is_wrong(made, capsys):
    write(made / "largest.safetensors", {"small/scores": torch.zeros(3)}, {})
    assert golden.main([str(made)]) == 1
    assert "NOTHING COMPARED" in capsys.readouterr().out


def test_a_damaged_file_is_wrong(made, capsys):
    (made / "largest.safetensors").write_bytes(b"not safetensors at all")
    assert golden.main([str(made)]) == 1
    assert "UNREADABLE" in capsys.readouterr().out


def test_a_bad_folder_is_one_sentence_and_a_code(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for given, words in (
        (tmp_path / "nowhere", "is no folder"),
        (tmp_path / "file", "is no folder"),
        (tmp_path, "holds no"),
    ):
        assert golden.main([str(given)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert words in said[0]
    assert golden.main([]) == 2


def test_it_runs_from_any_folder_with_the_package_not_installed(tmp_path):
    write(tmp_path / "fastv.safetensors", {"small/attention": torch.zeros(1)}, {})
    command = [sys.executable, str(ROOT / "tests" / "golden.py"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "NOTHING COMPARED" in ran.stdout
