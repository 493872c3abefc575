"""The baseline of an agent, as far as its stored state can tell it: how much it knows, and what is usual.

State holds names only as hashes, so that it does not grow: how many actions are known, not which. Which ones it used
lately, the recent events say.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...ingest.features import layout as l
from ...scoring.records import AgentRow

KNOWN = {
    l.K_ACTION: "actions",
    l.K_RESOURCE: "resources",
    l.K_TARGET: "destinations",
    l.K_AUDIENCE: "audiences",
    l.K_PEER: "peer agents",
    l.K_PRINCIPAL: "principals",
    l.K_NETWORK: "networks",
    l.K_CREDENTIAL: "credentials",
    l.K_SCOPES: "sets of scopes",
    l.K_CHAIN: "delegation chains",
    l.K_TRANSITION: "orders of actions",
}
USUAL = {
    l.Q_PACE_15M: ("events in the last quarter hour", ""),
    l.Q_PACE_4H: ("events in the last hours", ""),
    l.Q_GAP: ("pause before an event", "s"),
    l.Q_SESSION: ("events in a session so far", ""),
    l.Q_BYTES_IN: ("size of a request", "bytes"),
    l.Q_BYTES_OUT: ("size of an answer", "bytes"),
    l.Q_DURATION: ("duration", "ms"),
    l.Q_BREADTH: ("scopes asked for", ""),
    l.Q_DEPTH: ("delegation depth", ""),
    l.Q_LIFETIME: ("token lifetime", "s"),
    l.Q_FAILURES: ("errors in the last hour", ""),
    l.Q_DENIALS: ("denials in the last hour", ""),
    l.Q_VOLUME: ("bytes in the last hour", ""),
    l.Q_NOVELTY: ("new names in the last hour", ""),
}


class Usual(NamedTuple):
    """A quantity: its mean and the band of one standard deviation."""

    name: str
    unit: str
    mean: float
    low: float
    high: float


class Profile(NamedTuple):
    """What an agent's state says of it."""

    learned: int
    known: list[tuple[str, int]]
    usual: list[Usual]


def profile_of(row: AgentRow | None) -> Profile | None:
    """The profile in a stored row; None where there is none, or it is of another layout."""
    if row is None or not row.features:
        return None
    try:
        numbers = np.frombuffer(row.features, l.ROW)[0]["numbers"]
    except (ValueError, IndexError):
        return None
    known = [(name, round(float(numbers[l.N_DISTINCT + kind]))) for kind, name in KNOWN.items()]
    return Profile(int(numbers[l.N_EVENTS]), [one for one in known if one[1]], _usual(numbers))


def _usual(numbers: l.Array) -> list[Usual]:
    found = []
    for quantity, (name, unit) in USUAL.items():
        if not numbers[l.N_COUNT + quantity]:
            continue
        mean = float(numbers[l.N_MEAN + quantity])
        spread = math.sqrt(max(float(numbers[l.N_VAR + quantity]), 0.0))
        low, high = max(0.0, math.expm1(mean - spread)), math.expm1(mean + spread)
        found.append(Usual(name, unit, max(0.0, math.expm1(mean)), low, high))
    return found
