"""The bet on a p-value: how conformal p-values become evidence.

`e(p) = p**-0.5 / 2` has mean 1 for a uniform p, so wealth that is multiplied by it grows by luck alone no more often than a fair
game allows (Vovk and Wang 2021, calibrators of p-values into e-values).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LOG_HALF = float(np.log(0.5))


def log_bet(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Natural log of the bet on each p-value in (0, 1]; shape as given."""
    return LOG_HALF - 0.5 * np.log(p_values)
