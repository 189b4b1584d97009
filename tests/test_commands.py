"""Every command that a page or a config shows composes, and passes the checks that come before anything is loaded."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from learnpruner.cli.main import hydra_main
from tests.test_docs import LIVE

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
OWN_TEST = ("real_models.md", "reliability.md")  # tests/test_real_models_page.py; what is refused there is meant to be
FILES = [page for page in LIVE if page.name not in OWN_TEST] + sorted(CONF.rglob("*.yaml"))
COMMAND = re.compile(r"python (train|eval)\.py((?:\\\n|[^`\n|])*)")
WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""")
STAND_INS = {
    "pruner=NAME": "pruner=learnpruner",
    "pruner=x": "pruner=learnpruner",
    "benchmark=NAME": "benchmark=scenes",
}
NOT_HERE = ("--config-dir", "ckpt_path=", "salient", "pruner=...")  # need files of somebody's own


def settings(text):
    """The words behind a program's name that are settings, up to the first that is prose."""
    found = []
    for word in WORD.findall(text.replace("\\\n", " ").split(" #")[0].split("   ")[0]):
        if not ("=" in word or word.startswith("-")) or word.startswith("["):
            break
        (plain,) = shlex.split(word if word.endswith("...") else word.rstrip(".,;:"))
        found.append(STAND_INS.get(plain, plain))
    return found


def commands(file):
    """(program, settings) of each command, once each."""
    text = file.read_text(encoding="utf-8")
    found = [(program, *settings(rest)) for program, rest in COMMAND.findall(text)]
    return [one for one in dict.fromkeys(found) if not any(word in " ".join(one) for word in NOT_HERE)]


SHOWN = {file: commands(file) for file in FILES}


@pytest.mark.parametrize("file", [file for file in FILES if SHOWN[file]], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_composes(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for program, *words in SHOWN[file]:
        if "--help" in words:
            continue
        reached = []
        monkeypatch.setattr(sys, "argv", [f"{program}.py", *words])
        try:
            hydra_main(CONF, program)(lambda config, folder, reached=reached: reached.append(config))()
        except SystemExit:
            pytest.fail(f"python {program}.py {shlex.join(words)}\n{capsys.readouterr().err}")
        assert reached


def test_the_commands_are_found():
    """Which pages show commands is no accident of how they are read."""
    assert {"README.md", "commands.md", "kv.md", "benchmarks.md"} <= {file.name for file in FILES if SHOWN[file]}
    assert ("train", "-m", "hparams=prune_ratios") in SHOWN[CONF / "hparams" / "prune_ratios.yaml"]
    assert len(SHOWN[ROOT / "docs" / "commands.md"]) > 12
    assert all(SHOWN[file] for file in CONF.glob("debug/*.yaml"))
    assert all(SHOWN[file] for file in CONF.glob("hparams/*.yaml"))
