"""Deduplication of evidence: the same name brings an agent no more evidence for a day.

One new object is anomalous in each event of its session, and a lasting honest change in every event until it is
learned, which it is not while it is under suspicion. Counted each time, either alone would lead to an alert. So a name
(a target, a principal, a network, an hour, a value out of a mail) whose surprise has brought evidence is remembered for
a day, and later events are judged as if it were no surprise; other anomalies in them count in full. The anomaly score
stays that of the event as it was. How often, how large and how a call ended is not a name: repetition, sizes, effects
and outcomes count each time; a name that is still new to the agent has no usual ones, so they count with it.

A count over hours is one observation for as long as it lasts: every event of a busy day would report it again. Pace of
four hours, volume and new names count where they reach another whole standard deviation, once a day. What exceeds all
that a day explains (`drift`) and short bursts count each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free, compiled, inlined
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import BY_LEVEL, ONCE, BadFeature, Item
from trustwatch.ingest.features.feature_table import FEATURE_INDEX, FEATURE_OF_KIND, FEATURES, ITEMS
from trustwatch.ingest.features.row_observations import RowObservations
from trustwatch.ingest.timestamps import MINUTE_MS

from .composites import COMPARED_KINDS, IMPLIED_FEATURES, recompute_composites

DEDUP_WINDOW_MINUTES = 24 * 60
"""Minutes for which a name that has counted does not count again."""

EVIDENCE_P_VALUE = 0.25
"""p-value from which an event brings evidence: the names that carry it are remembered."""

LOOKUP_P_VALUE = 0.5
"""p-value above which no name is looked up: the more usual half of all events brings no evidence, whatever it names."""

CARRIER_MIN_EVIDENCE, CARRIER_MIN_SHARE = 0.8, 0.4
"""Evidence of its feature, decades times importance, from which a name is one of those that made an event anomalous;
and the part of the event's strongest evidence that it must be."""

_ITEMS_ONCE = [
    (feature.explanation.kind, feature.caller)
    for feature in FEATURES
    if isinstance(feature.explanation, Item) and feature.counts == ONCE
]
_KIND_NAMES = np.array(sorted([*(kind for kind, _ in _ITEMS_ONCE), layout.K_ARGUMENT]), np.int64)
_FEATURE_OF_NAME = FEATURE_OF_KIND.copy()
_FEATURE_OF_NAME[layout.K_ARGUMENT] = FEATURE_INDEX["argument_origin"]
"""Feature that is anomalous because of a name: the surprise of its kind, or that a value came from others."""
FLOW_FEATURES = np.array(
    [FEATURE_INDEX[name] for name in ("argument_origin", "argument_route", "sensitive_route")], np.int64
)
"""Features that the values and routes of an event's arguments make anomalous; these have one name together."""
_NEVER_USUAL_KINDS = np.isin(
    np.arange(layout.KINDS), [layout.K_ARGUMENT, *(kind for kind, is_caller in _ITEMS_ONCE if is_caller)]
)
"""Flags (KINDS,) of the names of callers and of arguments: new items of an attack are anomalous again every day."""
NEVER_USUAL_BITS = np.uint32(sum(1 << kind for kind in _KIND_NAMES.tolist() if _NEVER_USUAL_KINDS[kind]))
"""Bits of the masks of `find_counted` that leave the name of a caller or of arguments aside."""
_FEATURES_BESIDE_KIND = {
    kind: [at for at, feature in enumerate(FEATURES) if kind in feature.restates] for kind in ITEMS
} | {layout.K_ARGUMENT: FLOW_FEATURES[1:].tolist()}
"""Features that repeat the surprise of a kind's own feature from another view, such as that of the peer group."""
_HOURLY_COUNT_FEATURES = np.array([at for at, feature in enumerate(FEATURES) if feature.counts == BY_LEVEL], np.int64)
_GATHERING = [(at, feature) for at, feature in enumerate(FEATURES) if feature.gathering]
_NAMED = np.array(
    [
        (feature, kind)
        for kind in _KIND_NAMES.tolist()
        for feature in (_FEATURE_OF_NAME[kind], *_FEATURES_BESIDE_KIND.get(kind, ()))
    ],
    np.int64,
).reshape(-1, 2)
"""Features that a name made anomalous, each with the bit of the name."""
_IMPLIED = np.array(
    [(feature, kind, FEATURE_OF_KIND[kind]) for kind, implied in IMPLIED_FEATURES.items() for feature in implied],
    np.int64,
).reshape(-1, 3)
"""Features that are anomalous whenever an item is new, with its bit and its own feature."""
_COMPARED = np.array(
    [(feature, FEATURE_OF_KIND[kind]) for feature, kinds in COMPARED_KINDS.items() for kind in kinds], np.int64
).reshape(-1, 2)
"""Features that compare an item with the model's history, with its own feature."""
_GATHERED = np.array(
    [
        *((at, kind) for at, gathering in _GATHERING for kind in gathering.gathers),
        *((at, layout.KINDS + number) for number, at in enumerate(_HOURLY_COUNT_FEATURES.tolist())),
    ],
    np.int64,
).reshape(-1, 2)
"""Features that gather names, and counts over hours, with their bit."""
_GATHERED_NEW = np.array([(at, kind) for at, feature in _GATHERING for kind in feature.gathers_new], np.int64).reshape(
    -1, 2
)
"""Features that gather names which are new to the agent, with their bit."""
_NAME_BIT = np.uint32(1 << 31)
"""Bit that distinguishes a name's key from that of a level: the number of its feature, from 1, and whole deviations."""
if layout.KINDS + len(_HOURLY_COUNT_FEATURES) > 32:
    raise BadFeature(
        f"{layout.KINDS} kinds of items and {len(_HOURLY_COUNT_FEATURES)} counts over hours: "
        "32 bits hold them, see _look_up"
    )

