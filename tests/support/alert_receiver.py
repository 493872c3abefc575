"""What tests of alerts share: a real receiver on loopback, one alert of each type, and a target of each format."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any, get_args

import msgspec

from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.notifiers.alert_events import (
    APPROVAL_TYPE,
    SilentSource,
    build_alert_row,
    build_silence_row,
    build_test_alert_row,
)
from trustwatch.scoring.delivery.notifiers.alert_formats import SIGNED_FORMATS, AlertFormat
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.agents import AgentName, LevelName, RiskLevel
from trustwatch.scoring.records.commits import LeasedDelivery, OutboxRow
from trustwatch.scoring.records.decisions import Decision, RiskReason

from .endpoint import Endpoint

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"
TOKEN = "T0KEN-of-the-path-of-a-chat"
SOURCE = "https://trust.example/"
ALL_LEVEL_NAMES: tuple[LevelName, ...] = get_args(LevelName)
AT_MS = 1_764_000_000_123
POLICY = {"allow": False, "max_token_lifetime_s": 0, "revoke": True}


class Receiver(Endpoint):
    """An HTTP server that answers as told (then 204) and keeps what it got. `go.clear()` holds every answer back."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[Endpoint.Answer] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.go = threading.Event()
        self.go.set()
        super().__init__(self._take, port)

    @property
    def url(self) -> str:
        return f"{super().url}/hook"

    def _take(self, request: Endpoint.Request) -> Endpoint.Answer:
        self.got.append(request[2:])
        answer = self.answers.pop(0) if self.answers else (204, {}, b"")
        self.go.wait(5)  # much longer than any time budget in these tests
        return answer

    def close(self) -> None:
        self.go.set()
        super().close()

    @property
    def keys(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


def target(url: str, wanted: AlertFormat, name: str = "soc", **values: Any) -> WebhookTarget:
    """A target of that format with the secrets it needs; those of chats are in the path."""
    secret = Secret(SECRET) if wanted in SIGNED_FORMATS else None
    key = Secret(ROUTING_KEY) if wanted == "pagerduty" else None
    if wanted == "slack":
        url += "/services/" + TOKEN
    levels: tuple[LevelName, ...] = values.pop("levels", ALL_LEVEL_NAMES)
    return WebhookTarget(name, Secret(url), wanted, secret, routing_key=key, levels=levels, **values)


DECISION = Decision(
    decision_id="01KAV9FT00",
    agent=AgentName(2**64 - 5, "acme", "https://as.example", "https://agents.example/pay?v=2"),
    agent_type="Payer",
    decided_ms=AT_MS,
    event_id="evt-1",
    event_time_ms=1_764_000_000_000,
    previous_level=2,
    level=4,
    risk_score=0.97,
    confidence=0.9,
    anomaly_score=0.8,
    p_value=1e-6,
    reasons=(RiskReason("burst", "pace", "90/min", "3/min", 0.5, "90 calls a minute; 3 are usual"),),
    counterfactual="",
    feature_vector={"pace": 30.0},
    evidence={
        "statistic": 9.0,
        "concern": "compromise",
        "indicators": [
            {"kind": "network", "value": "AS65537", "status": "new", "at": "2025-11-24T16:00:00.000Z"},
            {"kind": "address", "value": "203.0.113.7", "status": "with_new", "at": "2025-11-24T16:00:00.000Z"},
            {"kind": "software", "value": "curl/8.9.1", "status": "with_new", "at": "2025-11-24T16:00:00.000Z"},
            {"kind": "key", "value": "k-1", "status": "known", "at": "2025-11-24T16:00:00.000Z"},
            {"kind": "session", "value": "s <1>", "status": "with_new", "at": "2025-11-24T16:00:00.000Z"},
        ],
    },
    model_version="m",
    baseline_version="b",
    policy_version="3",
    mode="enforce",
    cause="event",
    partition=0,
    offset=17,
)


def change(previous: RiskLevel, level: RiskLevel, **members: Any) -> bytes:
    """The alert that the agent's level changed so."""
    decision = msgspec.structs.replace(DECISION, previous_level=previous, level=level, **members)
    return build_alert_row(decision, POLICY, SOURCE).payload


def approval(**data: Any) -> bytes:
    """The alert that a person's approval is wanted."""
    event = {
        "specversion": "1.0",
        "id": "approval-A1",
        "type": APPROVAL_TYPE,
        "source": SOURCE,
        "subject": "payer",
        "time": "2025-11-24T16:00:00.123Z",
        "datacontenttype": "application/json",
        "data": {
            "approval_id": "A1",
            "tenant": "acme",
            "issuer": "https://as.example",
            "agent_id": "payer",
            "scopes": ["payments:write", "ledger:admin"],
            "reason": "these scopes need a person at risk medium",
            "requested_at": "2025-11-24T16:00:00.123Z",
            "expires_at": "2025-11-24T17:00:00.123Z",
            "links": {"approval": "https://trust.example/v1/approvals/A1"},
            "suppressed_before": 0,
            **data,
        },
    }
    return msgspec.json.encode(event)


UNKNOWN = msgspec.json.encode(
    {
        "specversion": "1.0",
        "id": "x-1",
        "type": "io.example.new.v9",
        "source": SOURCE,
        "subject": "something",
        "time": "2025-11-24T16:00:00.123Z",
        "data": {"colour": "red", "depth": 3, "inner": {"a": [1]}, "links": {"more": "https://trust.example/x"}},
    }
)

ALERTS: dict[str, bytes] = {
    "rise": change(RiskLevel.MEDIUM, RiskLevel.CRITICAL),
    "first": change(RiskLevel.UNKNOWN, RiskLevel.HIGH, mode="shadow"),
    "fall": change(RiskLevel.HIGH, RiskLevel.LOW, cause="tick", event_id=""),
    "silence": build_silence_row(SilentSource("edge", "topic", 60.0, ("acme",), AT_MS - 60_000, AT_MS), SOURCE).payload,
    "approval": approval(),
    "test": build_test_alert_row("T1", "soc", "ops", AT_MS, SOURCE, RiskLevel.HIGH, "").payload,
    "unknown": UNKNOWN,
}
"""One alert of each type, by a name for it."""


def outgoing(payload: bytes, key: str = "alert-1", attempt: int = 1, suppressed_before: int = 0) -> LeasedDelivery:
    """*payload* as the dispatcher hands it to a notifier."""
    row = OutboxRow(key, "alert", "", payload, AT_MS, 7, "burst", 3, "acme")
    return LeasedDelivery(1, row, "soc", attempt, AT_MS, suppressed_before)
