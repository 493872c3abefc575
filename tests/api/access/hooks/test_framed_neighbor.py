"""A source that is bound to some agents draws no other agent into the descendants of a critical one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store.blast_radius import CriticalDescendants

AS = "https://as.example"
CHAIN = ["team1-a", "neighbor", "team1-bad"]


@pytest.fixture
def desk(make_desk: Any) -> Any:
    bound = {"tenants": ("acme",), "issuers": (AS,), "sources": ("urn:x",)}
    callers = (
        CallerSettings(name="team1", client_id="team1", agents=("team1-*",), **bound),
        CallerSettings(name="fleet", client_id="fleet", agents=("*",), **bound),
    )
    book = PolicyBook(modes={"acme": "enforce"}, descendants=RiskLevel.CRITICAL)
    return make_desk("authzen", book=book, callers=callers)


def send(desk: Any, client: str, *events: dict[str, Any]) -> None:
    time = datetime.fromtimestamp(desk.now, UTC).isoformat()
    right = {"time": time, "type": "tool.call", "action": "read", "outcome": "success", "agent": {"id": "team1-a"}}
    said = [{**right, "id": f"{client}-{number}", **event} for number, event in enumerate(events)]
    content = "\n".join(map(json.dumps, said)).encode()
    headers = {**desk.auth(client), "content_type": "application/x-ndjson"}
    answer = desk.send("POST", "/v1/events", content, **headers)
    assert answer.status_code == 202 and answer.json()["accepted"] == len(events), answer.text


def evaluate(desk: Any, client: str, agent: str, **context: Any) -> bool:
    body = {
        "subject": {"type": "agent", "id": agent},
        "action": {"name": "read"},
        "resource": {"type": "tool", "id": "files"},
        "context": context,
    }
    return bool(desk.evaluate(body, several=False, client=client).json()["decision"])


def descendants(desk: Any) -> set[str]:
    """Descendants of the critical `team1-bad` once the pipeline has applied the log; verdicts know them."""
    events = [decode_event(json.dumps(event).encode()) for event in desk.events()]
    collector = EdgeCollector()
    collector.collect(ColumnEncoder(b"salt").encode(events), np.zeros(len(events)))
    place = desk.store.partitions.claim(0)
    desk.store.commit(Commit(place, Position(0, place.epoch, 1), [], [], [], [], edges=collector.drain()))
    critical = {("acme", AS, "team1-bad"): RiskLevel.CRITICAL}
    finder = CriticalDescendants(desk.store, lambda: int(desk.now * 1000))
    found, _ = finder.find(critical)
    desk.guard.policy_evaluator.critical_ancestors = found
    return {agent for _, _, agent in found}


def test_by_the_delegation_of_an_event(desk: Any) -> None:
    """In the middle of a chain, in one that leaves out the current actor, and among many events: never the neighbor."""
    chains = [CHAIN, ["neighbor", "team1-bad"]]
    send(desk, "team1", {"id": "alone", "delegation": CHAIN})
    send(desk, "team1", *({"delegation": chain, "peer": "neighbor"} for chain in chains * 4))

    assert descendants(desk) == {"team1-a"}
    assert evaluate(desk, "as", "neighbor")
    assert not evaluate(desk, "as", "team1-a")


def test_by_the_actors_of_a_question(desk: Any) -> None:
    """With `trust.decide` alone, in `context.act` and in the properties of the subject: it is refused as a whole."""
    act = {"sub": "team1-a", "act": {"sub": "neighbor", "act": {"sub": "team1-bad"}}}
    subject = {"type": "agent", "id": "team1-a"}
    body = {"subject": subject, "action": {"name": "read"}, "resource": {"type": "tool", "id": "files"}}
    asked = [{**body, "context": {"act": act}}, {**body, "subject": {**subject, "properties": {"act": act}}}]

    assert [desk.evaluate(one, several=False, client="team1").status_code for one in asked] == [403, 403]
    assert descendants(desk) == set()
    assert evaluate(desk, "as", "neighbor")


def test_a_source_of_all_agents_counts_as_before(desk: Any) -> None:
    send(desk, "fleet", {"delegation": ["team1-a", "one", "team1-bad"]})
    evaluate(desk, "fleet", "team1-b", act={"sub": "two", "act": {"sub": "team1-bad"}})

    assert descendants(desk) == {"one", "team1-a", "two"}
    assert not evaluate(desk, "as", "two")
