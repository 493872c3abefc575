"""The same features in plain Python: exact dicts per agent, events as `json.loads` gives them.

Written apart from `trustwatch.ingest.features`, as a reader of `docs/features.md` would write it. It is the baseline of
the benchmarks, and the oracle that the compiled kernel is tested against
(`tests/ingest/features/test_feature_kernel.py`).
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .reference_habits import SessionHabits
from .reference_origins import (
    SENSITIVE,
    UNHASHED,
    RememberedValues,
    TracedValue,
    argument_origin,
    learned_values,
    remember_values,
    route_novelty,
    tells_origins,
    traced_values,
)

Event = Mapping[str, Any]
Item = tuple[Any, ...]

DAY_MS = 86_400_000
HALF_LIVES_S = (60.0, 900.0, 14_400.0)
HOUR_S = 3600.0
METHODS = {
    "none": 1,
    "client_secret_post": 2,
    "client_secret_basic": 2,
    "client_secret_jwt": 3,
    "private_key_jwt": 4,
    "self_signed_tls_client_auth": 4,
    "tls_client_auth": 5,
    "spiffe": 5,
}
WORK_HALF_LIVES = {"api.call", "tool.call", "a2a.message", "approval", "admin"}
OWN_DENIALS = {"ext_authz_denied", "revoked_by_trustwatch"}
OWN_OUTAGES = {"ext_authz_error", "trustwatch_unavailable"}
EFFECT_WEIGHT = {"read": 0.7, "write": 1.0, "delete": 1.0, "admin": 1.25, "unknown": 0.85}
AGENTS_OWN = ("network", "credential", "chain", "hour")
"""Who, from where and when: the declared task, which others share, has no say."""
NAMING = ("action", "resource", "target", "audience", "peer", "principal", "network", "credential", "scope", "chain")
CONTEXTUAL = {"transition", "action_target", "repeat", "provenance", "outcome", "request_size", "answer_size"}
FEATURE_OF_QUANTITY = {
    "pace_1m": "pace_1m",
    "pace_15m": "pace_15m",
    "pace_4h": "pace_4h",
    "gap": "dormancy",
    "bytes_in": "bytes_in",
    "bytes_out": "bytes_out",
    "duration": "duration",
    "session": "session_length",
    "breadth": "scope_breadth",
    "depth": "chain_depth",
    "lifetime": "token_lifetime",
    "failures": "failure_pace",
    "denials": "denial_pace",
    "volume": "volume_1h",
    "novelty": "novelty_1h",
}
DRIFTING = ("pace_4h", "volume")
MOST_DISORDER_MS = 60_000
PARALLEL_MS = 1_000
MOST_SESSION_LAG_MS = (1 << 22) - 2
TIMED = {"pace_1m", "pace_15m", "pace_4h", "gap", "failures", "denials", "volume", "novelty"}


class ReferenceSession:
    """Activity that belongs together."""

    __slots__ = (
        "calls",
        "doubt",
        "events",
        "habits",
        "last_ms",
        "name",
        "previous",
        "sensitive",
        "strange",
        "uses",
        "vouched_ms",
    )

    def __init__(self, name: str | None, at_ms: int) -> None:
        self.name, self.last_ms = name, at_ms
        self.vouched_ms = -math.inf  # latest time of its events that a token vouches for
        self.doubt = 4  # events of work whose order is doubted
        self.previous: str | None = None
        self.events, self.strange = 0, 0.0
        self.uses: dict[str, int] = {}
        self.calls: list[bool] = []  # of each call that told origins, whether others may have written its answer
        self.sensitive: list[bool] = []  # and whether it was sensitive
        self.habits = SessionHabits()


class ReferenceAgent:
    """Everything remembered of one agent."""

    __slots__ = (
        "age",
        "changed_ms",
        "counts",
        "decayed",
        "disorder",
        "distinct",
        "events",
        "first_ms",
        "last_ms",
        "method",
        "moments",
        "pace",
        "reference",
        "referred",
        "revoked",
        "seen",
        "sessions",
        "shared",
        "version",
        "vouched_ms",
    )

    def __init__(self, at_ms: int, shared: int = 0) -> None:
        self.first_ms = self.last_ms = at_ms
        self.changed_ms = 0
        self.shared = shared  # events of this agent that the scopes count, too
        self.vouched_ms = -math.inf  # latest time of an event that a token vouches for
        self.disorder = 0.0  # share of recent events that were out of order in their sessions
        self.version: str | None = None
        self.method, self.events = 0, 0
        self.counts: dict[Item, int] = {}
        self.seen: dict[str, float] = {}
        self.distinct: dict[str, float] = {}
        self.moments: dict[str, list[float]] = {}  # number, mean, variance
        self.pace = [0.0, 0.0, 0.0]
        self.decayed = {"failures": 0.0, "denials": 0.0, "volume": 0.0, "novelty": 0.0}
        self.sessions: list[ReferenceSession] = []
        self.revoked: list[str] = []
        self.reference = dict.fromkeys(DRIFTING, (0.0, 0.0))  # mean and variance
        self.referred, self.age = 0.0, 0.0  # active days of the reference, and how old the agent was at its last event


class ReferenceScope:
    """What is normal in the fleet, a tenant, a peer group or a task; or what an agent did, there or in a group."""

    __slots__ = ("counts", "distinct", "events", "followers", "moments", "seen")

    def __init__(self) -> None:
        self.events = 0
        self.counts: dict[Item, int] = {}
        self.followers: dict[Item, int] = {}  # different items of a kind behind a context
        self.seen: dict[str, float] = {}
        self.distinct: dict[str, float] = {}
        self.moments: dict[str, list[float]] = {}  # number, mean, sum of squares

    def count(self, items: Mapping[str, Item]) -> None:
        """Count the items of one event."""
        self.events += 1
        for kind, item in items.items():
            known = self.counts.get(item, 0)
            self.counts[item] = known + 1
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if not known:
                self.distinct[kind] = self.distinct.get(kind, 0) + 1
                if kind in CONTEXTUAL:
                    behind = kind, _context(kind, item)
                    self.followers[behind] = self.followers.get(behind, 0) + 1

    def measure(self, quantities: Mapping[str, float]) -> None:
        """Add the quantities of one event to the running moments."""
        for name, value in quantities.items():
            moment = self.moments.setdefault(name, [0.0, 0.0, 0.0])
            moment[0] += 1
            delta = value - moment[1]
            moment[1] += delta / moment[0]
            moment[2] += delta * (value - moment[1])


class MeasuredEvent(NamedTuple):
    """One measured event."""

    agent: ReferenceAgent | None  # None for our own denials
    vector: dict[str, float]
    items: dict[str, Item]
    quantities: dict[str, float]
    method: int
    token_reuse: bool
    late: bool
    levels: tuple[ReferenceScope | None, ...]
    values: list[TracedValue]
    task: str | None


class ReferenceFeatures:
    """Measures events, and learns from them.

    Args:
        scopes: shared baselines by scope key, from `fit`.
        values: what a history remembers of arguments, by scope key, from `fit_values`.
        sensitive: types of resources whose answers are.
        shared: how many of an agent's events these baselines count, by agent; none where it is left out.
    """

    def __init__(
        self,
        scopes: Mapping[Item, ReferenceScope] | None = None,
        shared: Mapping[Item, int] | None = None,
        values: Mapping[Item, RememberedValues] | None = None,
        sensitive: Collection[str] = (),
    ) -> None:
        self.scopes = scopes or {}
        self.values = values or {}
        self.sensitive = sensitive
        self.shared = shared or {}
        self.agents: dict[Item, ReferenceAgent] = {}

    def update(self, event: Event) -> dict[str, float]:
        """Features of an event that differ from 0; then learn from it."""
        observed = self.observe(event)
        self.learn(observed)
        return observed.vector

    def observe(self, event: Event) -> MeasuredEvent:
        """Measure an event against what was known before it."""
        ours = {"denied": OWN_DENIALS, "error": OWN_OUTAGES}.get(event["outcome"], set())
        if event.get("error") in ours or event["type"].startswith("signal."):
            return MeasuredEvent(None, {}, {}, {}, 0, False, False, (), [], None)
        at_ms, name = _at_ms(event), _agent(event)
        agent = self.agents.get(name)
        if agent is not None and event["outcome"] == "denied" and _note_token(agent, event):
            _number_refused(agent, event, at_ms)
            return MeasuredEvent(None, {}, {}, {}, 0, True, False, (), [], None)
        gap_ms = None
        if agent is None:
            agent = self.agents[name] = ReferenceAgent(at_ms, self.shared.get(name, 0))
        else:
            gap_ms = max(at_ms - agent.last_ms, 0)
        late, vouched = at_ms < agent.last_ms, not event["agent"].get("self_asserted")
        behind_ms = max(agent.vouched_ms - at_ms, 0) if vouched else 0
        late_ms = max(behind_ms - int(event.get("duration_ms") or 0), 0)
        now_ms = max(at_ms, agent.last_ms)
        _note_version(agent, event["agent"].get("version"), now_ms)
        reuse = _note_token(agent, event)
        session = _session(agent, event.get("session"), now_ms)
        uses = session.uses[event["action"]] = session.uses.get(event["action"], 0) + 1
        session.events += 1
        _advance(agent, event, (now_ms - agent.last_ms) / 1000, late_ms / 1000)
        items = _items(event, at_ms, session.previous, uses)
        quantities = _quantities(agent, event, None if behind_ms else gap_ms, session)
        doubted = vouched and session.doubt > 0
        ordered = not vouched or not _comes_out_of_order(agent, session, event, at_ms)
        if (doubted and agent.disorder > 0.1) or not ordered or late_ms > MOST_DISORDER_MS:
            items = {kind: item for kind, item in items.items() if kind not in ("transition", "from")}
        if late_ms > MOST_DISORDER_MS:
            quantities = {name: value for name, value in quantities.items() if name not in TIMED}
        levels = tuple(self.scopes.get(key) if key else None for key in _scope_keys(event))
        login = event.get("credential") or {}
        method = METHODS.get(login.get("method") or "", 0)
        own, part = (self.scopes.get(key) for key in _agent_keys(event))
        share = min(agent.shared / max(agent.events, 1), 1.0)
        if own is not None:
            share *= (part.events if part else 0) / own.events
        vector = _vector(agent, event, items, quantities, levels, share, session, method, late_ms / 1000)
        if vouched and agent.shared:
            vector["habits_of_others"] = session.habits.add(items, agent.counts, own, part, levels[2])
        values = self._trace(agent, event, session, now_ms, vector, vouched)
        if ordered and late_ms <= MOST_DISORDER_MS:
            session.previous = event["action"]
        session.last_ms = agent.last_ms = now_ms
        if vouched:
            agent.vouched_ms = max(at_ms, agent.vouched_ms)
        return MeasuredEvent(agent, vector, items, quantities, method, reuse, late, levels, values, event.get("task"))

    def _trace(
        self,
        agent: ReferenceAgent,
        event: Event,
        session: ReferenceSession,
        now_ms: int,
        vector: dict[str, float],
        vouched: bool,
    ) -> list[TracedValue]:
        """Values of an event that tells origins, whose feature is written; the session counts the call."""
        if not tells_origins(event):
            return []
        values, scopes = traced_values(event, session.calls, session.sensitive), _scope_keys(event)
        memory = event.get("task"), self.values, agent.counts
        vector["argument_origin"] = argument_origin(values, scopes, *memory, now_ms)
        if any(one.value is None for one in values):
            vector["argument_route"] = route_novelty(UNHASHED, values, scopes, *memory)
        if self.sensitive:
            vector["sensitive_route"] = route_novelty(SENSITIVE, values, scopes, *memory)
        if vouched:
            session.calls.append(bool(event.get("untrusted_result")))
            kind = (event.get("resource") or {}).get("type")
            session.sensitive.append(event["outcome"] == "success" and kind in self.sensitive)
        return values

    def learn(self, observed: MeasuredEvent) -> None:
        """Add a measured event to its agent's baseline."""
        agent = observed.agent
        if agent is None:
            return
        for kind, item in observed.items.items():
            known = agent.counts.get(item, 0)
            agent.counts[item] = known + 1
            agent.seen[kind] = agent.seen.get(kind, 0.0) + 1
            if not known:
                agent.distinct[kind] = agent.distinct.get(kind, 0.0) + 1
        for item in learned_values(observed.values, observed.task):
            agent.counts[item] = agent.counts.get(item, 0) + 1
        for name, value in observed.quantities.items():
            moment = agent.moments.setdefault(name, [0.0, 0.0, 0.0])
            moment[0] = min(moment[0] + 1, 500.0)
            delta = value - moment[1]
            moment[1] += delta / moment[0]
            moment[2] = max(moment[2] + (delta * (value - moment[1]) - moment[2]) / moment[0], 0.0)
        agent.method = max(agent.method, observed.method)
        agent.events += 1
        if observed.quantities.keys() >= set(DRIFTING):
            _update_slow_moments(agent, observed.quantities, (agent.last_ms - agent.first_ms) / 86_400_000)


