"""The fuzz of `tests/fuzz_engine.py` on 200 cases; and that it notices what is broken on purpose."""

import pytest
from fuzz.run import run
from fuzz.subjects import KINDS, subject

from learnpruner.engine import sequence_state as session
from learnpruner.engine.sequence_state import SequenceState

CASES = 200
SOON = 60  # cases within which a break is noticed


@pytest.mark.parametrize("index", range(len(KINDS)), ids=["-".join(one) for one in KINDS])
def test_the_engine_equals_deletion_by_plain_hugging_face_modules(index):
    outcomes = [run(0, number) for number in range(index, CASES, len(KINDS))]
    assert not [f"{one.case}: {what} (case {one.number})" for one in outcomes for what in one.mismatches]
    assert sum(one.spent or one.tie for one in outcomes) <= 2


def no_mask(patch):
    """Fillers are attended to."""
    mask = SequenceState.mask
    patch.setattr(SequenceState, "mask", lambda self, x, cache, present, layer: mask(self, x, cache, None, layer))


def late_packing(patch):
    """Results are laid out one position too far to the right."""
    fill = session.forward_fill
    patch.setattr(session, "forward_fill", lambda index, alive, n: fill(index, alive, n).roll(1, 1))


def turned_grids(patch):
    """Columns are taken for rows."""
    for name in {name for name, _ in KINDS}:
        family = type(subject(name).family)
        grids = family.grids
        patch.setattr(family, "grids", lambda *args, grids=grids: [[(w, h) for h, w in one] for one in grids(*args)])


@pytest.mark.parametrize("broken", [no_mask, late_packing, turned_grids])
def test_it_notices_what_is_broken_on_purpose(broken, monkeypatch):
    broken(monkeypatch)
    assert any(run(0, number).mismatches for number in range(SOON))
