"""Names of the layouts in which agents' state is stored."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.earlier_layout import StateLayout

from . import risk_levels


def present_layout() -> StateLayout:
    """The layout of features that this version writes."""
    return StateLayout(layout.LAYOUT_GENERATION, layout.KINDS, layout.STATE_ROW)


def state_version(salt: bytes) -> str:
    """Names the layout of stored state and the salt its hashes were made with; other state can not be resumed."""
    return f"{features_version(salt, present_layout())}:{risk_version(risk_levels.ROW)}"


def risk_version(row: np.dtype[Any]) -> str:
    """Names a layout of the risk state."""
    return hashlib.sha256(str(row).encode()).hexdigest()[:12]


def features_version(salt: bytes, stored: StateLayout) -> str:
    """Names the features that are stored in a layout under a salt."""
    shape = f"{stored.generation}|{stored.row}|{stored.kinds}|{layout.REGION_SIZE}".encode()
    return hashlib.sha256(shape + hashlib.sha256(salt).digest()).hexdigest()[:12]
