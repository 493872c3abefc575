"""`argument_origin` and the features of routes in plain Python: exact memories by task, by peer group and by agent."""

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
REMEMBERED_SENSITIVE_CALLS = 32
UNHASHED, SENSITIVE = "unhashed", "sensitive"
OWN, ACTED_ON, LOOKED_UP = "own", "acted on", "looked up"


class TracedValue(NamedTuple):
    """Value of an argument, None where it has no hash, and whose it is: `OWN`, or that others may have written it and
    what the call does; and its routes, by the rules that ask about them."""

    value: str | None
    whose: str
    routes: tuple[Item, ...]


class RememberedValues:
    """Values and routes of a scope, how many values of each period it has shown, and how many arguments in all."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.routes: set[Item] = set()
        self.periods: Counter[int] = Counter()
        self.told = 0


def tells_origins(event: Event) -> bool:
    """Whether the sender traces arguments."""
    return event.get("arguments") is not None or event.get("untrusted_result") is not None


def traced_values(event: Event, calls: list[bool], sensitive: list[bool]) -> list[TracedValue]:
    """Values of an event, given of each earlier call of its session whether others may have written its answer, and
    whether it was sensitive."""
    outside = (event.get("resource") or {}).get("external") is True
    foreign = ACTED_ON if outside or event.get("effect") != "read" else LOOKED_UP
    return [
        TracedValue(
            one["hash"][:HASH_DIGITS] if "hash" in one else None,
            foreign if _may_be_foreign(one, calls) else OWN,
            _routes(event, one, foreign, sensitive),
        )
        for one in event.get("arguments") or []
    ]


def _routes(event: Event, argument: Mapping[str, Any], foreign: str, sensitive: list[bool]) -> tuple[Item, ...]:
    if argument["origin"] != "tool" or "from_action" not in argument:
        return ()
    route = (event["action"], argument["from_action"], argument["name"])
    external = (event.get("resource") or {}).get("external")
    shared = event.get("untrusted_result") is True and external is not False and event.get("effect") != "read"
    found = []
    if "hash" not in argument and foreign == ACTED_ON:
        found.append((UNHASHED, *route))
    if (external is True or shared) and _was_sensitive(argument.get("from"), sensitive):
        found.append((SENSITIVE, *route))
    return tuple(found)


def _was_sensitive(call: int | None, sensitive: list[bool]) -> bool:
    if call is None or call >= len(sensitive):
        return False
    return any(sensitive) if len(sensitive) - call > REMEMBERED_SENSITIVE_CALLS else sensitive[call]


def _may_be_foreign(argument: Mapping[str, Any], calls: list[bool]) -> bool:
    source = argument.get("from")
    if argument["origin"] != "tool" or source is None:
        return False
    if source >= len(calls):
        return True
    return any(calls) if len(calls) - source > REMEMBERED_CALLS else calls[source]


def learned_values(values: list[TracedValue], task: str | None) -> list[Item]:
    """What the agent remembers of an event: at most eight values, those of others that it acted on first; and at most
    eight routes."""
    ordered = [one for whose in (ACTED_ON, OWN) for one in values if one.whose == whose and one.value is not None]
    learned: list[Item] = [("argument", task, one.value) for one in ordered[:LEARNED_VALUES]]
    routes = [route for one in values for route in one.routes]
    return learned + [("route", task, *route) for route in routes[:LEARNED_VALUES]]


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
    acted_on = {one.value for one in values if one.whose == ACTED_ON and one.value is not None}
    unknown = {
        value for value in acted_on if value not in known[scope].values and not own.get(("argument", task, value))
    }
    if not unknown:
        return 1.0
    shared = known[of_peers].values if scope == of_task and of_peers is not None else unknown
    return 3.0 if unknown - set(shared) else new


def route_novelty(
    rule: str,
    values: list[TracedValue],
    scopes: Scopes,
    task: str | None,
    known: Mapping[Item, RememberedValues],
    own: Mapping[Item, int],
) -> float:
    """Value of a feature of routes of an event that it asks about; arguments as for `argument_origin`."""
    of_peers, of_task = scopes[2], scopes[3]
    scope, new = (of_task, 2.0) if of_task is not None else (of_peers, 2.0)
    if not _has_told(known, scope):
        scope, new = of_peers, 1.5
        if of_task is None or not _has_told(known, scope):
            return 0.0
    assert scope is not None
    found = 1.0
    for one in values:
        for route in one.routes:
            if route[0] == rule and route not in known[scope].routes and not own.get(("route", task, *route)):
                found = max(found, new if rule == SENSITIVE or one.whose == ACTED_ON else 1.5)
    return found


def _has_told(known: Mapping[Item, RememberedValues], scope: Item | None) -> bool:
    return scope is not None and scope in known and known[scope].told >= LEAST_VALUES


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
            if one.whose == LOOKED_UP and one.value is not None:
                lookers[scopes[2], one.value].add(agent)
    known: defaultdict[Item, RememberedValues] = defaultdict(RememberedValues)
    for _, scopes, at_ms, values in events:
        told = [
            one
            for one in values
            if one.value is None or one.whose != LOOKED_UP or len(lookers[scopes[2], one.value]) > 1
        ]
        kept = [one.value for one in told if one.value is not None]
        for scope in scopes[2:]:
            if scope is not None and told:
                known[scope].values.update(kept)
                known[scope].routes.update(route for one in told for route in one.routes)
                known[scope].told += len(told)
                known[scope].periods[at_ms // PERIOD_MS] += len(kept)
    return dict(known)