def _update_slow_moments(agent: ReferenceAgent, quantities: Mapping[str, float], age: float) -> None:
    """Slow means and variances over the agent's active time."""
    elapsed = min(age - agent.age, 1 / 48)
    if elapsed <= 0:
        return
    days = agent.referred + elapsed
    share = elapsed / (days if days < 1 else min(max(days, 14), 90))
    for name, (mean, variance) in agent.reference.items():
        delta = quantities[name] - mean
        mean += share * delta
        spread = delta * (quantities[name] - mean)
        spread = min(spread, variance) if delta > 0 and days >= 1 else spread
        agent.reference[name] = (mean, max(variance + share * (spread - variance), 0.0))
    agent.referred, agent.age = min(days, 90.0), age


def fit(events: Iterable[Event]) -> dict[Item, ReferenceScope]:
    """Shared baselines of a history: every event counts in its fleet, tenant, peer group, task and agent."""
    features, scopes = ReferenceFeatures(), dict[Item, ReferenceScope]()
    for event in events:
        observed = features.observe(event)
        features.learn(observed)
        if observed.agent is None:
            continue
        for key in (*_scope_keys(event), *_agent_keys(event)):
            if key is not None:
                scope = scopes.setdefault(key, ReferenceScope())
                scope.count(observed.items)
                scope.measure(observed.quantities)
    return scopes


