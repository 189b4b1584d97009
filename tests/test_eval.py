"""eval.py as a user runs it: on an export, on a config, on the unpruned model, on their own picture; and what it refuses."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import GenerationMixin

from learnpruner.backbones import load_backbone
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parent.parent
FAST = ["benchmark.limit=7", "benchmark.batch_size=7", "benchmark.num_examples=2", "device=cpu"]
TWO = "benchmark.baselines_to_run=[random,uniform+text]"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def export(tiny, tmp_path_factory):
    backbone = load_backbone(tiny)
    plan = build_baselines(PrunerConfigs(), {"own": "learnpruner"}, 0.2, backbone, seed=3)["own"]
    return plan.save(tmp_path_factory.mktemp("export") / "own", backbone=backbone.name)


@pytest.fixture(scope="module")
def damaged(export, tmp_path_factory):
    """An export whose weights end too early."""
    folder = shutil.copytree(export, tmp_path_factory.mktemp("damaged") / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return folder


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """An export for a vision tower of width 48, where the tests' backbone has 32."""
    backbone = load_backbone(tiny_folder(tmp_path_factory.mktemp("wide"), width=48))
    plan = build_baselines(PrunerConfigs(), {"own": "learnpruner"}, 0.2, backbone)["own"]
    return plan.save(tmp_path_factory.mktemp("wider") / "own")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """Runs eval.py in this process: exit code, printed lines, error lines."""

    def start(*arguments, limits=FAST):
        monkeypatch.setattr(
            sys, "argv", ["eval.py", f"backbone.path={tiny}", f"hydra.run.dir={tmp_path / 'run'}", *limits, *arguments]
        )
        capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return start


def results_of(lines):
    """The file that the last line names."""
    assert lines[-1].startswith("results: ")
    return Path(lines[-1].removeprefix("results: "))


def test_an_export_is_scored_beside_its_baselines(run, export):
    code, lines, _ = run(f"plan={export}", TWO)
    assert code == 0
    path = results_of(lines)
    result = json.loads(path.read_text())
    assert (result["plan"], result["samples"], result["prune_ratio"]) == ("own", 7, 0.2)
    assert list(result["baselines"]) == ["random", "uniform+text"]
    assert {"answers.csv", "config.yaml", "report.md", "results.json", "tokens.png"} <= {
        f.name for f in path.parent.iterdir()
    }
    assert any(line.startswith("keeping ") for line in lines)
    assert any(line.startswith("own ") for line in lines)


