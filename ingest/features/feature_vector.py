"""Convert items and quantities to the feature vector, in the order of the feature table."""

from __future__ import annotations

import math

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined, inlined_and_callable
from . import layout
from .feature_table import CONTEXT_KIND, FEATURE_INDEX, FEATURE_OF_KIND, FEATURE_OF_QUANTITY
from .frequency_tables import distinct_hash, own_count, shared_count
from .layout import Array, Baseline

# Deviations of an event: surprise and distance against the levels of baselines, and drift against a reference.


PRIOR_VALUES = 8.0
"""Number of values after which an agent's own mean outweighs its peer group's."""

MIN_ITEMS_OF_PEERS = 10.0
"""Number of items of a kind that others of the peer group must have shown before they are compared. Otherwise an agent
that is its whole peer group would be compared with the fleet, and all its actions would be anomalous."""

NO_PEERS = 2.0
"""Replaces the probability among peers if there are no peers to compare with; larger than any probability."""

ItemCounts = tuple[float, float, float]
"""Count of an item, of all items of its kind (after its context), and the number of different ones."""

ScopeTotals = tuple[float, float, float, float, float]
"""Items of a kind (after a context) in fleet, tenant, peer group and task, and in the agent's own history."""

_SD_FLOOR = 0.15
"""Minimum standard deviation, in natural-log units (most quantities are log1p): 15 % is not a change of behavior."""


@inlined
def _witten_bell_step(backoff: float, count: float, total: float, distinct: float) -> float:
    """Compute one level of Witten-Bell interpolation: known mass by count, the rest from the next level."""
    return (count + (distinct + 1.0) * backoff) / (total + distinct + 1.0)


@inlined
def _scope_total(
    baseline: Baseline, rows: Array, scopes: Array, level: int, kind: int, context_kind: int, context: np.uint64
) -> float:
    row = rows[level]
    if row < 0:
        return 0.0
    if context_kind < 0:
        return float(baseline.totals[row, kind, 0])
    return shared_count(baseline, scopes[level], context)


@inlined
def scope_totals(
    baseline: Baseline,
    rows: Array,
    scopes: Array,
    table: Array,
    numbers: Array,
    kind: int,
    context_kind: int,
    context: np.uint64,
) -> ScopeTotals:
    """Write the counts of all items of a kind (after a context) in each scope, in order, then in the agent."""
    own = own_count(table, context_kind, context) if context_kind >= 0 else float(numbers[layout.N_SEEN + kind])
    return (
        _scope_total(baseline, rows, scopes, layout.FLEET, kind, context_kind, context),
        _scope_total(baseline, rows, scopes, layout.TENANT, kind, context_kind, context),
        _scope_total(baseline, rows, scopes, layout.PEERS, kind, context_kind, context),
        _scope_total(baseline, rows, scopes, layout.TASK, kind, context_kind, context),
        own,
    )


@inlined
def _item_counts(
    baseline: Baseline,
    rows: Array,
    scopes: Array,
    level: int,
    kind: int,
    hashed: np.uint64,
    context: np.uint64,
    total: float,
    needed: bool,
) -> tuple[float, float]:
    if not needed or total <= 0.0:
        return 0.0, 0.0
    if context == 0:
        return shared_count(baseline, scopes[level], hashed), float(baseline.totals[rows[level], kind, 1])
    count = total if hashed == context else shared_count(baseline, scopes[level], hashed)
    return count, shared_count(baseline, scopes[level], distinct_hash(kind, context))


@inlined
def _step_beyond(backoff: float, wide: ItemCounts, narrow: ItemCounts, novel: bool) -> float:
    """Interpolate on the counts of a level beyond those of a level within it, so that no count is evidence twice."""
    total = wide[1] - narrow[1]
    if total <= 0.0:
        return backoff
    distinct = max(wide[2] - narrow[2], wide[2] * total / wide[1])
    count = min(max(wide[0] - narrow[0], 0.0), total)
    if novel and count <= 0.0:
        return min(backoff, (distinct + 1.0) / (total + distinct + 1.0))
    return _witten_bell_step(backoff, count, total, distinct)


