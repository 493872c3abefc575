"""Check a model's input, and define the errors of this layer. What to do about each is in `ingest/errors.py`::

    TrustwatchError
    ├── NotFinite        not_finite     a feature is NaN or infinite: refuse the row, find the bug that made it
    ├── WrongShape       wrong_shape    rows and model do not belong together: a programming error
    └── ModelError
        └── NotEnoughHistory  not_enough_history  train again when there is more normal history

A caller that catches `ValueError` gets the first two as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trustwatch.ingest.errors import ModelError, TrustwatchError

Floats = NDArray[np.float64]
Ids = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

VOUCHING_ADVICE = (
    "Spans, runs of LangSmith and observations of Langfuse are self-asserted, since anybody can write an agent's id"
    " into them. If only your own programs can, a mapping removes the mark"
    ' (`members: {agent.self_asserted: ""}`, in a file for --mapping, and in the settings of the source).'
    " Never do so for logs of sign-ins: outsiders cause failed ones"
)
"""Hint for a history that contains events from which nothing is learned."""


class NotFinite(TrustwatchError, ValueError):
    """Raised if a value is NaN or infinite; scikit-learn would score it silently.

    Args:
        row: index of the first bad row.
        feature: index or name of the first bad feature in that row.
        reason: what is wrong with the value.
    """

    code = "not_finite"

    def __init__(self, row: int, feature: int | str, reason: str = "is NaN or infinite") -> None:
        super().__init__(f"row {row}, feature {feature!r} {reason}")
        self.row = row
        self.feature = feature


class WrongShape(TrustwatchError, ValueError):
    """Raised if rows do not have the model's number of features, or columns differ in length."""

    code = "wrong_shape"


class NotEnoughHistory(ModelError):
    """Raised if there is too little normal history to train a model that could keep its promises."""

    code = "not_enough_history"


# The forest compares in float32, so what is learned from must be within its range.


_LARGEST = float(np.finfo(np.float32).max)


def finite_float32(X: ArrayLike) -> Floats:
    """Return X as a contiguous float64 matrix (n, F) with n, F >= 1.

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
