"""Conversion of items and quantities to the feature vector, in the order of the feature table."""

from __future__ import annotations

import math

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined
from . import layout
from .deviations import DRIFT_LIMIT, distance_from_reference, distance_from_usual, item_probability, scope_totals
from .feature_table import CONTEXT_KIND, FEATURE_INDEX, FEATURE_OF_KIND, FEATURE_OF_QUANTITY
from .layout import Array, Baseline


def _at(name: str) -> np.int64:
    """Position in the vector, frozen into the compiled code; the table stays the only place that orders them."""
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
"""Part of the session's strangeness that survives each further event: a memory of about five events."""

OUTCOME_WEIGHT = 0.5
"""An anomalous outcome alone is weaker evidence than an anomalous order or destination."""

_MAX_BITS = 64.0

_MAX_FAMILIARITY_BITS = 4.0
"""Bits by which one familiar item may make up for others that are not the agent's."""


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
    """Surprise of every item, and how much better the peers explain the event than the agent's own past."""
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
    """Write features that are made of others of the same event (`Feature.parts`) alone, without state."""
    order = max(out[F_TRANSITION], out[F_ACTION_TARGET])
    strongest = max(out[F_ACTION], out[F_TARGET], order)
    out[F_WRITE] = min(EFFECT_WEIGHT[codes[columns.EFFECT]] * strongest, _MAX_BITS)
    side = 1.0 if codes[columns.EXTERNAL] == 1 else (0.0 if codes[columns.EXTERNAL] == 0 else 0.5)
    out[F_EXTERNAL] = side * out[F_TARGET]


@allocation_free
def compose_rows(vectors: Array, codes: Array) -> None:
    """Compose each row of a matrix (m, F) again after its parts were changed."""
    for row in range(len(vectors)):
        compose(vectors[row], codes[row])


@inlined
def _write_the_rest(out: Array, values: Array, codes: Array, quantities: Array, numbers: Array, session: Array) -> None:
    """Write features that are neither surprise of an item, nor distance from the usual, nor composed of those alone."""
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
