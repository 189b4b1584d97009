"""What Weights & Biases is told, without it."""

import pytest

from learnpruner.training import loggers


@pytest.mark.parametrize(
    ("mode", "key", "offline"),
    [("auto", True, False), ("auto", False, True), ("online", False, False), ("offline", True, True)],
)
def test_a_run_is_online_where_it_may_be_and_says_whose_it_is(mode, key, offline, tmp_path, monkeypatch):
    told = []

    class Run:
        experiment = None

        def __init__(self, offline=False, **settings):
            told.append((offline, settings))

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(loggers, "WandbLogger", Run)
    monkeypatch.setattr(loggers, "has_wandb_key", lambda: key)
    loggers.make_wandb_logger(tmp_path, "n", {}, project="p", entity="e", group="g", mode=mode)
    ((found, settings),) = told
    assert found == offline
    assert [settings[name] for name in ("project", "entity", "group", "name")] == ["p", "e", "g", "n"]
