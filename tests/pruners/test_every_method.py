"""Every pruner of every plan in conf/pruner, on what the engine shows it: a new file is tested without touching tests."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from test_every_plan import MODEL, NAMES, make
from tiny import ids, inputs

import learnpruner.pruners
from learnpruner.backbones import family_of, load_backbone
from learnpruner.core.relaxations import SoftTopK
from learnpruner.data.collate import Collate
from learnpruner.data.datamodule import SceneSource, SourceBatches
from learnpruner.pruners.pooling import AveragePooling
from learnpruner.training.choose_module import make_plan_module
from learnpruner.training.losses import default_loss
from learnpruner.utils.errors import UserError
from tests.tiny_folder import tiny_folder

FILES = Path(learnpruner.pruners.__file__).parent
ROWS = 8
BATCH = inputs([ids(1, after=4 + seed % 3, seed=seed) for seed in range(ROWS)])


def shown(plan, model=MODEL, batch=BATCH):
    """Each stage's pruner with the view that it gets of a batch of 8, whose questions differ in length."""
    seen = []
    for stage in plan.stages:
        stage.pruner.together = True
    handles = [
        stage.pruner.register_forward_pre_hook(lambda pruner, args: seen.append((pruner, args[0])))
        for stage in plan.stages
    ]
    with torch.no_grad(), plan.on(model):
        model(**batch)
    for handle in handles:
        handle.remove()
    for stage in plan.stages:
        del stage.pruner.together
    return seen


STAGES = [(name, number) for name in NAMES for number in range(len(make(name, 0.9).stages))]
SHOWN: dict = {}


@pytest.fixture
def case(request):
    """A pruner and its view, shown once."""
    name, number = request.param
    if name not in SHOWN:
        SHOWN[name] = shown(make(name, 0.5))
    return SHOWN[name][number]


every = pytest.mark.parametrize("case", STAGES, ids=[f"{name}-{number}" for name, number in STAGES], indirect=True)


def changed(view, change):
    """The view with every tensor changed."""
    return replace(
        view,
        tokens=change(view.tokens),
        valid=None if view.valid is None else change(view.valid),
        signals={signal: change(value) for signal, value in view.signals.items()},
    )


def rows(view, start, stop):
    return changed(view, lambda value: value[start:stop])


def other_fillers(view, real):
    """The view with other numbers wherever no token is: (B, N) real."""

    def filled(value, axis):
        if axis is None or not value.is_floating_point():
            return value
        over = value.transpose(1, axis)
        return torch.where(real.view(*real.shape, *[1] * (over.dim() - 2)), over, over.flip(0, 1) / 2).transpose(
            1, axis
        )

    signals = {signal: filled(value, signal.axis) for signal, value in view.signals.items()}
    return replace(view, tokens=filled(view.tokens, 1), signals=signals)


@torch.no_grad()
def choose(pruner, view, keep):
    keep = [keep] * view.tokens.shape[0] if isinstance(keep, int) else keep
    return pruner(view, torch.tensor(keep))


def kept(selection, row=0):
    """Indices of one row without fillers."""
    index = selection.index[row]
    return (index if selection.valid is None else index[selection.valid[row]]).tolist()


def right(selection, counts, n):
    """Each row keeps its count of tokens, in range, in reading order, none twice; merged tokens are finite."""
    for row, count in enumerate(counts):
        found = kept(selection, row)
        assert len(found) == count
        assert found == sorted(set(found))
        assert all(0 <= index < n for index in found)
    if selection.merge is not None:
        assert selection.merge.shape == (*selection.index.shape, n)
        assert selection.merge.isfinite().all()
    if selection.values is not None:
        assert selection.values.shape[:2] == selection.index.shape
        assert selection.values.isfinite().all()


def same(one, other, tolerance=0.0):
    """Two selections keep the same tokens, merged or changed alike."""
    assert torch.equal(one.index, other.index)
    for here, there in ((one.merge, other.merge), (one.values, other.values)):
        assert (here is None) == (there is None)
        assert here is None or (here - there).abs().max() <= tolerance


@every
def test_it_keeps_the_right_count_for_every_budget(case):
    pruner, view = case
    view, n = rows(view, 0, 2), view.tokens.shape[1]
    for keep in range(1, n + 1):
        right(choose(pruner, view, keep), [keep, keep], n)


