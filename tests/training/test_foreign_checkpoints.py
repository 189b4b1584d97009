"""Whatever a checkpoint's file holds, it is read as a whole checkpoint or refused in one sentence."""

import copy
import io

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnpruner.training.resume_checks import (
    checkpoint_settings,
    read_checkpoint,
    setting_differences,
    unbound_settings,
)
from learnpruner.utils.errors import UserError

FEW = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WHOLE = {
    "state_dict": {"weight": torch.ones(2)},
    "global_step": 3,
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"params": [0], "lr": 0.1}]}],
    "lr_schedulers": [{"last_epoch": 3}],
    "config": {"seed": 0, "data": {"streaming": False}},
    "facts": {"data": "x"},
    "loops": {
        "fit_loop": {
            "epoch_loop.batch_progress": {"total": {"ready": 3}, "current": {"ready": 3}},
            "epoch_loop.state_dict": {"_batches_that_stepped": 3},
            "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": {"total": {"completed": 3}}}},
            "state_dict": {"combined_loader": [{"batches": 3}]},
        }
    },
}


def paths(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from paths(part, (*path, key))


LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4)
    | st.sampled_from([torch.ones(2), torch.tensor(3), torch.ones(0), torch.tensor(float("nan")), torch.tensor([True])])
)  # fmt: skip
ANY = st.recursive(
    LEAF,
    lambda inside: (
        st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inside, max_size=2)
    ),
    max_leaves=4,
)


def whole_or_sentence(path):
    try:
        held = read_checkpoint(str(path))
        config = checkpoint_settings(held, str(path))
        list(setting_differences(config, WHOLE["config"], unbound_settings(held)))
    except UserError as error:
        assert str(error).strip()
        return None
    assert isinstance(held, dict) and isinstance(held["global_step"], int)
    return held


def written(path, held):
    buffer = io.BytesIO()
    torch.save(held, buffer)
    path.write_bytes(buffer.getvalue())
    return path


def test_a_whole_one_is_read(tmp_path):
    assert whole_or_sentence(written(tmp_path / "a.ckpt", WHOLE))["global_step"] == 3


@FEW
@given(path=st.sampled_from([path for path in paths(WHOLE) if path]), value=ANY, gone=st.booleans())
def test_any_value_in_any_place_is_read_or_a_sentence(tmp_path, path, value, gone):
    held = copy.deepcopy(WHOLE)
    place = held
    for key in path[:-1]:
        place = place[key]
    if gone:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    whole_or_sentence(written(tmp_path / "a.ckpt", held))


@FEW
@given(value=ANY)
def test_any_value_is_no_checkpoint(tmp_path, value):
    assert whole_or_sentence(written(tmp_path / "a.ckpt", value)) is None


@FEW
@given(at=st.floats(0, 1), junk=st.binary(max_size=8), cut=st.booleans())
def test_any_bytes_in_any_place_are_read_or_a_sentence(tmp_path, at, junk, cut):
    whole = written(tmp_path / "a.ckpt", WHOLE).read_bytes()
    place = int(at * len(whole))
    (tmp_path / "a.ckpt").write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    whole_or_sentence(tmp_path / "a.ckpt")