def fit_values(events: Iterable[Event], sensitive: Collection[str] = ()) -> dict[Item, RememberedValues]:
    """What a history remembers of the values of arguments, by scope."""
    features = ReferenceFeatures(sensitive=sensitive)
    told = [(_agent(event), _scope_keys(event), _at_ms(event), features.observe(event).values) for event in events]
    return remember_values(told)


def events_by_agent(events: Iterable[Event]) -> dict[Item, int]:
    """How many events of a history are each agent's."""
    return Counter(map(_agent, events))


def _at_ms(event: Event) -> int:
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1e6) // 1000


def _agent(event: Event) -> Item:
    agent = event["agent"]
    return event.get("tenant") or "", agent.get("issuer") or "", agent["id"]


def _scope_keys(event: Event) -> tuple[Item | None, ...]:
    """Keys of fleet, tenant, peer group and task."""
    tenant, role, task = event.get("tenant") or "", event["agent"].get("type") or "", event.get("task")
    return ("fleet",), ("tenant", tenant), ("peers", tenant, role), ("task", tenant, role, task) if task else None


def _agent_keys(event: Event) -> tuple[Item, Item]:
    """Keys of what an agent did, and of what it did in the peer group of the event."""
    name = _agent(event)
    return ("agent", *name), ("agent in group", *name, event["agent"].get("type") or "")


