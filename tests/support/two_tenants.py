"""A store with everything that one tenant can have, twice; and requests to every route, made of its own description.

What belongs to a tenant carries two marks. `mark(tenant)` is part of every id and name; an answer may repeat it where
the request did. `secret(tenant)` is in every text that a request can not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.records.agents import AgentEdge
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.records.feedback import Feedback, FeedbackPreview, FeedbackStep, PartitionRule
from trustwatch.scoring.records.models import PeerGroupDay
from trustwatch.scoring.records.security_events import POLL_METHOD, EventStream, SecurityEvent
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_store import SqlStore

from .console_records import AS, NOW_MS, decision_of, row_of

ACME, GLOBEX = "acme", "globex"
TENANTS = (ACME, GLOBEX)
LOOK_UPS = (
    *("decision_id", "intervention_id", "feedback_id", "preview_id", "erasure_id", "letter_id", "stream_id", "case_id"),
    "view_id",
)
"""Parameters of paths that name something of one tenant, whoever asks."""


def mark(tenant: str) -> str:
    """Part of every id and name of a tenant."""
    return f"{tenant}-only"


def secret(tenant: str) -> str:
    """Part of every text of a tenant that no request holds."""
    return f"{tenant}-secret"


def ids_of(tenant: str) -> dict[str, str]:
    """Values of parameters of paths that mean something of *tenant*. A parameter without one fails the test."""
    own = mark(tenant)
    return {
        "agent_id": f"agent-{own}",
        "principal_id": f"ann-{own}",
        "decision_id": f"decision-{own}",
        "intervention_id": f"approval-{own}",
        "feedback_id": f"feedback-{own}",
        "preview_id": f"preview-{own}",
        "erasure_id": f"erasure-{own}",
        "letter_id": f"letter-{own}",
        "stream_id": f"stream-{own}",
        "case_id": f"case-decision-{own}",
        "issuer_path": "nobody",
        "target": "kc",
        "version": "m1",
        "path": "console.css",
        "form": "json",
        "action": "acknowledge",
    }


def fill_store(store: SqlStore, senders: Mapping[str, str]) -> None:
    """Write everything that a tenant can have, of both tenants.

    Args:
        store: of a service, empty.
        senders: name of a caller by its tenant.
    """
    start = store.partitions.claim(0)
    parts = [_commit_of(tenant, senders[tenant]) for tenant in TENANTS]
    together = {name: [row for part in parts for row in part[name]] for name in parts[0]}
    store.commit(Commit(start, Position(0, start.epoch, 10), **together))
    store.outbox.route([DeliveryRoute("soc", "alert", frozenset(range(6)), 0)], NOW_MS)
    for tenant in TENANTS:
        _add_records(store, tenant)
        _add_stream(store, tenant, senders[tenant])


def _commit_of(tenant: str, sender: str) -> dict[str, list[Any]]:
    own, hidden = mark(tenant), secret(tenant)
    reason = RiskReason("first_seen_resource", "resource_rarity", hidden, "42", 0.4, f"first use of {hidden}")
    names = (f"agent-{own}", f"peer-{own}")
    rows = [row_of(name, tenant, 4, agent_type=f"type-{own}", counterfactual=hidden) for name in names]
    decision = decision_of(rows[0], 1, decision_id=f"decision-{own}", reasons=(reason,), counterfactual=hidden)
    rule = _feedback_of(tenant).rule
    payload = _alert_of(decision, hidden)
    return {
        "agents": rows,
        "decisions": [decision],
        "outbox": [OutboxRow(f"alert-decision-{own}", "alert", "", payload, NOW_MS, rows[0].name.key, "g", 4, tenant)],
        "dead_letters": [DeadLetter(f"letter-{own}", NOW_MS, sender, hidden, "$", hidden.encode(), 0, 1)],
        "edges": [
            AgentEdge(tenant, AS, "delegated", names[0], names[1], NOW_MS, NOW_MS, 0.5, NOW_MS),
            AgentEdge(tenant, AS, "acts_for", names[0], f"ann-{own}", NOW_MS, NOW_MS, 0.5, NOW_MS),
        ],
        "feedback_rules": [PartitionRule(rule, 0, 1, 0, -1, 1, NOW_MS)],
    }


def _alert_of(decision: Decision, hidden: str) -> bytes:
    """An alert that opens a case: a rise with a new target."""
    event = msgspec.json.decode(build_alert_row(decision, {}, "https://trust.example").payload)
    shown = {"kind": "target", "value": hidden, "status": "new", "at": "2025-11-24T16:00:00Z"}
    event["data"] |= {"indicators": [shown]}
    return msgspec.json.encode(event)


def _feedback_of(tenant: str) -> Feedback:
    own, hidden = mark(tenant), secret(tenant)
    name = row_of(f"agent-{own}", tenant).name
    scope = ("agent", ("resource_rarity",), hidden, hidden, "somebody", NOW_MS, NOW_MS + 10**9, "", False)
    window = ("e", NOW_MS, 4, NOW_MS, NOW_MS, 0.5, "", 0, "", NOW_MS)
    return Feedback(
        f"feedback-{own}", "false_positive", "active", f"decision-{own}", name, f"type-{own}", *scope, *window
    )


def _add_records(store: SqlStore, tenant: str) -> None:
    own, hidden = mark(tenant), secret(tenant)
    name = row_of(f"agent-{own}", tenant).name
    later = NOW_MS + 10**9
    pin = Intervention(f"pin-{own}", "pin", "active", name, 4, (), hidden, "x", NOW_MS, "", 0, hidden, later, NOW_MS)
    asked = msgspec.structs.replace(pin, intervention_id=f"approval-{own}", kind="approval", status="pending")
    for intervention in (pin, asked):
        store.interventions.add(intervention)
    state = msgspec.json.encode({"hidden": hidden})
    store.actuations.request(Actuation("kc", name, 1, state, b"", "wanted", 0, NOW_MS, 0, NOW_MS, hidden))
    store.feedback.add(_feedback_of(tenant), FeedbackStep(f"feedback-{own}", "adopted", NOW_MS, "somebody", hidden))
    found = msgspec.json.encode({"unseen": hidden})
    preview = (f"preview-{own}", f"decision-{own}", tenant, "somebody", "draft", "failed", 0.5, NOW_MS, NOW_MS)
    store.feedback.save_preview(FeedbackPreview(*preview, hidden, found))
    whom = (tenant, AS, f"gone-{own}", "00", "00")
    store.erasures.add(Erasure(f"erasure-{own}", "agent", "done", *whom, hidden, "somebody", NOW_MS))
    day = PeerGroupDay("m1", NOW_MS // 86_400_000, tenant, f"type-{own}", 5, 1, (1, 1, 1), (), {"scores": {}})
    store.models.save_days([day])


def _add_stream(store: SqlStore, tenant: str, owner: str) -> None:
    """A stream with a SET that waits, and one subject."""
    own, hidden = mark(tenant), secret(tenant)
    asked = ("urn:event",), POLL_METHOD, "", "", hidden
    stream = EventStream(f"stream-{own}", owner, own, NOW_MS, NOW_MS, *asked)
    store.security_events.add_stream(stream, 10)
    claims = msgspec.json.encode({"iss": "x", "jti": own, "aud": own, "hidden": hidden})
    store.security_events.add_verification(SecurityEvent(stream.stream_id, own, claims, NOW_MS), 100)


class Route(NamedTuple):
    """A route of an application: a path may hold parameters in braces."""

    method: str
    path: str


class Call(NamedTuple):
    """A request to a route, with the ids of one tenant in it."""

    method: str
    path: str
    body: dict[str, Any] | None


def call_of(route: Route, tenant: str, bodies: Mapping[str, dict[str, Any]]) -> Call:
    """The request to *route* that is about things of *tenant*. A route that nobody told us how to ask fails."""
    values = ids_of(tenant)
    for parameter in re.findall(r"{(\w+)", route.path):
        assert parameter in values, f"{route.path}: say in `ids_of` of tests/support/two_tenants.py what {parameter} is"
    path = re.sub(r"{(\w+)(:\w+)?}", lambda found: values[found[1]], route.path)
    body = None
    if route.method not in ("GET", "DELETE"):
        assert route.path in bodies, f"{route.path}: say with what body it is asked, so that it reads the store"
        body = {
            name: value.format(**values, tenant=tenant) if isinstance(value, str) else value
            for name, value in bodies[route.path].items()
        }
    return Call(route.method, path, body)


def names_one_thing(route: Route) -> bool:
    """True if a path names something of one tenant alone: to others it is as if it did not exist."""
    return any(f"{{{name}" in route.path for name in LOOK_UPS)


def tenants_named(document: Any) -> Iterator[str]:
    """Values of all members `tenant` in a JSON document."""
    if isinstance(document, dict):
        if isinstance(document.get("tenant"), str):
            yield document["tenant"]
        for value in document.values():
            yield from tenants_named(value)
    elif isinstance(document, list):
        for value in document:
            yield from tenants_named(value)