@inlined
def item_probability(
    baseline: Baseline,
    rows: Array,
    scopes: Array,
    table: Array,
    numbers: Array,
    share: float,
    kind: int,
    hashed: np.uint64,
    context: np.uint64,
    totals: ScopeTotals,
) -> tuple[float, float, float, float]:
    """Return the probability of an item over all levels; 1 if no level has data."""
    in_fleet, in_tenant, in_peers, in_task, total = totals
    distinct, own = float(numbers[layout.N_DISTINCT + kind]), 0.0
    if context != 0:
        seen = float(numbers[layout.N_SEEN + kind])
        distinct = total * distinct / seen if seen > 0.0 else 0.0
    if total > 0.0:
        own = min(own_count(table, kind, hashed), total)
    # If a level holds nothing beyond the one within it, neither needs to be looked up for that step.
    beyond_tenant, beyond_peers, beyond_own = in_fleet > in_tenant, in_tenant > in_peers, in_peers > share * total
    count, different = _item_counts(
        baseline, rows, scopes, layout.FLEET, kind, hashed, context, in_fleet, beyond_tenant
    )
    fleet = (count, in_fleet, different)
    needed = beyond_tenant or beyond_peers
    count, different = _item_counts(baseline, rows, scopes, layout.TENANT, kind, hashed, context, in_tenant, needed)
    tenant = (count, in_tenant, different)
    needed = beyond_peers or beyond_own
    count, different = _item_counts(baseline, rows, scopes, layout.PEERS, kind, hashed, context, in_peers, needed)
    peers = (count, in_peers, different)
    p = _step_beyond(1.0, fleet, tenant, True)
    novel = fleet[0] <= tenant[0]
    p = _step_beyond(p, tenant, peers, novel)
    p_peers = p = _step_beyond(p, peers, (share * own, share * total, share * distinct), False)
    if in_peers - share * total < MIN_ITEMS_OF_PEERS:
        p_peers = NO_PEERS
    p_history = p = _witten_bell_step(p, own, total, distinct)
    if in_task > 0.0 and layout.TASK_KINDS[kind]:
        count, different = _item_counts(baseline, rows, scopes, layout.TASK, kind, hashed, context, in_task, True)
        p = _witten_bell_step(p, min(count, in_task), in_task, different)
    return p, p_history, p_peers, own


@inlined_and_callable
def usual_value(baseline: Baseline, rows: Array, numbers: Array, quantity: int) -> tuple[float, float, float]:
    """Return the usual mean and standard deviation of a quantity: own values shrunk to the nearest scope that has any.

    Returns (mean, sd, weight), weight 0 while no event had the quantity yet.
    """
    mean, variance, weight = 0.0, 1.0, 0.0
    for level in (layout.TASK, layout.PEERS, layout.TENANT, layout.FLEET):
        row = rows[level]
        if row >= 0 and baseline.numbers[row, quantity] >= 5.0:
            mean, variance = np.float64(baseline.means[row, quantity]), np.float64(baseline.variances[row, quantity])
            weight = PRIOR_VALUES
            break
    own = np.float64(numbers[layout.N_COUNT + quantity])
    if own > 0.0:
        own_mean = np.float64(numbers[layout.N_MEAN + quantity])
        own_variance = np.float64(numbers[layout.N_VAR + quantity])
        share = own / (own + weight) if weight > 0.0 else own / (own + 2.0)
        between = share * (1.0 - share) * (own_mean - mean) ** 2 if weight > 0.0 else 0.0
        mean = share * own_mean + (1.0 - share) * mean if weight > 0.0 else own_mean
        variance = share * own_variance + (1.0 - share) * variance + between
        weight += own
    return mean, math.sqrt(variance + _SD_FLOOR * _SD_FLOOR), weight


