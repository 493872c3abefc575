"""Results of the feature kernel for each row of a batch: what was found in it, for learning, baselines and reasons."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..argument_columns import ArgumentColumns, no_arguments
from . import layout
from .layout import Array

LATE_EVENT, IGNORED_EVENT, OUT_OF_ORDER_EVENT = 1, 2, 3
"""Values of `RowObservations.flags`: the event is older than one already seen of its agent; it is not behavior (our
denial, a signal event, or a revoked token that was refused); it is too late to be evidence of pace and order."""

NO_FOREIGN, ACTED_ON, LOOKED_UP = range(3)
"""Values of `RowObservations.is_foreign`: others did not write the value; or they may have, and the call acts on it, or
only looks it up."""


UNHASHED, SENSITIVE = range(2)
"""Columns of `RowObservations.routes`: routes of values without a hash in calls that act, and routes from sensitive
answers in calls that send."""


class RowObservations(NamedTuple):
    """Results of `observe` for each row of a batch, for `learn` and for reasons."""

    items: Array  # uint64 (n, KINDS): hash of the row's item of each kind, 0 = none
    contexts: Array  # uint64 (n, KINDS): hash of the item it is conditional on, 0 = none
    quantities: Array  # float64 (n, QUANTITIES), -1 = absent
    flags: Array  # uint8 (n,)
    surprise_bits: Array  # float64 (n, KINDS): surprise of each item over all levels
    new_kinds: Array  # uint32 (n,): bit k is set if the agent has a history of kind k, but not of this item
    age_days: Array  # float64 (n,): days since the agent's first event
    token_reuse: Array  # uint8 (n,): 1 = the event uses a token that this agent's own events reported revoked
    token_gap_ms: Array  # int64 (n,): see `note_token_use`
    new_network_p: Array  # float64 (n,): see `new_network_probability`
    told_targets: Array  # bool (n,): a target that no person named and no agent used, in a new task (`is_told_new`)
    arguments: ArgumentColumns  # of the batch
    values: Array  # uint64 (m,): item of each argument's value, as shared baselines count it; 0 = it has no hash
    own_values: Array  # uint64 (m,): the same with the task, as the agent counts it; 0 = it does not learn it
    is_foreign: Array  # uint8 (m,): whether others may have written the value: NO_FOREIGN, ACTED_ON or LOOKED_UP
    routes: Array  # uint64 (m, 2): item of each argument's route under each rule, 0 = the rule does not apply
    own_routes: Array  # uint64 (m, 2): the same as the agent counts it; 0 = it does not learn it


def allocate_observations(n: int, arguments: ArgumentColumns | None = None) -> RowObservations:
    """Allocate the observations of *n* rows with these *arguments* (None if there are none)."""
    given = no_arguments(n) if arguments is None else arguments
    return RowObservations(
        np.zeros((n, layout.KINDS), np.uint64),
        np.zeros((n, layout.KINDS), np.uint64),
        np.full((n, layout.QUANTITIES), -1.0),
        np.zeros(n, np.uint8),
        np.zeros((n, layout.KINDS)),
        np.zeros(n, np.uint32),
        np.zeros(n),
        np.zeros(n, np.uint8),
        np.full(n, -1, np.int64),
        np.ones(n),
        np.zeros(n, np.bool_),
        given,
        np.zeros(len(given.values), np.uint64),
        np.zeros(len(given.values), np.uint64),
        np.zeros(len(given.values), np.uint8),
        np.zeros((len(given.values), 2), np.uint64),
        np.zeros((len(given.values), 2), np.uint64),
    )
