"""Access paths that authorization servers announced since the model was trained: verdicts on calls take them as known.

Snapshots learn nothing until the next training, so that every call by a renewed key would wait for a person until then.
That a key was announced is a fact, not behavior, and levels treat it so, too (`models.baseline_learning`). So the
engine keeps for each agent

- the credentials that events of a registration, or of a change of the client, announced;
- of an agent whose first event here is its registration, and which the model does not know, the network and delegation
  chain of its first call by the registered key: there is no other that they could differ from.

Use proves nothing: an attacker who works with a stolen key for long enough would prove its network. An event counts if
it is authenticated and successful, and its agent is below medium. Levels do not depend on what is kept here. It is
bounded, and published with the agent's risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.events import EVENT_TYPES
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.frequency_tables import mix_pairs
from trustwatch.ingest.timestamps import DAY_MS, MINUTE_MS
from trustwatch.models.call_challenges import CALL_TYPES

KINDS = 3
NETWORK, CREDENTIAL, CHAIN = range(KINDS)
"""Parts of an access path, in the order of `models.call_challenges.PATH_PARTS`."""

KIND_OF_PLACE = np.array([NETWORK, CHAIN, CREDENTIAL, CREDENTIAL, CREDENTIAL, CREDENTIAL])
"""Parts that are kept of an agent; of more credentials the latest four."""
_NETWORK_PLACE, _CHAIN_PLACE, _CREDENTIAL_PLACES = 0, 1, slice(2, 6)

PATHS = np.dtype(
    [
        ("version", np.uint8),  # of these bytes: `VERSION`; 0 = nothing is kept
        ("is_waiting", np.uint8),  # 1 = the agent was registered, and its first call is still to come
        ("since_min", np.int32, (len(KIND_OF_PLACE),)),  # when each part was announced, minutes of UTC
        ("names", np.uint64, (len(KIND_OF_PLACE),)),  # hash under the model's salt, mixed with the agent's; 0 = none
    ]
)
"""Announced parts of one agent's access paths, as they are kept, stored and published."""

VERSION = 1
NO_PATHS = b""
KEPT_MINUTES = 30 * DAY_MS // MINUTE_MS
"""Age at which an announcement ends: by then a training knows the key, or it is not in use."""
WAITING_MINUTES = 7 * DAY_MS // MINUTE_MS
"""Time from an agent's registration in which its first call determines its path."""

_COLUMN_OF_KIND = np.array([event_columns.NETWORK, event_columns.CREDENTIAL, event_columns.CHAIN])
_ANNOUNCING = event_columns.CLIENT_CHANGE, event_columns.CLIENT_REGISTER
_CALLS = [code for code, name in enumerate(EVENT_TYPES) if name in CALL_TYPES]

Paths = npt.NDArray[Any]
"""Of dtype `PATHS`, (slots,)."""