@inlined
def distance_from_usual(baseline: Baseline, rows: Array, numbers: Array, quantity: int, value: float) -> float:
    """Return by how many standard deviations a value is above the usual, at most 50; 0 below it, and until a usual
    value exists."""
    mean, sd, weight = usual_value(baseline, rows, numbers, quantity)
    if weight < 3.0:
        return 0.0
    return min(max((value - mean) / sd, 0.0), 50.0)


# Reference of an agent's pace and volume over weeks, against which a slow ramp shows.
#
# The usual values of a quantity follow the agent within a day or two, so an attacker who raises it slowly moves them.
# The reference is a mean and a variance over the agent's *active* time (a pause counts as at most half an hour), so
# that no single morning or busy hour with more events than a quiet day dominates it. It is used after the first active
# day, and moves more slowly the more it has seen: first with a memory of 14 active days, finally of 90. Only events
# that may be learned move it.


MIN_REFERENCE_EVENTS = 200.0
"""Number of events that an agent's baseline needs before its reference is used."""

DRIFT_LIMIT = 3.0
"""Standard deviations that do not count as drift: the customary limits of a control chart. An agent's day varies within
them."""

_GROWING_DAYS, _LEAST_MEMORY, _MOST_MEMORY = 1.0, 14.0, 90.0
_MAX_PAUSE_DAYS = 1.0 / 48.0
_MIN_REFERENCE_SD = 0.15
_VARIANCE_CORRECTION = 1.42
"""Ratio of the variance of a normal distribution to its variance if upper deviations count as at most one standard
deviation."""
_MAX_REFERENCE_Z = 50.0


@inlined
def update_reference(numbers: Array, quantities: Array, age: float) -> None:
    """Add an event to the reference.

    Args:
        numbers: the agent's (NUMBERS,), changed in place.
        quantities: the event's (QUANTITIES,), of which those in `layout.DRIFT_QUANTITIES` are present.
        age: days since the agent's first event.
    """
    elapsed = min(max(age - np.float64(numbers[layout.N_REF_AGE]), 0.0), _MAX_PAUSE_DAYS)
    if elapsed <= 0.0:
        return
    days = np.float64(numbers[layout.N_REF_DAYS]) + elapsed
    share = elapsed / (days if days < _GROWING_DAYS else min(max(days, _LEAST_MEMORY), _MOST_MEMORY))
    for k in range(len(layout.DRIFT_QUANTITIES)):
        mean, variance = np.float64(numbers[layout.N_REF_MEAN + k]), np.float64(numbers[layout.N_REF_VAR + k])
        delta = quantities[layout.DRIFT_QUANTITIES[k]] - mean
        mean += share * delta
        spread = delta * (quantities[layout.DRIFT_QUANTITIES[k]] - mean)
        if delta > 0.0 and days >= _GROWING_DAYS:  # else a ramp would widen the limits that it is held against
            spread = min(spread, variance)
        variance += share * (spread - variance)
        numbers[layout.N_REF_MEAN + k], numbers[layout.N_REF_VAR + k] = np.float32(mean), np.float32(max(variance, 0.0))
    numbers[layout.N_REF_DAYS], numbers[layout.N_REF_AGE] = np.float32(min(days, _MOST_MEMORY)), np.float32(age)


@inlined_and_callable
def distance_from_reference(numbers: Array, quantities: Array, k: int) -> float:
    """Return by how many standard deviations the k-th drifting quantity is above its reference, 0 to 50; 0 if there is
    none yet."""
    if numbers[layout.N_EVENTS] < MIN_REFERENCE_EVENTS or numbers[layout.N_REF_DAYS] < _GROWING_DAYS:
        return 0.0
    sd = max(math.sqrt(_VARIANCE_CORRECTION * np.float64(numbers[layout.N_REF_VAR + k])), _MIN_REFERENCE_SD)
    return float(
        min(
            max((quantities[layout.DRIFT_QUANTITIES[k]] - np.float64(numbers[layout.N_REF_MEAN + k])) / sd, 0.0),
            _MAX_REFERENCE_Z,
        )
    )


