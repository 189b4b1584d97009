"""The digits are scikit-learn's, wherever it keeps them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from learnpruner.data import digits


@pytest.mark.parametrize("file", [digits.FILE, Path("elsewhere.csv.gz")])
def test_the_digits_are_those_of_the_package(file, monkeypatch):
    monkeypatch.setattr(digits, "FILE", file)
    images, shown = digits.bundled_digits()
    expected = load_digits()
    np.testing.assert_array_equal(images, expected.images)
    np.testing.assert_array_equal(shown, expected.target)
    assert (images.dtype, shown.dtype) == (expected.images.dtype, expected.target.dtype)
