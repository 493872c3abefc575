"""What the feature tests share: events by hand, random histories, and the plain-Python features as oracle."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from trustwatch.ingest.columns import AGENT, ColumnEncoder, EventColumns
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.features.baseline import NO_TYPES, empty_baseline, fit_baseline
from trustwatch.ingest.features.evidence_beside_features import unordered_sessions
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.features.layout import MOST_UNORDERED, REGION_SIZE, Array, Baseline

SALT = b"feature tests"
MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


def event(after_s: float = 0.0, agent: str = "a1", **members: Any) -> dict[str, Any]:
    """A native event *after_s* seconds after Monday 09:00 UTC. `version=`, `role=`, `capabilities=` go to the agent."""
    who: dict[str, Any] = {"id": agent, "type": members.pop("role", "Clerk")}
    for name in ("version", "capabilities", "self_asserted", "issuer"):
        if name in members:
            who[name] = members.pop(name)
    moment = MONDAY + timedelta(seconds=after_s)
    base = {"time": moment.isoformat(), "tenant": "acme", "agent": who, "type": "tool.call", "action": "read_ticket"}
    return {**base, "outcome": "success", **members}


def columns(events: Iterable[dict[str, Any]], salt: bytes = SALT, **options: Any) -> EventColumns:
    """Columns of events given as dicts; they pass through JSON and the decoder as live events do."""
    decoded = [decode_event(json.dumps(event).encode()) for event in events]
    return ColumnEncoder(salt, **options).encode(decoded)


def fitted(events: Iterable[dict[str, Any]] | EventColumns, sensitive_types: Array = NO_TYPES) -> Baseline:
    """Baseline that counts all events of a history."""
    batch = events if isinstance(events, EventColumns) else columns(events)
    _, found = FeatureBuilder(empty_baseline(sensitive_types), 1000).observe_and_learn(batch)
    return fit_baseline(batch, found, np.ones(len(batch), np.bool_), sensitive_types)


class SingleEventBuilder:
    """One feature builder fed event by event."""

    def __init__(self, baseline: Baseline | None = None, capacity: int = 16) -> None:
        self.builder = FeatureBuilder(baseline or empty_baseline(), capacity)

    def feed(self, *events: dict[str, Any], learn: bool = True) -> list[dict[str, float]]:
        """Feature vectors of the events by name."""
        vectors, self.found = self.builder.observe_and_learn(columns(events), learn)
        return [dict(zip(FEATURE_NAMES, row, strict=True)) for row in vectors.tolist()]

    def last(self, *events: dict[str, Any]) -> dict[str, float]:
        """Vector of the last of the events."""
        return self.feed(*events)[-1]

    def state(self, name: str) -> Array:
        """Array *name* of the state of the agent `a1`: its row."""
        slot = self.builder.slots.find(columns([event()]).names[:, AGENT])[0]
        found: Array = getattr(self.builder.state, name)[slot]
        return found


def order_doubted_agents(builder: FeatureBuilder) -> int:
    """Number of agents in memory some of whose sessions have no evidence of order."""
    state = builder.state
    rows = np.flatnonzero(state.disorder[:, 0] > MOST_UNORDERED)
    unordered = unordered_sessions(state.disorder[rows], state.session_last[rows], state.session_doubt[rows])
    return int(((unordered > 0) & (builder.slots.keys[rows] != 0)).sum())


def history(seed: int, length: int, agents: int = 3, days: float = 2.0) -> list[dict[str, Any]]:
    """A random history with few names, so that no table overflows, but with everything an event may hold or lack."""
    rng = random.Random(seed)
    events = []
    for _ in range(length):
        who = rng.randrange(agents)
        at_s = rng.randrange(max(1, int(days))) * 86_400 + rng.random() * min(days, 0.3) * 86_400
        made = event(at_s, f"agent-{who}", **_members(rng, random.Random(seed + who)))
        made["agent"] |= {"type": f"Role{who % 2}", "version": rng.choice(["1", "2"]) if rng.random() < 0.05 else "1"}
        if rng.random() < 0.3:
            made["agent"]["capabilities"] = ["read", "write"]
        events.append(made)
    ordered = sorted(events, key=lambda made: made["time"])
    for _ in range(length // 20):  # some arrive late
        ordered.insert(rng.randrange(length), ordered.pop(rng.randrange(length)))
    return ordered


def change_types(events: Iterable[dict[str, Any]], seed: int) -> None:
    """Let agents change to another type, to none and back again."""
    rng, types = random.Random(seed), dict[str, str | None]()
    for made in events:
        agent = made["agent"]
        if agent["id"] not in types or rng.random() < 0.02:
            types[agent["id"]] = rng.choice(["Role0", "Role1", None])
        agent["type"] = types[agent["id"]]


def _members(rng: random.Random, habit: random.Random) -> dict[str, Any]:
    """Members of one event; *habit* draws which of the optional ones its agent has at all."""
    members: dict[str, Any] = {
        "action": rng.choice(["read", "read", "read", "write"]),
        "outcome": rng.choice(["success"] * 8 + ["denied", "error"]),
        "type": rng.choice(["tool.call"] * 9 + ["token.revoke"]),
    }
    optional: dict[str, Any] = {
        "effect": rng.choice(["read", "write"]),
        "task": "t1",
        "session": rng.choice(["s1", "s2", "s3"]),
        "principal": {"id": rng.choice("pq")},
        "delegation": ["agent-0"] if rng.random() < 0.5 else ["agent-0", "b"],
        "peer": rng.choice("xy"),
        "scopes": {"requested": rng.choice([["r"], ["w", "r"], []]), "granted": rng.choice([["r"], None])},
        "bytes_in": rng.choice([0, 250, 900]),
        "bytes_out": rng.choice([12.5, 1e6]),
        "duration_ms": rng.expovariate(1e-2),
        "count": rng.randrange(1, 4),
        "client": {"ip": rng.choice(["10.1.2.3", "10.1.2.9", "2001:db8::1"])},
        "credential": {"method": rng.choice(["none", "private_key_jwt"]), "token_id": rng.choice("klmnop")},
        "error": rng.choice(["ext_authz_denied", "ext_authz_error"]) if rng.random() < 0.1 else "boom",
        "resource": _resource(rng),
    }
    used = {name for name in optional if habit.random() < 0.6}
    return members | {name: value for name, value in optional.items() if name in used and rng.random() < 0.8}


def trace_arguments(events: Iterable[dict[str, Any]], seed: int, unhashed: float = 0.0) -> None:
    """Let most of the events tell where their arguments came from; none of them is our own denial then.

    Args:
        unhashed: share of the arguments that have no hash.
    """
    rng, hashes = random.Random(seed), [f"{number:016x}" for number in range(1, 31)]
    for made in events:
        made.pop("error", None)
        if rng.random() < 0.8:
            made["untrusted_result"] = rng.random() < 0.5
            made["arguments"] = [_argument(rng, rng.choice(hashes)) for _ in range(rng.choice([0, 1, 1, 2, 10]))]
            for argument in made["arguments"]:
                argument["name"] = rng.choice(["to", "to", "body"])
                if rng.random() < unhashed:
                    del argument["hash"]


def _argument(rng: random.Random, value: str) -> dict[str, Any]:
    told: dict[str, Any] = {"name": "to", "origin": rng.choice(["prompt", "tool", "tool"]), "hash": value}
    return (
        told
        if told["origin"] == "prompt"
        else {**told, "from": rng.randrange(12), "from_action": rng.choice(["read", "list"])}
    )


def _resource(rng: random.Random) -> dict[str, Any]:
    resource: dict[str, Any] = {"id": rng.choice(["acct-1", "www.A.example/y", "https://A.example/x", "Eve@B.example"])}
    if rng.random() < 0.5:
        resource |= {"type": "thing", "external": rng.random() < 0.5, "audience": "aud"}
    if rng.random() < 0.5:
        resource["provenance"] = rng.choice(["granted", "derived"])
    return resource


def overflows(builder: FeatureBuilder) -> bool:
    """Whether a region of some agent's table is full, from where on its frequencies may be estimates."""
    regions = builder.state.table.reshape(builder.slots.capacity, -1, REGION_SIZE)
    return bool((regions != 0).all(axis=2).any())