@every
def test_rows_can_have_budgets_of_their_own(case):
    pruner, view = case
    n = view.tokens.shape[1]
    budgets = [1, n, 2, n // 2, 3, n - 1, 5, n // 3]
    together = choose(pruner, view, budgets)
    right(together, budgets, n)
    for row, budget in enumerate(budgets):
        assert kept(together, row) == kept(choose(pruner, rows(view, row, row + 1), budget))


@every
def test_a_batch_of_8_equals_eight_singles(case):
    pruner, view = case
    for keep in (2, 7, view.tokens.shape[1] // 2):
        together = choose(pruner, view, keep)
        for row in range(ROWS):
            alone = choose(pruner, rows(view, row, row + 1), keep)
            merge, values = (
                None if whole is None else whole[row : row + 1] for whole in (together.merge, together.values)
            )
            part = replace(together, index=together.index[row : row + 1], merge=merge, values=values)
            same(part, alone, 1e-5)


@every
def test_ties_are_broken_the_same_way_each_time(case):
    """All tokens alike, as in a picture of one colour."""
    pruner, view = case
    view = changed(rows(view, 0, 2), lambda value: value if value.dtype == torch.int64 else torch.ones_like(value))
    n = view.tokens.shape[1]
    for keep in (1, 2, 5, n // 2, n - 1, n):
        torch.manual_seed(1)
        first = choose(pruner, view, keep)
        torch.manual_seed(2)
        second = choose(pruner, view, keep)
        right(first, [keep, keep], n)
        same(first, second)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(case, dtype):
    """What comes in 16 bits is scored as the same values in 32 would be."""
    pruner, view = case
    half = changed(rows(view, 0, 2), lambda value: value.to(dtype) if value.is_floating_point() else value)
    full = changed(half, lambda value: value.float() if value.is_floating_point() else value)
    for keep in (2, 7, view.tokens.shape[1] // 2):
        found = choose(pruner, half, keep)
        right(found, [keep, keep], view.tokens.shape[1])
        same(found, choose(pruner, full, keep), 1e-2)
        assert found.apply(half.tokens).dtype == dtype


@every
def test_tokens_that_are_not_real_are_never_kept(case):
    """Images differ in token count: row 0 has only two thirds of the places."""
    pruner, view = case
    view, n = rows(view, 0, 2), view.tokens.shape[1]
    real = torch.ones(2, n, dtype=torch.bool)
    real[0, 2 * n // 3 :] = False
    view = replace(view, valid=real)
    if isinstance(pruner, AveragePooling):  # it reads the plane of each row
        with pytest.raises(UserError, match="needs all patches"):
            choose(pruner, view, 4)
        return
    other = other_fillers(view, real)
    for keep in (1, 4, n // 2, n):
        found = choose(pruner, view, keep)
        right(found, [min(keep, int(real[0].sum())), keep], n)
        assert real[0][kept(found)].all()
        assert kept(choose(pruner, other, keep)) == kept(found)  # nor is what stands there read


@every
def test_it_leaves_what_it_sees_alone(case):
    pruner, view = case
    before = changed(view, torch.clone)
    choose(pruner, view, 5)
    assert torch.equal(before.tokens, view.tokens)
    assert all(torch.equal(before.signals[signal], value) for signal, value in view.signals.items())


@every
def test_it_says_where_it_comes_from(case):
    """A class docstring, with the paper or with the word Reconstruction where there is nothing more to point to."""
    pruner, _ = case
    text = type(pruner).__doc__ or ""
    assert len(text) > 40
    assert getattr(pruner, "reconstruction", False) == ("reconstruction" in text.lower())


def test_every_method_has_a_file_and_a_config_of_its_name():
    files = {path.stem for path in FILES.glob("*.py") if not path.stem.startswith("_")}
    second = {"text_attention"}  # the stage behind others, in configs of theirs
    assert files - second <= set(NAMES)
    assert second <= files


LEARNERS = [name for name in NAMES if any(True for _ in make(name, 0.9).prepare(family_of(MODEL)).parameters())]


@pytest.fixture(scope="module")
def trainable(tmp_path_factory):
    """A backbone and a batch of questions to train on."""
    backbone = load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny")))
    return backbone, SourceBatches(SceneSource(questions=2), Collate(backbone.processor), images=2)[0]


def test_something_learns():
    assert "learnpruner" in LEARNERS


@pytest.mark.parametrize("name", LEARNERS)
def test_gradient_reaches_what_learns_and_nothing_else(name, trainable):
    backbone, batch = trainable
    plan = make(name, 0.5).prepare(backbone.family)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    module = make_plan_module(backbone, plan, SoftTopK(), default_loss(), partial(torch.optim.SGD, lr=0.1))
    module.log_dict = lambda values, **_: None
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in plan.parameters())
    assert any(p.grad.abs().sum() > 0 for p in plan.parameters())
    assert all(p.grad is None for p in backbone.model.parameters())
    assert all(torch.equal(before[key], value) for key, value in backbone.model.state_dict().items())


@pytest.mark.parametrize("name", LEARNERS)
def test_what_learns_decides_without_noise_when_it_does_not(name):
    """In evaluation mode nothing is drawn: the same tokens under any seed."""
    for pruner, view in shown(make(name, 0.9)):
        torch.manual_seed(1)
        first = choose(pruner, view, 7)
        torch.manual_seed(2)
        same(first, choose(pruner, view, 7))