def test_the_program_gives_equal_numbers_in_a_fresh_process(run, tiny, export, tmp_path):
    here = json.loads(results_of(run(f"plan={export}", "benchmark.baselines_to_run=[]")[1]).read_text())
    command = [
        sys.executable, str(ROOT / "eval.py"), f"plan={export}", f"backbone.path={tiny}", "benchmark.baselines_to_run=[]", *FAST,
        f"hydra.run.dir={tmp_path / 'fresh'}",
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout
    fresh = json.loads(results_of(said.splitlines()).read_text())
    for key in ("accuracy", "unpruned", "retention", "tokens"):
        assert fresh[key] == here[key]


def test_the_unpruned_model_alone(run):
    code, lines, _ = run("plan=none")
    result = json.loads(results_of(lines).read_text())
    assert code == 0
    assert (result["plan"], result["baselines"], result["prune_ratio"]) == (None, {}, 1.0)
    assert result["accuracy"] == result["unpruned"]
    assert any("keeping all" in line for line in lines)


def test_a_config_needs_no_export(run):
    code, lines, _ = run("pruner=uniform", "prune_ratio=0.25", "benchmark.baselines_to_run=[]")
    result = json.loads(results_of(lines).read_text())
    assert code == 0
    assert result["plan"] == "uniform"
    assert result["tokens"] == {"entering": 16, "averaged": 16.0, "final": 16}


def test_an_export_can_be_given_another_budget(run, export):
    result = json.loads(
        results_of(run(f"plan={export}", "prune_ratio=0.5", "benchmark.baselines_to_run=[]")[1]).read_text()
    )
    assert result["prune_ratio"] == 0.5
    assert result["tokens"]["averaged"] == pytest.approx(32, abs=0.5)


def test_your_own_picture_is_answered_twice_and_drawn(run, export, tmp_path):
    picture, question = tmp_path / "my picture, it's [x] (1).png", "what's its color,\n<image> </s> ${why} = (a or b)?"
    Image.new("RGB", (300, 200), "teal").save(picture)
    code, lines, _ = run(f"plan={export}", f"image={picture}", f"question={question}")
    result = json.loads(results_of(lines).read_text())
    assert code == 0
    assert result["question"] == question
    assert {"unpruned", "pruned"} <= set(result)
    assert min(Image.open(results_of(lines).parent / "tokens.png").size) > 200


@pytest.mark.parametrize(
    "fails", ["evaluation.plots.saved", "evaluation.accuracy_task.run_examples", "comparison.plot.Figure"]
)
def test_a_picture_that_cannot_be_drawn_costs_no_results(fails, run, export, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("pixels in five dimensions")

    monkeypatch.setattr(f"learnpruner.{fails}", broken)
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "own.png")
    asked = ["benchmark.baselines_to_run=[]"]
    if fails == "evaluation.plots.saved":
        asked = [f"image={tmp_path / 'own.png'}", "question=what"]
    limits = FAST
    if "comparison" in fails:
        limits, asked = PEERS, ["benchmark.methods=[random]", "prune_ratios=[0.2]"]
    code, lines, _ = run(f"plan={export}", *asked, limits=limits)
    path = results_of(lines)
    result, names = json.loads(path.read_text()), {file.name for file in path.parent.iterdir()}
    assert code == 0 and result["backbone"]
    assert not names & {"tokens.png", "peers.png"}
    assert "question" in result or names & {"report.md", "peers.md"}
    assert "pixels in five dimensions" in (path.parent / "eval.log").read_text()


def lost_folder():
    shutil.rmtree("run", ignore_errors=True)


def no_memory():
    torch.empty(1 << 60)


@pytest.mark.parametrize(
    ("happens", "words"), [(lost_folder, "folder"), (no_memory, "out of memory"), (lambda: 1 / 0, None)]
)
def test_what_befalls_an_evaluation_is_one_sentence_and_a_bug_is_not(
    happens, words, run, export, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plain = GenerationMixin.generate

    def generate(*given, **more):
        happens()
        return plain(*given, **more)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    if words is None:
        with pytest.raises(ZeroDivisionError):
            run(f"plan={export}", "benchmark.baselines_to_run=[]")
        return
    code, _, errors = run(f"plan={export}", "benchmark.baselines_to_run=[]")
    said = [line for line in errors if line.startswith("error: ")]
    assert code == 2 and len(said) == 1 and words in said[0]


ONCE = ["device=cpu", "benchmark.repeats=1", "benchmark.warmup=0"]


def test_speed_is_measured_against_the_unpruned_model(run, export):
    limits = [*ONCE, "benchmark.batch_sizes=[1,2]", "benchmark.new_tokens=[1,3]"]
    code, lines, _ = run("benchmark=speed", f"plan={export}", limits=limits)
    result = json.loads(results_of(lines).read_text())
    assert code == 0
    assert [batch["batch_size"] for batch in result["batches"]] == [1, 2]
    for batch in result["batches"]:
        assert list(batch["timings"]) == ["unpruned", "keep all", "own"]
        assert all("total_3_ms" in timing for timing in batch["timings"].values())
    assert result["cost"]["own"]["ratio"]["kv_bytes"] > 1
    assert result["command"].startswith("python eval.py ") and "benchmark=speed" in result["command"]
    assert "hydra." not in result["command"]
    assert any("TTFT ms" in line for line in lines)


@pytest.mark.parametrize("source", ["plan", "pruner"])
def test_speed_takes_several_budgets_of_one_plan(run, export, source):
    given = {"plan": f"plan={export}", "pruner": "pruner=random"}[source]
    limits = [*ONCE, "benchmark.batch_sizes=[1]", "benchmark.new_tokens=[1]", "benchmark.keep_all=false"]
    code, lines, _ = run("benchmark=speed", given, "prune_ratios=[0.5,0.25]", limits=limits)
    result = json.loads(results_of(lines).read_text())
    name = {"plan": "own", "pruner": "random"}[source]
    assert code == 0
    assert list(result["batches"][0]["timings"]) == ["unpruned", f"{name} 0.5", f"{name} 0.25"]
    assert result["visual_tokens"][f"{name} 0.5"]["averaged"] == pytest.approx(32, abs=0.5)
    assert result["cost"][f"{name} 0.25"]["ratio"]["flops"] > result["cost"][f"{name} 0.5"]["ratio"]["flops"] > 1


def test_a_training_step_is_timed_beside_a_forward_pass(run, export):
    code, lines, _ = run(
        "benchmark=train_step", "pruner=learnpruner", "prune_ratio=0.25", "benchmark.images=2", limits=ONCE
    )
    result = json.loads(results_of(lines).read_text())
    assert code == 0
    assert result["images"] == result["positions"][0] == 2
    assert result["step"]["ms"] > 0 and result["forward"]["ms"] > 0
    assert result["ratio"] == pytest.approx(result["step"]["ms"] / result["forward"]["ms"])
    assert any(line.split()[1:3] == ["training", "step"] for line in lines)


PEERS = [
    "benchmark=peers",
    "benchmark.limit=7",
    "benchmark.batch_size=4",
    "device=cpu",
    "benchmark.selection_repeats=0",
    "benchmark.export_pattern='nowhere/{method}'",  # not those that ship, which are for another width
]
THREE = ["benchmark.methods=[random,own,learnpruner_stage1]", "prune_ratios=[0.5,0.2]"]


def test_all_methods_are_compared_at_all_budgets_in_one_table(run, export):
    code, lines, _ = run(*THREE, f"+benchmark.exports.own={export}", limits=PEERS)
    path = results_of(lines)
    result = json.loads(path.read_text())
    assert code == 0
    assert {"answers.csv", "peers.csv", "peers.md", "peers.png", "answers"} <= {f.name for f in path.parent.iterdir()}
    rows = {(row["method"], row["prune_ratio"]): row for row in result["rows"]}
    methods = ("random", "own", "learnpruner_stage1", "downsampling")
    assert set(rows) == {(method, ratio) for method in methods for ratio in (0.5, 0.2)}
    statuses = {method: rows[method, 0.2]["status"] for method in methods}
    assert statuses == {"random": "ok", "own": "ok", "learnpruner_stage1": "untrained", "downsampling": "ok"}
    assert len({tuple(row) for row in result["rows"]}) == 1  # the same keys
    for row in (rows["random", 0.2], rows["own", 0.2]):
        assert row["tokens"]["averaged"] == pytest.approx(13, abs=0.5)
        assert row["kv_ratio"] > rows[row["method"], 0.5]["kv_ratio"] > 1
        assert row["prefill_ratio"] > 0


def test_a_row_of_the_table_equals_the_plan_alone(run, export, tmp_path):
    result = json.loads(results_of(run(f"plan={export}", *THREE, limits=PEERS)[1]).read_text())
    row = next(row for row in result["rows"] if row["method"] == "own" and row["prune_ratio"] == 0.2)
    limits = [
        "benchmark.limit=7",
        "benchmark.batch_size=4",
        "device=cpu",
        "benchmark.baselines_to_run=[]",
        "benchmark.num_examples=0",
    ]
    limits.append(f"hydra.run.dir={tmp_path / 'alone'}")
    alone = json.loads(results_of(run(f"plan={export}", limits=limits)[1]).read_text())
    for key in ("accuracy", "retention", "tokens"):
        assert row[key] == alone[key]
    assert result["unpruned"] == alone["unpruned"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan=nowhere/at/all"], "nowhere/at/all"),
        (["plan=DAMAGED"], "damaged"),
        (["plan=WIDER"], "48"),
        (["plan=none", "backbone.path=nowhere/at/all"], "nowhere/at/all"),
        (["plan=EXPORT", "pruner=random"], "not both"),
        (["plan=EXPORT", "prune_ratio=1.5"], "1.5"),
        (["plan=EXPORT", "prune_ratio=nan"], "nan"),
        (["plan=EXPORT", "prune_ratio=much"], "prune_ratio"),
        (["pruner=random"], "prune_ratio"),
        (["plan=EXPORT", "benchmark.limit=0"], "benchmark.limit is 0"),
        (["plan=EXPORT", "benchmark.limt=7"], "benchmark.limit"),
        (["plan=EXPORT", "benchmark=sceens"], "scenes"),
        (["plan=EXPORT", "benchmark.baselines_to_run=[fasterVLM]"], "random+text"),
        (["plan=EXPORT", "benchmark.baselines_to_run=random"], "benchmark.baselines_to_run=[random]"),
        (["plan=EXPORT", "device=nosuch"], "device='nosuch' is refused"),
        (["plan=EXPORT", "image=FILE"], "question="),
        (["plan=EXPORT", "image=FILE", "question=what"], "cannot be read as a picture"),
        (["plan=EXPORT", "image=nowhere.png", "question=what"], "does not exist"),
        (["plan=EXPORT", "image=OWN", f"question={'why ' * 9000}"], "the model has 1024 positions: ask a shorter one"),
        (["plan=none", "benchmark=speed"], "plan=PATH"),
        (["plan=none", "prune_ratio=0.1"], "leave one out"),
        (["plan=WIDER"], "backbone.path="),
        (["plan=EXPORT", "+benchmark.limt=7"], "did you mean benchmark.limit?"),
        (["plan=EXPORT", "benchmark.dataset.seed=-1"], "dataset.seed is -1"),
        (["benchmark=kv", "plan=none", "benchmark.budgets=64"], "benchmark.budgets is 64"),
        (["benchmark=kv", "plan=none", "benchmark.baselines_to_run=recent"], "benchmark.baselines_to_run=[recent]"),
        (["benchmark=peers", "plan=nowhere/at/all"], "nowhere/at/all"),
        (["plan=none", "benchmark=train_step"], "plan=PATH"),
        (["plan=EXPORT", "benchmark=train_step", "prune_ratios=[0.5,0.2]"], "one budget"),
        (["pruner=random", "benchmark=train_step", "prune_ratio=0.5"], "no weights to train"),
        (["plan=EXPORT", "benchmark=speed", "benchmark.batch_sizes=[largest]"], "on a GPU only"),
        (["plan=EXPORT", "benchmark=speed", "benchmark.batch_sizes=2"], "give a list: benchmark.batch_sizes=[1,8]"),
        (["plan=EXPORT", "benchmark=speed", "benchmark.clock=sun"], "wall, cpu"),
        (["plan=EXPORT", "benchmark=speed", "benchmark.new_tokens=[0]"], "benchmark.new_tokens is 0"),
        (["benchmark=peers", "prune_ratios=[0.5,1.5]"], "1.5"),
        (["benchmark=peers", "prune_ratios=[]"], "at least one"),
        (["benchmark=peers", "prune_ratios=[0.5,0.5]"], "each budget once"),
        (["benchmark=peers", "prune_ratios=0.5"], "prune_ratios takes a list"),
        (["benchmark=peers", "benchmark.methods=own"], "give a list: benchmark.methods=[own]"),
        (["benchmark=peers", "prune_ratio=0.5"], "prune_ratios="),
        (["benchmark=peers", "pruner=random", "prune_ratio=0.5"], "benchmark.methods="),
        (["benchmark=peers", "benchmark.methods=[fasterVLM]"], "fasterVLM"),
        (["benchmark=peers", "benchmark.positions=new"], "original, compact"),
        (["plan=EXPORT", "prune_ratios=[0.5]"], "prune_ratio=."),
    ],
)
def test_bad_input_is_one_sentence_and_a_code(run, export, damaged, wider, tmp_path, arguments, words):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "own.png")
    places = {
        "OWN": tmp_path / "own.png",
        "EXPORT": export,
        "DAMAGED": damaged,
        "WIDER": wider,
        "FILE": tmp_path / "text.png",
    }
    filled = list(arguments)
    for word, place in places.items():
        filled = [argument.replace(word, str(place)) for argument in filled]
    limits = ["device=cpu"] if any("benchmark=" in a or "limt" in a for a in arguments) else FAST
    code, lines, errors = run(*filled, limits=limits)
    assert code != 0
    said = [line for line in errors if line.startswith("error: ")]
    assert len(said) == 1
    assert words in said[0]
    assert "Traceback" not in "\n".join(errors)
    assert not any(line.startswith("results:") for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [["plan=nowhere"], ["pruner=random", "benchmark.limit=0"], ["plan=EXPORT", "image=nowhere.png", "question=what"]],
)
def test_what_the_disk_tells_is_refused_before_the_backbone_is_loaded(run, export, monkeypatch, arguments):
    monkeypatch.setattr("learnpruner.cli.eval_run.load_backbone", lambda **_: pytest.fail("loaded first"))
    code, _, errors = run(*[argument.replace("EXPORT", str(export)) for argument in arguments])
    assert code == 2 and any(line.startswith("error: ") for line in errors)


def test_one_s_own_questions_are_scored(run, export, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (20, 30), "blue").save(folder / "a.png")
    (tmp_path / "q.csv").write_text("image,question,answer\na.png,what is it ?,a|b\na.png,how many ?,two\n")
    code, out, err = run(
        "benchmark=own", f"benchmark.file={tmp_path / 'q.csv'}", f"benchmark.images={folder}", f"plan={export}",
        "benchmark.max_new_tokens=3",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(results_of(out).read_text())
    assert (result["benchmark"], result["samples"]) == ("own", 2) and {"own", "mean"} == set(result["accuracy"])


def test_a_file_of_questions_that_is_not_there_is_refused(run, export, tmp_path):
    own = ["benchmark=own", "benchmark.num_examples=0", f"benchmark.file={tmp_path / 'none.csv'}"]
    code, _, err = run(*own, f"plan={export}", limits=["device=cpu"])
    assert code == 2 and "none.csv is no file; give a .csv, .json or .jsonl" in err[-1]
