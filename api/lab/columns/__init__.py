"""Every frame of the lab, declared once: its columns, their types, units and meaning. `docs/notebooks.md` tells them.

Frames have these columns also where they have no rows. Times are `datetime64[ms, UTC]`. Names that repeat are
categoricals, levels ordered ones (`unknown` < `low` < … < `critical`). Missing values are NA, NaN or NaT.
"""

from __future__ import annotations

from . import backtests, behaviour, known, models, scored
from .column import COLUMN_DTYPES, LEVEL_NAMES, FrameColumn

FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    **known.STORE_FRAME_COLUMNS,
    **scored.SCORE_FRAME_COLUMNS,
    **behaviour.BEHAVIOUR_FRAME_COLUMNS,
    **models.MODEL_FRAME_COLUMNS,
    **backtests.BACKTEST_FRAME_COLUMNS,
}
"""Frame -> its columns, in order."""

__all__ = ["COLUMN_DTYPES", "FRAME_COLUMNS", "LEVEL_NAMES", "FrameColumn"]
