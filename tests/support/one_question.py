"""Risk as if there was one question: what tests of the kernel give it where concerns do not matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import hard_signals, risk

QUESTION = 1
"""Number of the concern that asks it, as in `trustwatch.models.detector.ONE_QUESTION`."""


def one_question(limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds (g, 3, 3) of `risk.update` from those of the levels (g, 3): other concerns move none."""
    bounds = np.full((len(limits), len(CONCERNS), limits.shape[1]), np.inf)
    bounds[:, QUESTION] = limits
    return bounds


def for_each_concern(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same p-values (n,) for every concern, (n, 3)."""
    return np.repeat(p_values[:, None], len(CONCERNS), axis=1)


def in_full(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evidence of hard signals, (n, COUNTS), that counts in full."""
    signals = np.zeros((len(weights), hard_signals.COUNTS))
    signals[:, hard_signals.IN_FULL] = weights
    return signals


def concern_outputs(rows: int) -> NDArray[np.float64]:
    """Room for what `risk.update` tells by concern, of so many rows."""
    return np.zeros((rows, len(CONCERNS), risk.CONCERN_OUTPUTS))
