"""Checks of what is learned from: shape, finite, within float32 (in which the forest compares)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import NotFinite, WrongShape

_LARGEST = float(np.finfo(np.float32).max)


def finite_float32(X: ArrayLike) -> NDArray[np.float64]:
    """X as a contiguous float64 matrix (n, F) with n, F >= 1.

    Raises:
        WrongShape: no matrix, or an empty one.
        NotFinite: a value is NaN, infinite or larger than float32 can hold.
    """
    matrix = np.ascontiguousarray(X, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise WrongShape(f"expected a matrix of rows by features with at least one of each, got shape {matrix.shape}")
    fine = np.abs(matrix) <= _LARGEST
    if not fine.all():
        row, feature = (int(index) for index in np.argwhere(~fine)[0])
        raise NotFinite(row, feature, "is NaN, infinite or beyond the range of float32")
    return matrix
