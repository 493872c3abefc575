"""Surprise and distance: what an event means against the levels of baselines, the most specific first."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import layout as l
from .tables import own_count, shared_count

P_ALL, P_OWN, P_PEERS = range(3)

KAPPA = 8.0
"""Values an agent must show before its own mean outweighs its peer group's."""

_SD_FLOOR = 0.15
"""Least standard deviation, in natural-log units (most quantities are log1p): 15 % is no change of behaviour."""


@njit(cache=True, inline="always")
def _step(backoff, count, total, distinct):
    """One level of Witten-Bell interpolation: known mass by count, the rest as the level behind says."""
    return (count + (distinct + 1.0) * backoff) / (total + distinct + 1.0)


@njit(cache=True, inline="always")
def _context(occurrences, distinct, seen):
    """Distinct continuations of a context, from the kind's overall ratio of distinct items to occurrences."""
    return occurrences * distinct / seen if seen > 0.0 else 0.0


@njit(cache=True)
def _shared_step(backoff, baseline, row, scope, kind, hashed, context_kind, context):
    totals = baseline.totals[row, kind]
    total, distinct = np.float64(totals[0]), np.float64(totals[1])
    if context_kind >= 0:
        occurrences = shared_count(baseline, scope, context)
        distinct = _context(occurrences, distinct, total)
        total = occurrences
    return _step(backoff, shared_count(baseline, scope, hashed), total, distinct)


@njit(cache=True)
def frequency(out, baseline, rows, scopes, table, numbers, kind, hashed, context_kind, context, bottom):
    """Probability of an item at every level.

    Args:
        out: float64 (3,), receives P_ALL (all levels), P_OWN (own history over the peer group's) and P_PEERS
            (peer group, tenant and fleet alone).
        rows, scopes: rows and keys of the event's scopes in the baseline, in the order FLEET, TENANT, PEERS, TASK.
        table, numbers: the agent's rows.
        context_kind: kind of the item that this one is conditional on, -1 for none.
        context: hash of that item.
        bottom: probability where no level knows anything.

    Returns how often the agent's own history has the item.
    """
    p, own = bottom, 0.0
    for level in (l.FLEET, l.TENANT, l.PEERS):
        if rows[level] >= 0:
            p = _shared_step(p, baseline, rows[level], scopes[level], kind, hashed, context_kind, context)
    out[P_PEERS] = p
    total, distinct = np.float64(numbers[l.N_SEEN + kind]), np.float64(numbers[l.N_DISTINCT + kind])
    if context_kind >= 0:
        occurrences = own_count(table, context_kind, context)
        distinct = _context(occurrences, distinct, total)
        total = occurrences
    if total > 0.0:
        own = own_count(table, kind, hashed)
        p = _step(p, min(own, total), total, distinct)
    out[P_OWN] = p
    if rows[l.TASK] >= 0:
        p = _shared_step(p, baseline, rows[l.TASK], scopes[l.TASK], kind, hashed, context_kind, context)
    out[P_ALL] = p
    return own


@njit(cache=True)
def usual(baseline, rows, numbers, quantity):
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


@njit(cache=True)
def usual_distance(baseline, rows, numbers, quantity, value):
    """How many standard deviations a value lies above the usual; 0 below it, and where nothing is known."""
    mean, sd, weight = usual(baseline, rows, numbers, quantity)
    if weight < 3.0:
        return 0.0
    return min(max((value - mean) / sd, 0.0), 50.0)