def reset_reference(numbers: Array) -> None:
    """Reset the reference. The agent's next active day makes a new one."""
    numbers[layout.N_REF_DAYS] = np.float32(0.0)


def _at(name: str) -> np.int64:
    """Return a position in the vector, as a constant of the compiled code: only the table orders features."""
    return np.int64(FEATURE_INDEX[name])


F_ACTION = _at("action_surprise")
F_RARITY = _at("action_rarity_peers")
F_SHIFT = _at("identity_shift")
F_WRITE = _at("write_surprise")
F_EXTERNAL = _at("external_target")
F_STRANGE = _at("session_strangeness")
F_GAP = _at("scope_gap")
F_OUTSIDE = _at("outside_capabilities")
F_METHOD = _at("method_downgrade")
F_DRIFT = _at("drift")
F_TARGET = _at("target_surprise")
F_NETWORK = _at("network_surprise")
F_ACTION_TARGET = _at("action_target_surprise")
F_TRANSITION = _at("transition_surprise")
F_REPEAT = _at("repeat_surprise")
F_OUTCOME = _at("outcome_surprise")
F_PROVENANCE = _at("provenance_surprise")
F_ARGUMENT = _at("argument_origin")
F_HABITS = _at("habits_of_others")
F_ARGUMENT_ROUTE = _at("argument_route")
F_SENSITIVE_ROUTE = _at("sensitive_route")

EFFECT_WEIGHT = np.array([0.7, 1.0, 1.0, 1.25, 0.85])
"""Read, write, delete, admin, unknown: what a surprising action can do."""

STRANGENESS_RETENTION = 0.8
"""Share of a session's anomaly that remains after each further event: a memory of about five events."""

OUTCOME_WEIGHT = 0.5
"""An anomalous outcome alone is weaker evidence than an anomalous order or destination."""

_MAX_BITS = 64.0

_MAX_FAMILIARITY_BITS = 4.0
"""Maximum bits by which one familiar item may compensate for others that are not the agent's."""


@inlined
def _surprise_bits(probability: float) -> float:
    return float(min(max(0.0, -math.log2(max(probability, 5.5e-20))), _MAX_BITS))


@inlined
def write_feature_vector(
    out: Array,
    bits: Array,
    items: Array,
    contexts: Array,
    quantities: Array,
    values: Array,
    codes: Array,
    rows: Array,
    scopes: Array,
    baseline: Baseline,
    table: Array,
    numbers: Array,
    share: float,
    session: Array,
) -> np.uint32:
    """Write one feature vector.

    Args:
        out: (FEATURES,), the vector, overwritten.
        bits: (KINDS,), surprise of each item over all levels, overwritten.
        items, contexts, quantities: what the event shows (`RowObservations`), one row.
        values, codes: the event's row of the columns.
        rows, scopes: the scopes' rows in the baseline, -1 for none, and their keys (SCOPES,).
        baseline: of the model.
        table, numbers, session: the agent's state, and that of the session.
        share: of the agent's own counts that its peer group counts, too.

    Returns a bit mask of the kinds in which the agent has a history, but not of this item.
    """
    out[:] = 0.0
    bits[:] = 0.0
    fresh = _write_surprises(out, bits, items, contexts, rows, scopes, baseline, table, numbers, share)
    for quantity in range(layout.QUANTITIES):
        if quantities[quantity] >= 0.0:
            feature = FEATURE_OF_QUANTITY[quantity]
            out[feature] = distance_from_usual(baseline, rows, numbers, quantity, quantities[quantity])
    compose(out, codes)
    _write_the_rest(out, values, codes, quantities, numbers, session)
    return fresh


