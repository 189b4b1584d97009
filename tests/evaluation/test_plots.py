"""Pictures show what was kept: dropped patches are veiled, kept ones are not, and the outline is closed."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from learnpruner.evaluation.examples import ExampleResult
from learnpruner.evaluation.plots import draw_looks, draw_sweep, enlarged, outline, veiled


@pytest.fixture
def kept():
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1:3] = True
    return mask


def test_kept_patches_keep_their_pixels_and_dropped_ones_fade(kept):
    image = np.random.default_rng(0).random((16, 16, 3))
    picture = veiled(image, kept)
    inside = enlarged(kept, 16, 16)
    np.testing.assert_array_equal(picture[inside], image[inside])
    assert inside.sum() == kept.sum() * 16
    assert (picture[~inside] >= 0.8).all()


def test_the_outline_goes_around_the_kept_patches(kept):
    segments = outline(kept, 16, 16)
    assert len(segments) == 6  # a block of 1 x 2 patches
    corners = [point for segment in segments for point in segment]
    assert all(corners.count(point) % 2 == 0 for point in corners)  # closed
    assert (min(x for x, _ in corners), max(x for x, _ in corners)) == (3.5, 11.5)
    assert (min(y for _, y in corners), max(y for _, y in corners)) == (3.5, 7.5)


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_looks_become_a_png(kept, stages, tmp_path):
    masks = tuple((f"stage {i}", kept) for i in range(stages))
    look = ExampleResult(np.full((16, 16, 3), 0.5), "what is it? " * 8, "red", "red", "blue", True, False, masks)
    own = ExampleResult(np.full((16, 16, 3), 0.5), "own picture?", None, "red", "", None, None, masks)
    path = draw_looks([look, own, look], tmp_path / "new" / "looks.png", "a title")
    assert min(Image.open(path).size) > 300


@pytest.mark.parametrize(
    "text", ["is it $5 or $6?", "$x^{$ is open", "$$", "\\frac{1}{2}", "x" * 3000, "日本 🙂\n\ttwo"]
)
def test_whatever_is_asked_and_answered_is_drawn_as_it_stands(kept, text, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", lambda *_: drawn.append(text))
    look = ExampleResult(np.full((16, 16, 3), 0.5), text, None, text, text, None, None, (("stage", kept),))
    assert min(Image.open(draw_looks([look], tmp_path / "looks.png", text)).size) > 100 and not drawn


def test_a_sweep_becomes_a_png(tmp_path):
    known, unknown = {"value": 0.9, "low": 0.8, "high": 1.0}, {"value": None, "low": None, "high": None}
    results = [
        {"tokens": {"averaged": 31.9}, "retention": known, "baselines": {"random": row(31.9, known)}},
        {"tokens": {"averaged": 63.9}, "retention": known, "baselines": {"random": row(63.9, unknown)}},
    ]
    assert Image.open(draw_sweep(results, tmp_path / "sweep.png")).size[0] > 500


def row(tokens, retention):
    return {"tokens": {"averaged": tokens}, "retention": retention}


@pytest.mark.parametrize("stages", [0, 1, 2, 3])
@pytest.mark.parametrize("examples", [1, 2])
def test_no_text_is_cut_or_lies_on_another(kept, stages, examples, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("learnpruner.evaluation.plots.saved", lambda figure, path: drawn.append(figure) or path)
    masks = tuple((f"from layer {i}", kept) for i in range(stages))
    own = ExampleResult(
        np.full((16, 16, 3), 0.5), "how many of them are there?", None, "four", "four", None, None, masks
    )
    draw_looks([own] * examples, tmp_path / "own.png", "keeping 31.9 of 576 visual tokens on average: 55, 18; " * 2)
    figure = drawn[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    titles = [figure._suptitle, *(part._suptitle for part in figure.subfigs)]
    boxes = [title.get_window_extent(renderer) for title in titles]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    assert not any(boxes[0].overlaps(box) for box in boxes[1:])


def test_the_truth_stands_beside_the_question_and_an_own_picture_has_none(kept, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("learnpruner.evaluation.plots.saved", lambda figure, path: drawn.append(figure) or path)
    masks = (("after the encoder", kept), ("from layer 3", kept))
    for truth in ("red", None):
        look = ExampleResult(np.full((16, 16, 3), 0.5), "which color?", truth, "red", "blue", None, None, masks)
        draw_looks([look], tmp_path / "look.png")
    titles = [figure.subfigs[0]._suptitle.get_text() for figure in drawn]
    assert titles == ["which color? (truth: red)", "which color?"]
    labels = [axes.get_xlabel() for axes in drawn[0].subfigs[0].axes]
    assert labels == ["unpruned: red", "", "pruned: blue"]
