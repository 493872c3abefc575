"""From items and quantities to the feature vector, in the order of the feature table."""

from __future__ import annotations

import math

import numpy as np

from .. import columns as c
from ..compiled import inlined
from . import layout as l
from .layout import Array, Baseline
from .reference import LIMIT, distance_from_reference
from .surprise import frequency, totals_of, usual_distance
from .table import INDEX

# Positions in the feature vector, frozen into the compiled code. The table stays the only place that orders them.
_F = {name: np.int64(position) for name, position in INDEX.items()}
(
    F_ACTION,
    F_RARITY,
    F_SHIFT,
    F_WRITE,
    F_EXTERNAL,
    F_STRANGE,
    F_GAP,
    F_OUTSIDE,
    F_METHOD,
    F_DRIFT,
    F_TARGET,
    F_ACTION_TARGET,
    F_TRANSITION,
    F_REPEAT,
    F_OUTCOME,
    F_PROVENANCE,
) = (
    _F[name]
    for name in (
        "action_surprise",
        "action_rarity_peers",
        "identity_shift",
        "write_surprise",
        "external_target",
        "session_strangeness",
        "scope_gap",
        "outside_capabilities",
        "method_downgrade",
        "drift",
        "target_surprise",
        "action_target_surprise",
        "transition_surprise",
        "repeat_surprise",
        "outcome_surprise",
        "provenance_surprise",
    )
)

_BITS_OF_KIND = {
    l.K_ACTION: "action_surprise",
    l.K_RESOURCE: "resource_surprise",
    l.K_TARGET: "target_surprise",
    l.K_AUDIENCE: "audience_surprise",
    l.K_PEER: "peer_surprise",
    l.K_PRINCIPAL: "principal_surprise",
    l.K_NETWORK: "network_surprise",
    l.K_CREDENTIAL: "credential_surprise",
    l.K_SCOPES: "scope_surprise",
    l.K_CHAIN: "chain_surprise",
    l.K_EFFECT: "effect_surprise",
    l.K_HOUR: "hour_surprise",
    l.K_TRANSITION: "transition_surprise",
    l.K_ACTION_TARGET: "action_target_surprise",
    l.K_REPEAT: "repeat_surprise",
    l.K_PROVENANCE: "provenance_surprise",
    l.K_OUTCOME: "outcome_surprise",
    l.K_REQUEST_SIZE: "request_size_surprise",
    l.K_ANSWER_SIZE: "answer_size_surprise",
}
FEATURE_OF_KIND = np.array([INDEX.get(_BITS_OF_KIND.get(kind, ""), -1) for kind in range(l.KINDS)], dtype=np.int64)

_Z_OF_QUANTITY = {
    l.Q_PACE_1M: "pace_1m",
    l.Q_PACE_15M: "pace_15m",
    l.Q_PACE_4H: "pace_4h",
    l.Q_GAP: "dormancy",
    l.Q_BYTES_IN: "bytes_in",
    l.Q_BYTES_OUT: "bytes_out",
    l.Q_DURATION: "duration",
    l.Q_SESSION: "session_length",
    l.Q_BREADTH: "scope_breadth",
    l.Q_DEPTH: "chain_depth",
    l.Q_LIFETIME: "token_lifetime",
    l.Q_FAILURES: "failure_pace",
    l.Q_DENIALS: "denial_pace",
    l.Q_VOLUME: "volume_1h",
    l.Q_NOVELTY: "novelty_1h",
}
FEATURE_OF_QUANTITY = np.array([INDEX[_Z_OF_QUANTITY[q]] for q in range(l.QUANTITIES)], dtype=np.int64)

CONTEXT_KIND = np.full(l.KINDS, -1, dtype=np.int64)
CONTEXT_KIND[l.K_TRANSITION] = l.K_FROM
CONTEXT_KIND[l.K_ACTION_TARGET] = l.K_ACTION
CONTEXT_KIND[l.K_REPEAT] = l.K_REPEAT
CONTEXT_KIND[l.K_PROVENANCE] = l.K_ACTION
CONTEXT_KIND[l.K_OUTCOME] = l.K_ACTION
CONTEXT_KIND[l.K_REQUEST_SIZE] = l.K_ACTION
CONTEXT_KIND[l.K_ANSWER_SIZE] = l.K_ACTION

EFFECT_WEIGHT = np.array([0.7, 1.0, 1.0, 1.25, 0.85])
"""Read, write, delete, admin, unknown: what a surprising action can do."""

STRANGE_KEPT = 0.8
"""Part of the session's strangeness that survives each further event: a memory of about five events."""