@inlined
def _write_surprises(
    out: Array,
    bits: Array,
    items: Array,
    contexts: Array,
    rows: Array,
    scopes: Array,
    baseline: Baseline,
    table: Array,
    numbers: Array,
    share: float,
) -> np.uint32:
    """Write the surprise of every item, and how much better the peers explain the event than the agent's own past."""
    shift, fresh = 0.0, np.uint32(0)
    behind_action = scope_totals(
        baseline, rows, scopes, table, numbers, layout.K_ACTION, layout.K_ACTION, items[layout.K_ACTION]
    )
    for kind in range(layout.KINDS):
        feature = FEATURE_OF_KIND[kind]
        if items[kind] == 0 or feature < 0:
            continue
        totals = behind_action
        if CONTEXT_KIND[kind] != layout.K_ACTION:
            totals = scope_totals(baseline, rows, scopes, table, numbers, kind, CONTEXT_KIND[kind], contexts[kind])
        p, p_own, p_peers, own = item_probability(
            baseline, rows, scopes, table, numbers, share, kind, items[kind], contexts[kind], totals
        )
        if own == 0.0 and numbers[layout.N_SEEN + kind] > 0.0:
            fresh |= np.uint32(1) << np.uint32(kind)
        bits[kind] = out[feature] = _surprise_bits(p)
        if kind == layout.K_ACTION:
            out[F_RARITY] = _surprise_bits(p_peers)
        if kind in (layout.K_ACTION, layout.K_RESOURCE, layout.K_NETWORK) and p_peers <= 1.0:
            shift += max(_surprise_bits(p_own) - _surprise_bits(p_peers), -_MAX_FAMILIARITY_BITS)
    out[F_SHIFT] = min(max(shift, 0.0), _MAX_BITS)
    return fresh


@inlined
def compose(out: Array, codes: Array) -> None:
    """Write the features that are computed only from others of the same event (`Feature.parts`)."""
    order = max(out[F_TRANSITION], out[F_ACTION_TARGET])
    strongest = max(out[F_ACTION], out[F_TARGET], order)
    out[F_WRITE] = min(EFFECT_WEIGHT[codes[columns.EFFECT]] * strongest, _MAX_BITS)
    side = 1.0 if codes[columns.EXTERNAL] == 1 else (0.0 if codes[columns.EXTERNAL] == 0 else 0.5)
    out[F_EXTERNAL] = side * out[F_TARGET]


@allocation_free
def compose_rows(vectors: Array, codes: Array) -> None:
    """Compose each row of a matrix (m, F) again after its parts changed."""
    for row in range(len(vectors)):
        compose(vectors[row], codes[row])


@inlined
def _write_the_rest(out: Array, values: Array, codes: Array, quantities: Array, numbers: Array, session: Array) -> None:
    """Write the features that are neither the surprise of an item, nor a distance from the usual, nor composed."""
    gathered = out[F_TRANSITION] + max(out[F_TARGET], out[F_ACTION_TARGET]) + out[F_REPEAT]
    gathered += OUTCOME_WEIGHT * out[F_OUTCOME] + out[F_PROVENANCE]
    kept = np.float32(STRANGENESS_RETENTION) * session[layout.S_STRANGE]
    session[layout.S_STRANGE] = kept + np.float32((1.0 - STRANGENESS_RETENTION) * gathered)
    out[F_STRANGE] = min(np.float64(session[layout.S_STRANGE]), _MAX_BITS)
    if values[columns.UNGRANTED] >= 0.0 and values[columns.BREADTH] > 0.0:
        out[F_GAP] = min(values[columns.UNGRANTED] / values[columns.BREADTH], 1.0)
    out[F_OUTSIDE] = 1.0 if codes[columns.CAPABILITY] == columns.OUTSIDE else 0.0
    if codes[columns.METHOD] > 0:
        out[F_METHOD] = max(np.float64(numbers[layout.N_METHOD]) - codes[columns.METHOD], 0.0)
    _write_drift(out, quantities, numbers)


@inlined
def _write_drift(out: Array, quantities: Array, numbers: Array) -> None:
    """Write the largest distance from the slow reference, beyond the variation of a day."""
    for k in range(len(layout.DRIFT_QUANTITIES)):
        out[F_DRIFT] = max(out[F_DRIFT], distance_from_reference(numbers, quantities, k) - DRIFT_LIMIT)