def _note_version(agent: ReferenceAgent, version: str | None, now_ms: int) -> None:
    """A new version halves what is known, at most once a day."""
    if not version or version == agent.version:
        return
    first, agent.version = agent.version is None, version
    if first or now_ms - agent.changed_ms < DAY_MS:
        return
    agent.changed_ms = now_ms
    agent.counts = {item: (count + 1) // 2 for item, count in agent.counts.items()}
    agent.seen = {kind: max(count / 2, min(count, 1.0)) for kind, count in agent.seen.items()}
    agent.distinct = {kind: max(count / 2, min(count, 1.0)) for kind, count in agent.distinct.items()}
    for moment in agent.moments.values():
        moment[0] = min(moment[0] / 2, 50.0)


def _note_token(agent: ReferenceAgent, event: Event) -> bool:
    """Whether the event uses one of the four tokens of the agent that were revoked last."""
    token = (event.get("credential") or {}).get("token_id")
    if not token:
        return False
    if event["type"] != "token.revoke":
        return token in agent.revoked
    if token not in agent.revoked:
        agent.revoked = [token, *agent.revoked][:4]
    return False


def _number_refused(agent: ReferenceAgent, event: Event, at_ms: int) -> None:
    """Count a call in its session that is no behavior, but that its sender has numbered."""
    if tells_origins(event) and event.get("session") and not event["agent"].get("self_asserted"):
        session = _session(agent, event["session"], max(at_ms, agent.last_ms))
        session.calls.append(False)
        session.sensitive.append(False)


def _comes_out_of_order(agent: ReferenceAgent, session: ReferenceSession, event: Event, at_ms: int) -> bool:
    """True if an event is older than one of its session, its duration apart; the agent's share of such ones moves."""
    if agent.vouched_ms - session.vouched_ms > MOST_SESSION_LAG_MS:
        session.vouched_ms = -math.inf
    late = session.vouched_ms - at_ms - int(event.get("duration_ms") or 0) > PARALLEL_MS
    if not event["type"].startswith(("token.", "client.")):
        session.vouched_ms = max(session.vouched_ms, at_ms)
        agent.disorder += (float(late) - agent.disorder) / 32
        session.doubt = 16 if late else max(session.doubt - 1, 0)
    return late


def _session(agent: ReferenceAgent, name: str | None, now_ms: int) -> ReferenceSession:
    """The session of that name; without one, activity without a pause of half an hour. Four are remembered."""
    at = next((i for i, session in enumerate(agent.sessions) if session.name == name), None)
    if at is not None and (name is not None or now_ms - agent.sessions[at].last_ms <= 1_800_000):
        return agent.sessions[at]
    if at is None and len(agent.sessions) < 4:
        agent.sessions.append(ReferenceSession(name, now_ms))
        return agent.sessions[-1]
    if at is None:
        at = min(range(4), key=lambda i: agent.sessions[i].last_ms)
    agent.sessions[at] = ReferenceSession(name, now_ms)
    return agent.sessions[at]


def _advance(agent: ReferenceAgent, event: Event, elapsed_s: float, late_s: float) -> None:
    """Decay the recent counts, and add what is left of the event, which is late by so much."""
    count = min(float(event.get("count") or 1), 1e9)
    for k, half_life in enumerate(HALF_LIVES_S):
        agent.pace[k] = agent.pace[k] * 0.5 ** (elapsed_s / half_life) + count * 0.5 ** (late_s / half_life)
    decayed = agent.decayed
    for name in decayed:
        decayed[name] *= 0.5 ** (elapsed_s / HOUR_S)
    left = 0.5 ** (late_s / HOUR_S)
    if event["outcome"] == "error":
        decayed["failures"] += count * left
    elif event["outcome"] == "denied":
        decayed["denials"] += count * left
    decayed["volume"] += min((event.get("bytes_in") or 0.0) + (event.get("bytes_out") or 0.0), 1e18) * left


def _names(event: Event) -> dict[str, str | None]:
    """What the event names, by kind."""
    resource, client = event.get("resource") or {}, event.get("client") or {}
    login, scopes = event.get("credential") or {}, event.get("scopes") or {}
    identity, role = resource.get("id"), resource.get("type")
    asn = client.get("asn")
    known_key = login.get("method") is not None or login.get("thumbprint") is not None
    return {
        "action": event["action"],
        "resource": identity if role is None else f"{role}:{identity or ''}",
        "target": _target(resource),
        "audience": resource.get("audience"),
        "peer": event.get("peer"),
        "principal": (event.get("principal") or {}).get("id"),
        "network": _network(client.get("ip")) if asn is None else f"AS{asn}",
        "credential": f"{login.get('method')}:{login.get('thumbprint')}" if known_key else None,
        "scope": " ".join(sorted(set(scopes.get("requested") or scopes.get("granted") or []))),
        "chain": "\x1f".join(event.get("delegation") or []),
    }


def _target(resource: Mapping[str, Any]) -> str | None:
    """A URL (with `www.` even without scheme) is its host, a mail address in small letters, other names themselves."""
    name: str | None = resource.get("target") or resource.get("id")
    if not name:
        return None
    if "://" in name or name.lower().startswith("www."):
        return urlsplit(name if "://" in name else f"//{name}").hostname or name
    user, _, domain = name.rpartition("@")
    return name.lower() if user and "." in domain and " " not in name else name


def _network(ip: str | None) -> str | None:
    if not ip:
        return None
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _items(event: Event, at_ms: int, previous: str | None, uses: int) -> dict[str, Item]:
    """What is counted of an event, by kind."""
    names, action = _names(event), event["action"]
    items: dict[str, Item] = {kind: (kind, name) for kind, name in names.items() if name}
    items["effect"] = ("effect", event.get("effect") or "unknown")
    items["hour"] = ("hour", _hour(at_ms))
    items["transition"] = ("transition", previous, action)
    items["from"] = ("from", previous)
    if names["target"]:
        items["action_target"] = ("action_target", action, names["target"])
    items["repeat"] = ("repeat", action, uses if uses <= 4 else min(4 + int(2 * math.log2(uses / 4)), 15))
    provenance = (event.get("resource") or {}).get("provenance")
    if provenance is not None:
        items["provenance"] = ("provenance", action, provenance)
    items["outcome"] = ("outcome", action, event["outcome"])
    for kind, size in (("request_size", event.get("bytes_in")), ("answer_size", event.get("bytes_out"))):
        if size is not None:
            items[kind] = (kind, action, int(3 * math.log2(1 + min(size, 1e18))))
    return items


def _hour(at_ms: int) -> tuple[bool, int]:
    """Weekend or not, and the part of the day of three hours."""
    days, in_day = divmod(at_ms, DAY_MS)
    return (days + 3) % 7 >= 5, in_day // 10_800_000


def _context(kind: str, item: Item) -> Item:
    """What an item is conditional on."""
    if kind == "transition":
        return ("from", item[1])
    return ("repeat", item[1], 1) if kind == "repeat" else ("action", item[1])


def _quantities(agent: ReferenceAgent, event: Event, gap_ms: int | None, session: ReferenceSession) -> dict[str, float]:
    """What is measured of an event, as logarithms."""
    scopes, login, chain = event.get("scopes"), event.get("credential") or {}, event.get("delegation")
    found: dict[str, float | None] = {
        "pace_1m": agent.pace[0],
        "pace_15m": agent.pace[1],
        "pace_4h": agent.pace[2],
        "gap": None if gap_ms is None else gap_ms / 1000,
        "bytes_in": event.get("bytes_in"),
        "bytes_out": event.get("bytes_out"),
        "duration": event.get("duration_ms"),
        "session": session.events,
        "breadth": None if scopes is None else len(set(scopes.get("requested") or scopes.get("granted") or [])),
        "depth": len(chain) if chain else None,
        "lifetime": login.get("token_lifetime_s"),
        **agent.decayed,
    }
    return {name: math.log1p(value) for name, value in found.items() if value is not None}


def _vector(
    agent: ReferenceAgent,
    event: Event,
    items: Mapping[str, Item],
    quantities: Mapping[str, float],
    levels: Sequence[ReferenceScope | None],
    share: float,
    session: ReferenceSession,
    method: int,
    late_s: float,
) -> dict[str, float]:
    """The features that are not 0, by name."""
    out: dict[str, float] = {}
    shift, fresh = 0.0, 0
    for kind, item in items.items():
        if kind == "from":
            continue
        p, own, peers, known = _probability(agent, kind, item, levels, share)
        if not known and agent.seen.get(kind) and kind in NAMING:
            fresh += 1
        out[f"{kind}_surprise"] = _bits(p)
        if kind == "action":
            out["action_rarity_peers"] = _bits(peers)
        if kind in ("action", "resource", "network") and peers <= 1.0:
            shift += max(_bits(own) - _bits(peers), -4.0)
    out["identity_shift"] = min(max(shift, 0.0), 64.0)
    for name, value in quantities.items():
        mean, sd, weight = _shrunk_moments(agent, levels, name)
        out[FEATURE_OF_QUANTITY[name]] = min(max((value - mean) / sd, 0.0), 50.0) if weight >= 3 else 0.0
    _compose(out, agent, event, quantities, session, method)
    agent.decayed["novelty"] += fresh * 0.5 ** (late_s / HOUR_S)
    return out


def _compose(
    out: dict[str, float],
    agent: ReferenceAgent,
    event: Event,
    quantities: Mapping[str, float],
    session: ReferenceSession,
    method: int,
) -> None:
    """Features made of others."""
    resource, scopes = event.get("resource") or {}, event.get("scopes") or {}
    target, order = out.get("target_surprise", 0.0), out.get("action_target_surprise", 0.0)
    transition = out.get("transition_surprise", 0.0)
    strongest = max(out["action_surprise"], target, order, transition)
    out["write_surprise"] = min(EFFECT_WEIGHT[event.get("effect") or "unknown"] * strongest, 64.0)
    side = resource.get("external")
    out["external_target"] = (0.5 if side is None else float(side)) * target
    gathered = transition + max(target, order) + out["repeat_surprise"]
    gathered += 0.5 * out["outcome_surprise"] + out.get("provenance_surprise", 0.0)
    session.strange = 0.8 * session.strange + 0.2 * gathered
    out["session_strangeness"] = min(session.strange, 64.0)
    wanted = set(scopes.get("requested") or [])
    if wanted and scopes.get("granted") is not None:
        out["scope_gap"] = len(wanted - set(scopes["granted"])) / len(wanted)
    capabilities = event["agent"].get("capabilities")
    outside = capabilities is not None and event["type"] in WORK_HALF_LIVES and event["action"] not in capabilities
    out["outside_capabilities"] = float(outside)
    out["method_downgrade"] = float(max(agent.method - method, 0)) if method else 0.0
    if agent.events >= 200 and agent.referred >= 1:
        for name, (mean, variance) in agent.reference.items():
            z = min((quantities.get(name, -1.0) - mean) / max(math.sqrt(1.42 * variance), 0.15), 50.0)
            out["drift"] = max(out.get("drift", 0.0), z - 3)


def _bits(probability: float) -> float:
    return min(max(0.0, -math.log2(max(probability, 5.5e-20))), 64.0)


LevelCounts = tuple[float, float, float]  # of an item: its count, that of all of its kind, how many different ones


def _probability(
    agent: ReferenceAgent, kind: str, item: Item, levels: Sequence[ReferenceScope | None], part: float
) -> tuple[float, float, float, float]:
    """Over all levels, own history over the peers', the peers' alone; and how often the agent had the item.

    *part* is the share of the agent's own counts that its peer group counts, too.
    """
    fleet, tenant, group, task = (_level_counts(scope, kind, item) for scope in levels)
    mine = _own_counts(agent, kind, item)
    beyond_tenant, beyond_group = _exclude_level(fleet, tenant), _exclude_level(tenant, group)
    others = _witten_bell(1.0, beyond_tenant)
    if beyond_tenant[0] <= 0 and beyond_group[0] <= 0 and beyond_group[1]:
        others = min(others, _witten_bell(1.0, beyond_group))  # new to both is one novelty
    else:
        others = _witten_bell(others, beyond_group)
    others = _witten_bell(others, _exclude_level(group, (part * mine[0], part * mine[1], part * mine[2])))
    own = _witten_bell(others, mine)
    peers = 2.0 if group[1] - part * mine[1] < 10.0 else others  # above 1: nobody to compare with
    return own if kind in AGENTS_OWN else _witten_bell(own, task), own, peers, mine[0]


def _level_counts(scope: ReferenceScope | None, kind: str, item: Item) -> LevelCounts:
    """What a scope has counted; behind its context where the item has one.

    If an agent changes type in a session, its new group may know repetitions of an action without their beginning.
    """
    if scope is None:
        return 0.0, 0.0, 0.0
    count = scope.counts.get(item, 0)
    if kind in CONTEXTUAL:
        context = _context(kind, item)
        total = scope.counts.get(context, 0)
        return (count, total, scope.followers.get((kind, context), 0)) if total else (0.0, 0.0, 0.0)
    return count, scope.seen.get(kind, 0), scope.distinct.get(kind, 0)


def _own_counts(agent: ReferenceAgent, kind: str, item: Item) -> LevelCounts:
    """The same of an agent, which does not count the different items of every context: it has its average of them."""
    total, distinct = agent.seen.get(kind, 0.0), agent.distinct.get(kind, 0.0)
    if kind in CONTEXTUAL:
        occurrences = agent.counts.get(_context(kind, item), 0)
        total, distinct = occurrences, (occurrences * distinct / total if total else 0.0)
    return min(agent.counts.get(item, 0), total), total, distinct


def _exclude_level(wide: LevelCounts, narrow: LevelCounts) -> LevelCounts:
    """What a level knows beyond one within it. Different items may be in both: at least the average share stays."""
    count, total, distinct = (max(w - n, 0.0) for w, n in zip(wide, narrow, strict=True))
    if not total:
        return 0.0, 0.0, 0.0
    return count, total, max(distinct, wide[2] * total / wide[1])


def _witten_bell(behind: float, known: LevelCounts) -> float:
    """Witten-Bell: what the level has counted, and for the rest what the level behind it says.

    Halving rounds counts up, but not totals; and an octave of repetitions may be counted more often than its beginning.
    """
    count, total, distinct = known
    return (min(count, total) + (distinct + 1) * behind) / (total + distinct + 1)


def _shrunk_moments(
    agent: ReferenceAgent, levels: Sequence[ReferenceScope | None], name: str
) -> tuple[float, float, float]:
    """Mean, standard deviation and weight: the agent's own values shrunk to the nearest scope that has any."""
    mean, variance, weight = 0.0, 1.0, 0.0
    for scope in (levels[3], levels[2], levels[1], levels[0]):
        moment = scope.moments.get(name) if scope is not None else None
        if moment is not None and moment[0] >= 5:
            mean, variance, weight = moment[1], moment[2] / moment[0], 8.0
            break
    own = agent.moments.get(name)
    if own is not None and own[0] > 0:
        number, own_mean, own_variance = own
        if weight:
            share = number / (number + weight)
            between = share * (1 - share) * (own_mean - mean) ** 2
            variance = share * own_variance + (1 - share) * variance + between
            mean = share * own_mean + (1 - share) * mean
        else:
            share = number / (number + 2)
            mean, variance = own_mean, share * own_variance + (1 - share)
        weight += number
    return mean, math.sqrt(variance + 0.15**2), weight