Matrix = npt.NDArray[np.float64]


@allocation_free
def _name_key(item: Any, kind: int) -> Any:
    """Hash a name of a kind to 32 bits; never 0."""
    mixed = (item ^ np.uint64(kind + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return np.uint32(mixed >> np.uint64(32)) | _NAME_BIT


@allocation_free
def _level_key(number: int, z: float) -> Any:
    """Return 32 bits for the whole standard deviations of a count over hours; 0 for less than one."""
    return np.uint32(number + 1) << np.uint32(8) | np.uint32(z) if z >= 1.0 else np.uint32(0)


@allocation_free
def _same_count(counted: Any, key: Any) -> bool:
    """Return whether both keys are levels of the same count over hours."""
    return bool(key < _NAME_BIT and counted >> np.uint32(8) == key >> np.uint32(8))


@allocation_free
def _has_counted(risk: Any, key: Any, now_min: int, renewed: bool) -> bool:
    """Return whether a name, or at least this level, has counted within the day. If *renewed*, a name that continues
    stays counted until it pauses for a day."""
    for k in range(len(risk.counted)):
        counted = risk.counted[k]
        covered = counted == key or (counted > key and _same_count(counted, key))
        if covered and now_min - risk.counted_min[k] < DEDUP_WINDOW_MINUTES:
            if renewed and counted == key and key & _NAME_BIT:
                risk.counted_min[k] = max(risk.counted_min[k], now_min)
            return True
    return False


@allocation_free
def _find_counted(
    rows: Any,
    slots: Any,
    state: Any,
    items: Any,
    vectors: Any,
    time_ms: Any,
    p_values: Any,
    asserted: Any,
    kinds: Any,
    never_usual: Any,
    levels: Any,
    places: Any,
    masks: Any,
) -> int:
    """Find rows in which something has counted: their places in *rows*, a bit per kind and level, their number."""
    count = 0
    for position in range(len(rows)):
        row = rows[position]
        if p_values[row] > LOOKUP_P_VALUE:
            continue
        risk, mask, now = state[slots[row]], np.uint32(0), time_ms[row] // MINUTE_MS
        for kind in kinds:
            renewed = asserted[row] == 0 and not never_usual[kind]
            if items[row, kind] != 0 and _has_counted(risk, _name_key(items[row, kind], kind), now, renewed):
                mask |= np.uint32(1) << np.uint32(kind)
        for number in range(len(levels)):
            key = _level_key(number, vectors[row, levels[number]])
            if key != 0 and _has_counted(risk, key, now, False):
                mask |= np.uint32(1) << np.uint32(layout.KINDS + number)
        if mask:
            places[count], masks[count] = position, mask
            count += 1
    return count


@allocation_free
def _record_counted(
    rows: Any,
    slots: Any,
    state: Any,
    items: Any,
    vectors: Any,
    time_ms: Any,
    p_values: Any,
    asserted: Any,
    feature_evidence: Any,
    asked: Any,
    kinds: Any,
    features: Any,
    levels: Any,
) -> None:
    """Keep the names and levels that carried the evidence of *rows*. *feature_evidence* is per place in *rows*."""
    for position in range(len(rows)):
        row = rows[position]
        if p_values[row] > EVIDENCE_P_VALUE or asserted[row] != 0:
            continue
        risk, strongest, strongest_asked = state[slots[row]], 0.0, 0.0
        for feature in range(feature_evidence.shape[1]):
            strongest = max(strongest, feature_evidence[position, feature])
            if asked[feature]:
                strongest_asked = max(strongest_asked, feature_evidence[position, feature])
        least = max(CARRIER_MIN_EVIDENCE, CARRIER_MIN_SHARE * strongest)
        least_asked = max(CARRIER_MIN_EVIDENCE, CARRIER_MIN_SHARE * strongest_asked)
        for kind in kinds:
            needed = least_asked if asked[features[kind]] else least
            if items[row, kind] == 0 or feature_evidence[position, features[kind]] < needed:
                continue
            _put_first(risk, _name_key(items[row, kind], kind), time_ms[row] // MINUTE_MS)
        for number in range(len(levels)):
            key = _level_key(number, vectors[row, levels[number]])
            if key != 0 and feature_evidence[position, levels[number]] >= least:
                _put_first(risk, key, time_ms[row] // MINUTE_MS)


@allocation_free
def _put_first(risk: Any, key: Any, now_min: int) -> None:
    """Put a name before all others. It replaces the last one, or the lower level of the same count.

    Order, not minutes, determines which counted first: a backlog of a day arrives within one minute.
    """
    at = len(risk.counted) - 1
    for k in range(at):
        if risk.counted[k] == key or _same_count(risk.counted[k], key):
            at = k
            break
    for k in range(at, 0, -1):
        risk.counted[k], risk.counted_min[k] = risk.counted[k - 1], risk.counted_min[k - 1]
    risk.counted[0], risk.counted_min[0] = key, now_min


def find_counted(
    rows: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int32],
    state: npt.NDArray[Any],
    observations: RowObservations,
    vectors: Matrix,
    time_ms: npt.NDArray[np.int64],
    p_values: npt.NDArray[np.float64],
    asserted: npt.NDArray[np.int8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Return the places in *rows* at which something has counted before, each with a bit per kind of name and, above
    those, per level.

    Args:
        rows: int64 (m,), of a round: each of another agent. vectors: (n, F), per row of the batch. time_ms: int64 (n,),
        when each event happened, or arrived if that is later: a backdated event keeps no name quiet. p_values: (n,),
        per row of the batch, of the events as they are. asserted: int8 (n,), not 0 if the agent is unauthenticated: it
        keeps no name quiet any longer.
    """
    places, masks = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint32)
    number = _find_counted(
        rows,
        slots,
        state,
        observations.items,
        vectors,
        time_ms,
        p_values,
        asserted,
        _KIND_NAMES,
        _NEVER_USUAL_KINDS,
        _HOURLY_COUNT_FEATURES,
        places,
        masks,
    )
    return places[:number], masks[:number]


@inlined
def _mark(bits: Any, features: Any, flags: Any) -> None:
    """Set the flags of the features (k, 2) whose bit is one of *bits*."""
    for at in range(len(features)):
        if bits >> np.uint32(features[at, 1]) & np.uint32(1):
            flags[features[at, 0]] = True


@compiled
def _suppress_rows(
    vectors: Any,
    masks: Any,
    fresh: Any,
    named_by: Any,
    implied_by: Any,
    compared_by: Any,
    gathered: Any,
    gathered_new: Any,
) -> None:
    """Set what the names and levels of *masks* made anomalous to 0."""
    named, wide = np.empty(vectors.shape[1], np.bool_), np.empty(vectors.shape[1], np.bool_)
    for row in range(len(masks)):
        mask, new = masks[row], masks[row] & fresh[row]
        named[:] = False
        _mark(mask, named_by, named)
        wide[:] = named
        for at in range(len(implied_by)):
            if named[implied_by[at, 2]] and new >> np.uint32(implied_by[at, 1]) & np.uint32(1):
                wide[implied_by[at, 0]] = True
        for at in range(len(compared_by)):
            if named[compared_by[at, 1]]:
                wide[compared_by[at, 0]] = True
        _mark(mask, gathered, wide)
        _mark(new, gathered_new, wide)
        for feature in range(vectors.shape[1]):
            if wide[feature]:
                vectors[row, feature] = 0.0


def suppress_counted(
    vectors: Matrix, masks: npt.NDArray[np.uint32], fresh: npt.NDArray[np.uint32], codes: npt.NDArray[np.int8]
) -> Matrix:
    """Copy *vectors* (m, F) as if the names of *masks* (m,), and what follows from them, were not surprising and its
    levels usual.

    Of a name that is still new to the agent (*fresh*, bits as in *masks*) that is everything in which it can only be
    anomalous: an action that was never seen has no usual outcome.
    """
    after = vectors.copy()
    _suppress_rows(after, masks, fresh, _NAMED, _IMPLIED, _COMPARED, _GATHERED, _GATHERED_NEW)
    recompute_composites(after, codes)
    return after


CALLER_FEATURES = np.array(
    [at for at, feature in enumerate(FEATURES) if feature.caller and feature.counts == ONCE], np.int64
)
"""Features of the names that identify the caller."""
WHO_FEATURES = np.array([*CALLER_FEATURES, FEATURE_INDEX["habits_of_others"]], np.int64)
NEVER_USUAL_EVIDENCE = 2.0
"""Evidence of who calls or of where arguments came from, decades, that no odder feature of the event makes usual."""


def record_counted(
    rows: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int32],
    state: npt.NDArray[Any],
    observations: RowObservations,
    vectors: Matrix,
    time_ms: npt.NDArray[np.int64],
    p_values: npt.NDArray[np.float64],
    asserted: npt.NDArray[np.int8],
    feature_evidence: Matrix,
    asked: npt.NDArray[np.bool_],
    target_evidence: npt.NDArray[np.float64],
) -> None:
    """Remember the names and levels that brought evidence, except those of forged events, which must not hide real
    ones.

    Args:
        asserted: int8 (n,), not 0 if the agent is unauthenticated. p_values: (n,), per row of the batch, without what
        counted before. feature_evidence: (m, F), evidence of each feature of *rows*, likewise. asked: (F,), features of
        a concern that leaves others aside: a name that is anomalous among these has carried its evidence, whatever else
        was more anomalous. target_evidence: (m,), evidence of *rows* that is not a feature and belongs to the target.
    """
    if (target_evidence > 0.0).any():
        feature_evidence, target = feature_evidence.copy(), _FEATURE_OF_NAME[layout.K_TARGET]
        feature_evidence[:, target] = np.maximum(feature_evidence[:, target], target_evidence)
    if len(observations.arguments.values):
        feature_evidence = feature_evidence.copy()
        feature_evidence[:, FLOW_FEATURES[0]] = feature_evidence[:, FLOW_FEATURES].max(axis=1)
    _record_counted(
        rows,
        slots,
        state,
        observations.items,
        vectors,
        time_ms,
        p_values,
        asserted,
        feature_evidence,
        asked,
        _KIND_NAMES,
        _FEATURE_OF_NAME,
        _HOURLY_COUNT_FEATURES,
    )
