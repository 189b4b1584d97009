"""Signals: a table of what exists, constants with the same names, and a sentence for what is misspelt."""

import pytest

from learnpruner.core import signals
from learnpruner.core.signals import SIGNALS, Signal
from learnpruner.engine.checks import KNOWN_SIGNALS
from learnpruner.utils.errors import UserError


def test_every_signal_has_a_constant_of_its_name():
    constants = {name: one for name, one in vars(signals).items() if isinstance(one, Signal)}
    assert constants == {name.upper(): Signal(name) for name in SIGNALS}


@pytest.mark.parametrize("place", ["before", "inside"])
def test_the_table_lists_what_the_engine_computes(place):
    assert {name for name, info in SIGNALS.items() if info.stages in (place, "both")} == set(KNOWN_SIGNALS[place])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cls_atention", r"did you mean 'cls_attention'\?"),
        ("visoin_keys", r"did you mean 'vision_keys'\?"),
        ("???", "choose one of cls_attention, "),
    ],
)
def test_a_misspelt_signal_is_refused_where_it_is_made(name, hint):
    with pytest.raises(UserError, match=hint):
        Signal(name)


def test_a_layer_can_be_named_and_a_methods_own_value_has_no_axis():
    assert signals.VISION_KEYS.at(-1) == Signal("vision_keys", -1) and signals.VISION_KEYS.layer is None
    assert Signal("_own").axis is Signal("_own").text_axis is None


def test_axes_are_those_of_the_shape():
    assert (signals.TEXT_ROWS.axis, signals.TEXT_ROWS.text_axis) == (3, 2)
    assert (signals.KEYS.axis, signals.TEXT_KEYS.axis, signals.TEXT_KEYS.text_axis) == (1, None, 1)
