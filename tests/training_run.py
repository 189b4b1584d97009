"""A run of train.py inside a test's own process."""

import sys

import pytest

import train


def start(place, name, *settings):
    """Runs train.py in the folder `place`; returns the run's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["train.py", f"hydra.run.dir=runs/{name}", *settings])
        train.main()
    return place / "runs" / name
