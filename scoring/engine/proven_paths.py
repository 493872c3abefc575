"""Access paths that an agent has proven since its model was trained: verdicts on calls take them as known.

Snapshots learn nothing until the next training, so that every call by a new key, network or delegation chain would wait
for a person until then, also where the key was announced or the agent has worked by it for days. So the engine keeps a
trial of each part of an access path that is new to its agent. A part is proven

- at once, where it is a credential that the agent's authorization server announces, or the first of its kind of an
  agent that the model's history does not show: there is no other that it could differ from;
- else after `TRIAL_MS` from its first event, with `TRIAL_EVENTS` successful events, at one of which no evidence stands
  against the agent. A network or a credential must have replaced others, too: at least half of the agent's events came
  by it meanwhile. Whoever uses a stolen credential beside its owner is not that.

Only what a token vouches for counts. At medium or above nothing is proven, and what was begins its trial again. Levels
do not look at this: their evidence is as before. The state is bounded, and published with the agent's risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.compilation import compiled
from ...ingest.features import layout
from ...ingest.features.row_observations import IGNORED_EVENT
from ...ingest.timestamps import HOUR_MS, MINUTE_MS
from . import risk_levels

MAX_PARTS = 8
"""Parts of access paths that are kept of an agent; of those on trial the one with the fewest events gives way."""

TRIAL_MS, TRIAL_EVENTS = 24 * HOUR_MS, 20
"""Time and successful events until a part is proven."""

FREE, ON_TRIAL, PROVEN = range(3)
"""Values of `state`."""

PART = np.dtype(
    [
        ("name", np.uint64),  # hash of the network, credential or chain under the model's salt
        ("since_min", np.int32),  # when its trial began, minutes of UTC
        ("events", np.uint16),  # successful ones by it since then
        ("others", np.uint16),  # of the agent by another of its kind
        ("kind", np.uint8),  # place in `KINDS`
        ("state", np.uint8),
    ]
)
"""One part of an access path, as it is kept, stored and published."""

KINDS = 3
NETWORK, CREDENTIAL, CHAIN = range(KINDS)
"""Parts of an access path, in the order of `models.call_challenges.PATH_PARTS`."""

NO_PARTS = b""
_NAMES = np.array([event_columns.NETWORK, event_columns.CREDENTIAL, event_columns.CHAIN])
_ITEMS = np.array([layout.K_NETWORK, layout.K_CREDENTIAL, layout.K_CHAIN])
_MOST_EVENTS = 65_535

Parts = npt.NDArray[Any]
"""Of dtype `PART`, (slots, MAX_PARTS)."""


def allocate(slots: int) -> Parts:
    """Parts of agents that have shown nothing new."""
    return np.zeros((slots, MAX_PARTS), PART)


@compiled
def advance(
    rows: Any,
    slots: Any,
    parts: Any,
    names: Any,
    codes: Any,
    flags: Any,
    new_kinds: Any,
    numbers: Any,
    risks: Any,
    level_before: Any,
    level_after: Any,
    calm: Any,
    learn: bool,
    proven: Any,
) -> None:
    """Apply one event of each of some agents, in order.

    Args:
        rows: int64 (m,), rows of the batch.
        slots, names, codes: per row of the batch.
        parts: see `Parts`.
        risks: of dtype `risk_levels.ROW`, by slot, after the event. Its clock never goes back: a part whose first event
            is told as one of last week has no trial behind it.
        flags, new_kinds: of `RowObservations`.
        numbers: float32 (n, layout.NUMBERS), of each row's agent before the event.
        level_before, level_after: per row of the batch, the agent's level.
        calm: bool (m,), no evidence to speak of stands against the agent after the event.
        learn: False leaves trials as they are.
        proven: uint8 (n,), written: bit k set where the event's part of kind k was proven before it.
    """
    for position in range(len(rows)):
        r = rows[position]
        own = parts[slots[r]]
        for kind in range(KINDS):
            at = _find(own, kind, names[r, _NAMES[kind]])
            if at >= 0 and own[at].state == PROVEN and level_before[r] < risk_levels.MEDIUM:
                proven[r] |= np.uint8(1 << kind)
        if not learn:
            continue
        now_min, event_type = np.int32(risks[slots[r]].at_ms // MINUTE_MS), codes[r, event_columns.TYPE]
        is_low = max(level_before[r], level_after[r]) < risk_levels.MEDIUM
        if not is_low:
            _begin_again(own, now_min)
        if flags[r] != IGNORED_EVENT and codes[r, event_columns.SELF_ASSERTED] == 0:
            counts = is_low and codes[r, event_columns.OUTCOME] == event_columns.SUCCESS
            is_newcomer = counts and numbers[r, layout.N_SHARED] == 0.0
            _begin_trials(own, names[r], numbers[r], event_type, new_kinds[r], now_min, is_newcomer)
            if counts:
                _count(own, names[r], event_type, now_min, calm[position])


@compiled
def _find(own: Any, kind: int, name: Any) -> int:
    """Place of a part, -1 where it is not kept. *name* 0 is none."""
    if name != 0:
        for at in range(MAX_PARTS):
            if own[at].state != FREE and own[at].kind == kind and own[at].name == name:
                return at
    return -1


@compiled
def _announces(event_type: Any) -> bool:
    """Tell whether an authorization server announces a credential by an event of this type."""
    return bool(event_type == event_columns.CLIENT_CHANGE or event_type == event_columns.CLIENT_REGISTER)


@compiled
def _begin_trials(
    own: Any, names: Any, numbers: Any, event_type: Any, new_kinds: Any, now_min: Any, is_newcomer: bool
) -> None:
    """Begin the trial of each part that is new to the agent, or announced, and has none."""
    for kind in range(KINDS):
        name = names[_NAMES[kind]]
        is_new = (new_kinds >> np.uint32(_ITEMS[kind])) & np.uint32(1) != 0
        is_first = numbers[layout.N_SEEN + _ITEMS[kind]] == 0.0
        begins = is_new or is_first or (kind == CREDENTIAL and _announces(event_type))
        if begins and name != 0 and _find(own, kind, name) < 0:
            proves = is_newcomer and is_first and not _has_kind(own, kind)
            part = own[_place_for_one(own)]
            part.name, part.kind, part.state = name, kind, PROVEN if proves else ON_TRIAL
            part.since_min, part.events, part.others = now_min, 0, 0


@compiled
def _has_kind(own: Any, kind: int) -> bool:
    """Tell whether any part of a kind is kept."""
    found = False
    for at in range(MAX_PARTS):
        found |= own[at].state != FREE and own[at].kind == kind
    return found


@compiled
def _place_for_one(own: Any) -> int:
    """A free place; else that of the part on trial with the fewest events, else of the one proven longest."""
    chosen = 0
    for at in range(MAX_PARTS):
        if own[at].state == FREE:
            return at
        if own[at].state != own[chosen].state:
            if own[at].state == ON_TRIAL:
                chosen = at
        elif own[at].state == ON_TRIAL:
            if own[at].events < own[chosen].events:
                chosen = at
        elif own[at].since_min < own[chosen].since_min:
            chosen = at
    return chosen


@compiled
def _begin_again(own: Any, now_min: Any) -> None:
    """Begin all trials anew: the agent is under suspicion."""
    for at in range(MAX_PARTS):
        if own[at].state != FREE:
            own[at].state, own[at].since_min, own[at].events, own[at].others = ON_TRIAL, now_min, 0, 0


@compiled
def _count(own: Any, names: Any, event_type: Any, now_min: Any, is_calm: bool) -> None:
    """Count a successful event for the parts that it came by, and against others of their kinds."""
    for at in range(MAX_PARTS):
        part = own[at]
        name = names[_NAMES[part.kind]]
        if part.state == FREE or name == 0:
            continue
        if max(part.events, part.others) == _MOST_EVENTS:
            part.events, part.others = part.events // 2, part.others // 2
        if name != part.name:
            part.others += 1
            continue
        part.events += 1
        has_replaced = part.kind == CHAIN or part.events >= part.others
        is_long = (now_min - part.since_min) * MINUTE_MS >= TRIAL_MS and part.events >= TRIAL_EVENTS
        is_announced = part.kind == CREDENTIAL and _announces(event_type)
        if is_announced or (is_calm and is_long and has_replaced):
            part.state = PROVEN


def pack(parts: Parts) -> list[bytes]:
    """Parts of agents (n, MAX_PARTS) as they are stored and published; most agents have none."""
    used, packed = parts["state"] != FREE, [NO_PARTS] * len(parts)
    for row in np.flatnonzero(used.any(axis=1)).tolist():
        packed[row] = parts[row][used[row]].tobytes()
    return packed


def unpack(stored: Sequence[bytes]) -> Parts:
    """Inverse of `pack`; of what is no list of parts, nothing."""
    parts = allocate(len(stored))
    for row, kept in zip(parts, stored, strict=True):
        if kept and len(kept) % PART.itemsize == 0:
            read = np.frombuffer(kept, PART)[:MAX_PARTS]
            read = read[(read["kind"] < KINDS) & (read["state"] <= PROVEN)]
            row[: len(read)] = read
    return parts


def proven_names(stored: bytes) -> frozenset[tuple[int, int]]:
    """Kind and name of each proven part."""
    if not stored:
        return frozenset()
    own = unpack([stored])[0]
    own = own[own["state"] == PROVEN]
    return frozenset(zip(own["kind"].tolist(), own["name"].tolist(), strict=True))


def find_proven(names: npt.NDArray[np.uint64], stored: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Flags (n, KINDS) of the parts of calls' access paths that their agents have proven.

    Args:
        names: (n, NAMES), of the calls' columns.
        stored: (n,), what is published of their agents.
    """
    found = np.zeros((len(stored), KINDS), np.bool_)
    for row, kept in enumerate(stored):
        if kept:
            of_agent = proven_names(kept)
            found[row] = [(kind, int(names[row, _NAMES[kind]])) in of_agent for kind in range(KINDS)]
    return found


def as_parts(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Flags (n, KINDS) of the bits (n,) that `advance` writes.

    >>> as_parts(np.array([0, 5], np.uint8)).astype(int).tolist()
    [[0, 0, 0], [1, 0, 1]]
    """
    return np.asarray(bits[:, np.newaxis] >> np.arange(KINDS, dtype=np.uint8) & 1 != 0)
