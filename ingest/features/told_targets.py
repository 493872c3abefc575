"""Kernel of told targets: a call in an unknown task, to a target that no person named according to the sender.

Senders may report whether the person named a target, or whether it came from an answer (`derived`) or from nowhere
(`new`). In a task of which nothing is remembered every target is new, those that the person named most of all; a target
that no person named suggests another actor. It is not a feature: it can only add evidence (`models.concerns`), so a
sender that lies removes no more than one that is silent.
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import inlined
from ..events import PROVENANCES
from . import layout
from .frequency_tables import own_count, shared_count
from .layout import Array, Baseline

UNNAMED = tuple(PROVENANCES.index(name) for name in ("derived", "new"))
"""Codes of provenances of targets that no person named."""
LEAST_TARGETS = 10
"""Targets that a peer group must have shown before another one is new to it."""

_DERIVED, _NEW = (np.int64(code) for code in UNNAMED)


@inlined
def is_told_new(codes: Array, target: np.uint64, scopes: Array, rows: Array, baseline: Baseline, table: Array) -> bool:
    """Returns whether an event of a task without history has a target that no person named and no agent has used."""
    told, peers = codes[columns.PROVENANCE], rows[layout.PEERS]
    if (told != _DERIVED and told != _NEW) or target == 0:
        return False
    if scopes[layout.TASK] == 0 or rows[layout.TASK] >= 0 or peers < 0:
        return False
    if baseline.totals[peers, layout.K_TARGET, 0] < LEAST_TARGETS:
        return False
    is_new = shared_count(baseline, scopes[layout.PEERS], target) == 0.0
    return bool(is_new and own_count(table, layout.K_TARGET, target) == 0.0)
