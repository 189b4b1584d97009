"""docs/methods.md describes every config of conf/pruner, as it is."""

import re
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from learnpruner.core.budget import read_share, share_at

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
CONFIGS = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf" / "pruner").glob("*.yaml"))}
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
LINK = re.compile(r"https://\S*\w")


def classes(config):
    return [get_class(stage.pruner._target_) for stage in config.stages]


def has_weights(settings):
    """Whether a pruner that has met a backbone has something to learn."""
    pruner = get_class(settings["_target_"])()
    pruner.prepare(32)
    return any(True for _ in pruner.parameters())


def section(name):
    """The method's own paragraph, or the one that names it as a variant."""
    return SECTIONS.get(name) or next(text for text in SECTIONS.values() if f"`{name}`" in text)


def shares(stages):
    """Stages' shares; one list a budget where they differ."""
    given = [read_share(stage.get("token_share", 1)) for stage in stages]
    budgets = next((list(share) for share in given if isinstance(share, dict)), [1.0])
    return ", ".join(" : ".join(f"{share_at(share, ratio):g}" for share in given) for ratio in budgets)


def row(name, config):
    """The config's line in the table of facts."""
    kinds = classes(config)
    learns = any(has_weights(stage["pruner"]) for stage in OmegaConf.to_container(config, resolve=False)["stages"])
    reconstruction = any(getattr(kind, "reconstruction", False) for kind in kinds)
    cells = [
        f"`{name}`",
        ", ".join(str(stage.at) for stage in config.stages),
        shares(config.stages) if len(config.stages) > 1 else "",
        config.get("positions", "original"),
        "yes" if learns else "",
        "yes" if reconstruction else "",
    ]
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_its_line_and_its_paragraph(name):
    assert row(name, CONFIGS[name]) in PAGE.splitlines()
    assert len(section(name)) > 100


@pytest.mark.parametrize("name", CONFIGS)
def test_the_paragraph_has_the_papers_links(name):
    own = next((kind for kind in classes(CONFIGS[name]) if kind.__module__.endswith("." + name)), None)
    if own is not None:
        assert set(LINK.findall(own.__doc__)) <= set(LINK.findall(section(name)))


@pytest.mark.parametrize("name", SECTIONS)
def test_a_reconstruction_says_so_and_nothing_else_does(name):
    reconstruction = any(getattr(kind, "reconstruction", False) for kind in classes(CONFIGS[name]))
    assert SECTIONS[name].startswith("Reconstruction") == reconstruction


def test_nothing_is_described_that_is_not_there():
    assert set(SECTIONS) <= set(CONFIGS)
    lines = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(lines) == sorted(CONFIGS)
