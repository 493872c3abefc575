"""Every frame of the lab, declared once: its columns, their types, units and meaning. `docs/notebooks.md` tells them.

Frames have these columns also where they have no rows. Times are `datetime64[ms, UTC]`. Names that repeat are
categoricals, levels ordered ones (`unknown` < `low` < … < `critical`). Missing values are NA, NaN or NaT.
"""

from __future__ import annotations

from . import backtests, behaviour, known, models, scored
from .column import KINDS, LEVELS, Column

FRAMES: dict[str, tuple[Column, ...]] = {
    **known.FRAMES,
    **scored.FRAMES,
    **behaviour.FRAMES,
    **models.FRAMES,
    **backtests.FRAMES,
}
"""Frame -> its columns, in order."""

__all__ = ["FRAMES", "KINDS", "LEVELS", "Column"]
