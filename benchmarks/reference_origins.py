"""`argument_origin` in plain Python: exact memories of values by task, by peer group and by agent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Event = Mapping[str, Any]
Item = tuple[Any, ...]
Scopes = tuple[Item | None, ...]
"""Keys of fleet, tenant, peer group and task."""

PERIOD_MS = 90 * 86_400_000
LEAST_VALUES, LEARNED_VALUES, REMEMBERED_CALLS, HASH_DIGITS = 10, 8, 64, 16
OWN, ACTED_ON, LOOKED_UP = "own", "acted on", "looked up"


class TracedValue(NamedTuple):
    """Value of an argument, and whose it is: `OWN`, or that others may have written it and what the call does."""

    value: str
    whose: str


class RememberedValues:
    """Values of a scope, and how many of each period it has shown."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.periods: Counter[int] = Counter()


def tells_origins(event: Event) -> bool:
    """Whether the sender traces arguments."""
    return event.get("arguments") is not None or event.get("untrusted_result") is not None


def traced_values(event: Event, calls: list[bool]) -> list[TracedValue]:
    """Values of an event, given of each earlier call of its session whether others may have written its answer."""
    outside = (event.get("resource") or {}).get("external") is True
    foreign = ACTED_ON if outside or event.get("effect") != "read" else LOOKED_UP
    return [
        TracedValue(one["hash"][:HASH_DIGITS], foreign if _may_be_foreign(one, calls) else OWN)
        for one in event.get("arguments") or []
    ]


def _may_be_foreign(argument: Mapping[str, Any], calls: list[bool]) -> bool:
    source = argument.get("from")
    if argument["origin"] != "tool" or source is None:
        return False
    if source >= len(calls):
        return True
    return any(calls) if len(calls) - source > REMEMBERED_CALLS else calls[source]


def learned_values(values: list[TracedValue], task: str | None) -> list[Item]:
    """What the agent remembers of an event: at most eight values, those of others that it acted on first."""
    ordered = [one for whose in (ACTED_ON, OWN) for one in values if one.whose == whose]
    return [("argument", task, one.value) for one in ordered[:LEARNED_VALUES]]


def argument_origin(
    values: list[TracedValue],
    scopes: Scopes,
    task: str | None,
    known: Mapping[Item, RememberedValues],
    own: Mapping[Item, int],
    now_ms: int,
) -> float:
    """Value of the feature of an event that tells origins.

    Args:
        known: what the history remembers, by scope.
        own: counts of the agent.
        now_ms: the agent's latest time.
    """
    of_peers, of_task = scopes[2], scopes[3]
    scope, new = (of_task, 2.0) if of_task is not None else (of_peers, 2.0)
    if not _remembers(known, scope, now_ms):
        scope, new = of_peers, 1.5
        if of_task is None or not _remembers(known, scope, now_ms):
            return 0.0
    assert scope is not None
    acted_on = {one.value for one in values if one.whose == ACTED_ON}
    return (
        new
        if any(value not in known[scope].values and not own.get(("argument", task, value)) for value in acted_on)
        else 1.0
    )


def _remembers(known: Mapping[Item, RememberedValues], scope: Item | None, now_ms: int) -> bool:
    return scope is not None and scope in known and known[scope].periods[now_ms // PERIOD_MS] >= LEAST_VALUES


def remember_values(history: Iterable[tuple[Item, Scopes, int, list[TracedValue]]]) -> dict[Item, RememberedValues]:
    """Values of a history by scope; what was only looked up is known where two agents of the peer group did.

    Args:
        history: agent, scopes, time and values of each event.
    """
    events = list(history)
    lookers: defaultdict[tuple[Item | None, str], set[Item]] = defaultdict(set)
    for agent, scopes, _, values in events:
        for one in values:
            if one.whose == LOOKED_UP:
                lookers[scopes[2], one.value].add(agent)
    known: defaultdict[Item, RememberedValues] = defaultdict(RememberedValues)
    for _, scopes, at_ms, values in events:
        kept = [one.value for one in values if one.whose != LOOKED_UP or len(lookers[scopes[2], one.value]) > 1]
        for scope in scopes[2:]:
            if scope is not None and kept:
                known[scope].values.update(kept)
                known[scope].periods[at_ms // PERIOD_MS] += len(kept)
    return dict(known)
