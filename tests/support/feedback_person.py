"""A person who gives feedback over HTTP, and a decision to speak about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from trustwatch.api.feedback.preview_runner import PreviewFailed
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.learning.feedback_preview import PreviewJob
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.records.feedback import AdoptFeedbackRule, RevokeFeedbackRule

from . import stored_rows

NOW_MS = stored_rows.NOW
DAY_S = 86_400
AS = "https://as.example"
FOUND = {
    "window": {"from": "2025-11-20T00:00:00.000Z", "to": "2025-11-24T00:00:00.000Z", "events": 9, "source": "log"},
    "events_matched": 3,
    "alerts_before": 2,
    "alerts_after": 1,
    "alerts_removed": [],
    "alerts_removed_count": 1,
    "detections_lost": [],
    "detections_lost_count": 0,
    "agents_affected": 1,
    "unseen": "",
    "still_odd": [{"feature": "write_surprise", "events": 4}],
}


def decision(number: int, **values: Any) -> Decision:
    """A decision that raised an agent of acme to high."""
    name = AgentName(IdentityHasher().agent_key("acme", AS, "agent-pay-1"), "acme", AS, "agent-pay-1")
    given: dict[str, Any] = {
        "decision_id": f"D{number:04}",
        "agent_type": "PaymentProcessor",
        "decided_ms": NOW_MS - 5_000,
        "event_id": f"evt-{number}",
        "event_time_ms": NOW_MS - 6_000,
        "risk_score": 0.8,
        "confidence": 0.9,
        "anomaly_score": 0.9,
        "p_value": 1e-6,
        "reasons": (RiskReason("first_seen_target", "target_surprise", "x", "5 known", 0.9, "first use of x"),),
        "evidence": {"statistic": 12.5, "signals": ["unregistered_key"]},
    }
    return stored_rows.decision(number, name, **(given | values))


class Runs:
    """Plays the preview's process."""

    def __init__(self) -> None:
        self.jobs: list[PreviewJob] = []
        self.result: dict[str, Any] = dict(FOUND)
        self.held = False
        self.error = ""

    async def __call__(self, job: PreviewJob, tell: Callable[[float], Any]) -> bytes:
        self.jobs.append(job)
        await tell(0.5)
        while self.held:
            await asyncio.sleep(0.01)
        if self.error:
            raise PreviewFailed(self.error)
        return msgspec.json.encode(self.result)


class Person:
    """Somebody who gives feedback to a service."""

    def __init__(self, site: Any) -> None:
        self.site, self.runs = site, Runs()
        site.preview = self.runs
        globex = AgentName(IdentityHasher().agent_key("globex", AS, "bot"), "globex", AS, "bot")
        told = [decision(1), decision(2, level=1, previous_level=3), decision(3, agent=globex, agent_type="")]
        stored_rows.commit(site.store, decisions=told)

    def post(self, path: str, body: Any, client: str = "gateway", *scopes: str) -> Any:
        return self.site.client.post(path, json=body, headers=self.site.auth(client, *scopes))

    def draft(self, *features: str, **more: Any) -> dict[str, Any]:
        scope: dict[str, Any] = {"kind": "agent", "features": list(features or ("target_surprise",)), "resource": None}
        scope |= more.pop("scope", {})
        return {
            "verdict": "false_positive",
            "scope": scope,
            "reason": "a new supplier",
            "expires_in_s": DAY_S,
            **more,
        }

    def start(self, body: Any, of: str = "D0001", client: str = "gateway") -> Any:
        return self.post(f"/v1/decisions/{of}/feedback/preview", body, client)

    def adopt(self, body: Any, of: str = "D0001", client: str = "gateway") -> Any:
        return self.post(f"/v1/decisions/{of}/feedback", body, client)

    def previewed(self, body: dict[str, Any], of: str = "D0001", client: str = "gateway") -> dict[str, Any]:
        """The body with the id of its finished preview."""
        started = self.start(body, of, client)
        assert started.status_code == 202, started.text
        return body | {"preview_id": self.ended(started.json()["preview_id"], client)["preview_id"]}

    def ended(self, preview_id: str, client: str = "gateway") -> dict[str, Any]:
        for _ in range(1000):
            found = self.site.get(f"/v1/feedback/previews/{preview_id}", client).json()
            if found["status"] in ("done", "failed"):
                return dict(found)
            time.sleep(0.01)
        raise AssertionError(found)

    def revoke(self, feedback_id: str, client: str = "gateway", reason: str | None = "wrong") -> Any:
        given = {} if reason is None else {"reason": reason}
        return self.site.client.delete(f"/v1/feedback/{feedback_id}", params=given, headers=self.site.auth(client))

    def commands(self) -> list[Any]:
        decoder = msgspec.json.Decoder(AdoptFeedbackRule | RevokeFeedbackRule)
        return [decoder.decode(record.payload) for record in self.site.logged(RecordKind.CONTROL)]

    def audited(self) -> list[dict[str, Any]]:
        """Audit events of feedback in the log."""
        self.site.wait(self.site.guard.audit_sink.flush(5.0))
        return [one for one in self.site.events() if one["action"].startswith("feedback.")]
