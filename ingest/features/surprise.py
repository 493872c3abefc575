"""Surprise and distance: what an event means against the levels of baselines, the most specific first."""

from __future__ import annotations

import math

import numpy as np

from ..compiled import inlined
from . import layout as l
from .layout import Array, Baseline
from .tables import own_count, shared_count

KAPPA = 8.0
"""Values an agent must show before its own mean outweighs its peer group's."""

_SD_FLOOR = 0.15
"""Least standard deviation, in natural-log units (most quantities are log1p): 15 % is no change of behaviour."""


@inlined
def _step(backoff: float, count: float, total: float, distinct: float) -> float:
    """One level of Witten-Bell interpolation: known mass by count, the rest as the level behind says."""
    return (count + (distinct + 1.0) * backoff) / (total + distinct + 1.0)


@inlined
def _context(occurrences: float, distinct: float, seen: float) -> float:
    """Distinct continuations of a context, from the kind's overall ratio of distinct items to occurrences."""
    return occurrences * distinct / seen if seen > 0.0 else 0.0


@inlined
def _shared_step(
    backoff: float, baseline: Baseline, row: np.int64, scope: np.uint64, kind: int, hashed: np.uint64,
    context_kind: int, context: np.uint64,
) -> float:  # fmt: skip
    totals = baseline.totals[row, kind]
    total, distinct = float(totals[0]), float(totals[1])
    if context_kind >= 0:
        occurrences = shared_count(baseline, scope, context)
        distinct = _context(occurrences, distinct, total)
        total = occurrences
    return _step(backoff, shared_count(baseline, scope, hashed), total, distinct)


@inlined
def frequency(
    baseline: Baseline, rows: Array, scopes: Array, table: Array, numbers: Array, kind: int, hashed: np.uint64,
    context_kind: int, context: np.uint64, bottom: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Probability of an item at every level.

    Args:
        rows, scopes: rows and keys of the event's scopes in the baseline, in the order FLEET, TENANT, PEERS, TASK.
        table, numbers: the agent's rows.
        context_kind: kind of the item that this one is conditional on, -1 for none.
        context: hash of that item.
        bottom: probability where no level knows anything.

    Returns:
        Probability over all levels, of the own history over the peer group's, of peer group, tenant and fleet alone,
        and how often the agent's own history has the item.
    """
    p, own = bottom, 0.0
    for level in (l.FLEET, l.TENANT, l.PEERS):
        if rows[level] >= 0:
            p = _shared_step(p, baseline, rows[level], scopes[level], kind, hashed, context_kind, context)
    peers = p
    total, distinct = float(numbers[l.N_SEEN + kind]), float(numbers[l.N_DISTINCT + kind])
    if context_kind >= 0:
        occurrences = own_count(table, context_kind, context)
        distinct = _context(occurrences, distinct, total)
        total = occurrences
    if total > 0.0:
        own = own_count(table, kind, hashed)
        p = _step(p, min(own, total), total, distinct)
    history = p
    if rows[l.TASK] >= 0:
        p = _shared_step(p, baseline, rows[l.TASK], scopes[l.TASK], kind, hashed, context_kind, context)
    return p, history, peers, own


@inlined
def usual(baseline: Baseline, rows: Array, numbers: Array, quantity: int) -> tuple[float, float, float]:
    """Mean and standard deviation that are usual for a quantity: own values shrunk to the nearest scope that has any.

    Returns (mean, sd, weight), weight 0 where nobody has shown the quantity yet.
    """
    mean, variance, weight = 0.0, 1.0, 0.0
    for level in (l.TASK, l.PEERS, l.TENANT, l.FLEET):
        row = rows[level]
        if row >= 0 and baseline.numbers[row, quantity] >= 5.0:
            mean, variance = np.float64(baseline.means[row, quantity]), np.float64(baseline.variances[row, quantity])
            weight = KAPPA
            break
    own = np.float64(numbers[l.N_COUNT + quantity])
    if own > 0.0:
        own_mean = np.float64(numbers[l.N_MEAN + quantity])
        own_variance = np.float64(numbers[l.N_VAR + quantity])
        share = own / (own + weight) if weight > 0.0 else own / (own + 2.0)
        between = share * (1.0 - share) * (own_mean - mean) ** 2 if weight > 0.0 else 0.0
        mean = share * own_mean + (1.0 - share) * mean if weight > 0.0 else own_mean
        variance = share * own_variance + (1.0 - share) * variance + between
        weight += own
    return mean, math.sqrt(variance + _SD_FLOOR * _SD_FLOOR), weight


@inlined
def usual_distance(baseline: Baseline, rows: Array, numbers: Array, quantity: int, value: float) -> float:
    """How many standard deviations a value lies above the usual; 0 below it, and where nothing is known."""
    mean, sd, weight = usual(baseline, rows, numbers, quantity)
    if weight < 3.0:
        return 0.0
    return min(max((value - mean) / sd, 0.0), 50.0)