def part_names(names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the names (n, KINDS) of the parts of each event's access path, hashed per agent; 0 if it has none."""
    parts = names[:, _COLUMN_OF_KIND]
    mixed = mix_pairs(np.repeat(names[:, event_columns.AGENT_DRAW], KINDS), parts.reshape(-1)).reshape(-1, KINDS)
    return np.where(parts == 0, np.uint64(0), mixed)


def find_announced(paths: Paths, parts: npt.NDArray[np.uint64], now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return flags (n, KINDS) of the *parts* that were announced for their agents recently enough.

    Args:
        paths: (n,), of the agents.
        parts: (n, KINDS), of `part_names`.
        now_ms: (n,), when the calls are made, UTC milliseconds.
    """
    age = (now_ms // MINUTE_MS)[:, np.newaxis] - paths["since_min"]
    same = (parts[:, KIND_OF_PLACE] == paths["names"]) & (paths["names"] != 0) & (age < KEPT_MINUTES)
    return np.stack([same[:, kind == KIND_OF_PLACE].any(axis=1) for kind in range(KINDS)], axis=1)


@allocation_free
def may_matter(
    paths: Paths, slots: npt.NDArray[np.int32], codes: npt.NDArray[np.int8], rows: npt.NDArray[np.int64]
) -> bool:
    """Return whether any of *rows* is an announcement or belongs to an agent with announced parts. Few do."""
    for row in rows:
        own, event_type = paths[slots[row]], codes[row, event_columns.TYPE]
        announces = event_type == event_columns.CLIENT_CHANGE or event_type == event_columns.CLIENT_REGISTER
        if announces or own.version != 0 or own.is_waiting != 0:
            return True
    return False


def find_announcing(
    paths: Paths, slots: npt.NDArray[np.int32], columns: EventColumns, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return those of *rows* that may announce a part: announcements, and the first calls of agents that were
    registered."""
    types = columns.codes[rows, event_columns.TYPE]
    telling = (types == event_columns.CLIENT_CHANGE) | (types == event_columns.CLIENT_REGISTER)
    is_waiting = paths["is_waiting"][slots[rows]] != 0
    if is_waiting.any():
        telling |= is_waiting & np.isin(types, _CALLS)
    return np.asarray(rows[telling], np.int64)


def keep_announced(
    paths: Paths,
    slots: npt.NDArray[np.int32],
    columns: EventColumns,
    rows: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.float32],
    now_ms: npt.NDArray[np.int64],
) -> None:
    """Keep the announced parts of some events, at most one of each agent.

    Args:
        paths, now_ms: by slot; the agent's clock, so that an event that is dated last week counts as one of now.
        rows: (m,), those of `find_announcing` that count: authenticated, successful, of agents below medium.
        numbers: (n, layout.NUMBERS), of each row's agent before the event.
    """
    for row in rows.tolist():
        own, parts = paths[slots[row]], part_names(columns.names[row : row + 1])[0]
        now_min, event_type = int(now_ms[slots[row]] // MINUTE_MS), columns.codes[row, event_columns.TYPE]
        if event_type not in _ANNOUNCING:
            _keep_first_path(own, parts, now_min)
        elif (login := columns.events[row].credential) is not None and login.thumbprint:  # a method identifies no agent
            _keep_credential(own, parts[CREDENTIAL], now_min)
            if event_type == event_columns.CLIENT_REGISTER:  # waiting is who had no history, here or in the model
                known = numbers[row, layout.N_SHARED] != 0.0 or numbers[row, layout.N_EVENTS] != 0.0
                own["is_waiting"] = not known


def _keep_credential(own: Any, name: Any, now_min: int) -> None:
    """Keep an announced credential in place of the oldest."""
    since, names = own["since_min"][_CREDENTIAL_PLACES], own["names"][_CREDENTIAL_PLACES]
    same = np.flatnonzero(names == name)
    at = int(same[0]) if len(same) else int(np.argmin(np.where(names == 0, -1, since)))
    names[at], since[at], own["version"] = name, now_min, VERSION


def _keep_first_path(own: Any, parts: npt.NDArray[np.uint64], now_min: int) -> None:
    """Keep the network and delegation chain of a new agent's first call, if it used the registered key soon enough."""
    registered = own["names"][_CREDENTIAL_PLACES] == parts[CREDENTIAL]
    if parts[CREDENTIAL] == 0 or not registered.any():
        return
    if now_min - own["since_min"][_CREDENTIAL_PLACES][registered].max() < WAITING_MINUTES:
        own["names"][[_NETWORK_PLACE, _CHAIN_PLACE]] = parts[[NETWORK, CHAIN]]
        own["since_min"][[_NETWORK_PLACE, _CHAIN_PLACE]] = now_min
    own["is_waiting"] = 0


def pack(paths: Paths) -> list[bytes]:
    """Encode the paths of agents (n,) as they are stored and published. Most agents have none."""
    packed = [NO_PATHS] * len(paths)
    for row in np.flatnonzero(paths["version"]).tolist():
        packed[row] = paths[row].tobytes()
    return packed


def unpack(stored: Sequence[bytes]) -> Paths:
    """Decode what `pack` encoded. Bytes of an unknown version decode to nothing."""
    paths = np.zeros(len(stored), PATHS)
    for row, kept in enumerate(stored):
        if len(kept) == PATHS.itemsize and kept[0] == VERSION:
            paths[row] = np.frombuffer(kept, PATHS)[0]
    return paths


def as_bits(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pack flags (n, KINDS) into bits (n,)."""
    return np.asarray((flags << np.arange(KINDS)).sum(axis=1), np.uint8)


def as_parts(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Unpack the bits of `as_bits`.

    >>> as_parts(as_bits(np.array([[False, True, True]]))).tolist()
    [[False, True, True]]
    """
    return np.asarray(bits[:, np.newaxis] >> np.arange(KINDS, dtype=np.uint8) & 1 != 0)