OUTCOME_SHARE = 0.5
"""An odd outcome alone says less than an odd order or destination."""

_MAX_BITS = 64.0


_MOST_GAIN = 4.0
"""Bits by which one familiar item may make up for others that are not the agent's."""


@inlined
def _bits(probability: float) -> float:
    return float(min(max(0.0, -math.log2(max(probability, 5.5e-20))), _MAX_BITS))


@inlined
def write_vector(
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
    session: Array,
) -> np.uint32:
    """Write one feature vector (see `kernel.observe` for the arguments).

    Returns a bit mask of the kinds in which the agent has a history, but not of this item.
    """
    out[:] = 0.0
    bits[:] = 0.0
    fresh = _write_surprises(out, bits, items, contexts, rows, scopes, baseline, table, numbers)
    for quantity in range(l.QUANTITIES):
        if quantities[quantity] >= 0.0:
            feature = FEATURE_OF_QUANTITY[quantity]
            out[feature] = usual_distance(baseline, rows, numbers, quantity, quantities[quantity])
    _write_composites(out, values, codes, quantities, numbers, session)
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
) -> np.uint32:
    """Surprise of every item, and how much better the peers explain the event than the agent's own past."""
    shift, fresh = 0.0, np.uint32(0)
    behind_action = totals_of(baseline, rows, scopes, table, numbers, l.K_ACTION, l.K_ACTION, items[l.K_ACTION])
    for kind in range(l.KINDS):
        feature = FEATURE_OF_KIND[kind]
        if items[kind] == 0 or feature < 0:
            continue
        totals = behind_action
        if CONTEXT_KIND[kind] != l.K_ACTION:
            totals = totals_of(baseline, rows, scopes, table, numbers, kind, CONTEXT_KIND[kind], contexts[kind])
        p, p_own, p_peers, own = frequency(
            baseline, rows, scopes, table, numbers, kind, items[kind], contexts[kind], totals
        )
        if own == 0.0 and numbers[l.N_SEEN + kind] > 0.0:
            fresh |= np.uint32(1) << np.uint32(kind)
        bits[kind] = out[feature] = _bits(p)
        if kind == l.K_ACTION:
            out[F_RARITY] = _bits(p_peers)
        if kind in (l.K_ACTION, l.K_RESOURCE, l.K_NETWORK):
            shift += max(_bits(p_own) - _bits(p_peers), -_MOST_GAIN)
    out[F_SHIFT] = min(max(shift, 0.0), _MAX_BITS)
    return fresh


@inlined
def _write_composites(
    out: Array, values: Array, codes: Array, quantities: Array, numbers: Array, session: Array
) -> None:
    """Features made of others."""
    order = max(out[F_TRANSITION], out[F_ACTION_TARGET])
    strongest = max(out[F_ACTION], out[F_TARGET], order)
    out[F_WRITE] = min(EFFECT_WEIGHT[codes[c.EFFECT]] * strongest, _MAX_BITS)
    side = 1.0 if codes[c.EXTERNAL] == 1 else (0.0 if codes[c.EXTERNAL] == 0 else 0.5)
    out[F_EXTERNAL] = side * out[F_TARGET]
    gathered = out[F_TRANSITION] + max(out[F_TARGET], out[F_ACTION_TARGET]) + out[F_REPEAT]
    gathered += OUTCOME_SHARE * out[F_OUTCOME] + out[F_PROVENANCE]
    kept = np.float32(STRANGE_KEPT) * session[l.S_STRANGE]
    session[l.S_STRANGE] = kept + np.float32((1.0 - STRANGE_KEPT) * gathered)
    out[F_STRANGE] = min(np.float64(session[l.S_STRANGE]), _MAX_BITS)
    if values[c.UNGRANTED] >= 0.0 and values[c.BREADTH] > 0.0:
        out[F_GAP] = min(values[c.UNGRANTED] / values[c.BREADTH], 1.0)
    out[F_OUTSIDE] = 1.0 if codes[c.CAPABILITY] == c.OUTSIDE else 0.0
    if codes[c.METHOD] > 0:
        out[F_METHOD] = max(np.float64(numbers[l.N_METHOD]) - codes[c.METHOD], 0.0)
    _write_drift(out, quantities, numbers)


@inlined
def _write_drift(out: Array, quantities: Array, numbers: Array) -> None:
    """Largest distance from the slow reference, beyond what a day's ups and downs are."""
    for k in range(len(l.DRIFTING)):
        out[F_DRIFT] = max(out[F_DRIFT], distance_from_reference(numbers, quantities, k) - LIMIT)
