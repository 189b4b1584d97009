"""scikit-learn's bundled handwritten digits, read without the package, which takes longer to load than a scene to draw."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path("datasets", "data", "digits.csv.gz")  # in the package


def bundled_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read pictures (1797, 8, 8) in [0, 16] and the digit that each shows (1797,), as `sklearn.datasets.load_digits` has them."""
    found = find_spec("sklearn")
    path = Path(found.origin).parent / FILE if found is not None and found.origin else FILE
    if not path.is_file():  # of a version that keeps them elsewhere
        from sklearn.datasets import load_digits

        data = load_digits()
        return data.images, data.target
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
