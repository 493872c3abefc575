"""A person who works on cases over HTTP, and rises to work on."""

from __future__ import annotations

from typing import Any

import msgspec

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.outbox_store import DeliveryRoute

from .feedback_person import AS, NOW_MS, decision

PAGER = [DeliveryRoute("pager", "alert", frozenset(range(5)), 900_000)]


def agent(agent_id: str, tenant: str = "acme") -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, AS, agent_id), tenant, AS, agent_id)


def rise(number: int, name: AgentName, level: int = 3, before: int = 1, **new: str) -> Decision:
    """A change of level; *new* are indicators."""
    shown = [
        {"kind": kind, "value": value, "status": "new", "at": "2025-11-24T16:00:00Z"} for kind, value in new.items()
    ]
    values = {"agent": name, "level": level, "previous_level": before, "decided_ms": NOW_MS + number * 1000}
    return msgspec.structs.replace(decision(number, **values), evidence={"indicators": shown})


class Triage:
    """Somebody who works on the cases of a service."""

    def __init__(self, site: Any) -> None:
        self.site = site

    def raise_agents(self, *decisions: Decision) -> None:
        store = self.site.store
        at = store.partitions.position(0)
        at = at if at.epoch else store.partitions.claim(0)
        rows = [build_alert_row(one, {}, "https://trust.example") for one in decisions]
        after = Position(0, at.epoch, at.offset + 1)
        store.commit(Commit(at, after, agents=[], decisions=list(decisions), outbox=rows, dead_letters=[]))
        self.route()

    def route(self) -> None:
        """What waits in the outbox becomes deliveries."""
        while self.site.store.outbox.route(PAGER, NOW_MS):
            pass

    def get(self, path: str, **params: Any) -> Any:
        """Body of a successful GET below /v1/cases."""
        answer = self.site.get(f"/v1/cases{path}", **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def act(self, case: str, what: str, status: int = 200, client: str = "gateway", **body: Any) -> Any:
        url = f"/v1/cases/{case}/{what}"
        answer = self.site.client.post(url, json=body, headers=self.site.auth(client))
        assert answer.status_code == status, answer.text
        return answer.json()

    def told(self) -> list[dict[str, Any]]:
        """What alert targets hear of what people did, oldest first."""
        self.route()
        payloads = [msgspec.json.decode(one.payload) for one in self.site.store.outbox.page().items]
        return [one["data"] for one in reversed(payloads) if "case-changed" in one["type"]]

    def audited(self) -> list[str]:
        self.site.wait(self.site.guard.audit_sink.flush(5.0))
        return [event["action"] for event in self.site.events() if event["action"].startswith("case.")]
