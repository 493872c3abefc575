"""Risk as if there was one question: what tests of the kernel give it where concerns do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import hard_signals, risk, risk_levels
from trustwatch.scoring.engine.settings import RiskEvaluationSettings

SETTINGS = risk_levels.kernel_parameters(RiskEvaluationSettings())
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


def apply_events(
    state: NDArray[Any],
    times: Any,
    p_values: Any,
    bounds: NDArray[np.float64],
    levels: NDArray[np.int8] | None = None,
    out: NDArray[np.float64] | None = None,
    slots: NDArray[np.int32] | None = None,
    *,
    signal: float = 0.0,
    sign: float = 0.0,
    asserted: bool = False,
    skip: bool = False,
    coverage: float = 1.0,
    habit: int = 0,
    settings: risk_levels.RiskParameters = SETTINGS,
) -> NDArray[np.float64]:
    """Apply n events, by default of slot 0, with p-values (n, 3) under thresholds (1, 3, 3); the rest as for
    `risk.update`. Return what it writes by concern."""
    n, by_concern = len(p_values), np.zeros((len(p_values), len(CONCERNS), risk.CONCERN_OUTPUTS))
    signals = np.zeros((n, hard_signals.COUNTS))
    signals[:, hard_signals.IN_FULL], signals[:, hard_signals.AS_SIGN] = signal, sign
    risk.update(
        np.arange(n),
        np.zeros(n, np.int32) if slots is None else slots,
        state,
        np.asarray(times, np.int64),
        np.asarray(p_values, np.float64),
        np.asarray(p_values, np.float64).min(axis=1),
        np.full(n, 0.5),
        np.full(n, coverage),
        signals,
        bounds,
        np.zeros(n, np.int64),
        np.full(n, asserted, np.int8),
        np.full(n, skip),
        np.full(n, habit, np.int8),
        settings,
        np.zeros((n, 2), np.int8) if levels is None else levels,
        np.zeros((n, risk.OUTPUTS)) if out is None else out,
        by_concern,
    )
    return by_concern
