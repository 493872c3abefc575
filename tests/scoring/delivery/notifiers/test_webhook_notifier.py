"""The alert and the webhook that carries it, without a network."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.delivery.notifiers.alert_formats import render_alert
from trustwatch.scoring.delivery.notifiers.webhook_notifier import classify_response, sign_headers
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget

from ....support.alert_receiver import DECISION, POLICY, SOURCE

SECRETS = tuple("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def test_alert_is_a_cloud_event() -> None:
    """The alert has the members CloudEvents 1.0 demands, and says what changed, why and what holds now."""
    event = json.loads(build_alert_row(DECISION, POLICY, SOURCE).payload)
    data = event.pop("data")

    assert event == {
        "specversion": "1.0",
        "id": "01KAV9FT00",
        "type": "io.trustwatch.alert.risk-level-changed.v1",
        "source": SOURCE,
        "subject": "https://agents.example/pay?v=2",
        "time": "2025-11-24T16:00:00.123Z",
        "datacontenttype": "application/json",
    }
    assert (data["previous_level"], data["risk_level"], data["counterfactual"]) == ("medium", "critical", None)
    assert data["token_policy"] == POLICY
    assert data["reasons"][0]["text"] == "90 calls a minute; 3 are usual"
    assert data["links"] == {
        "risk": "https://trust.example/v1/agents/https%3A%2F%2Fagents.example%2Fpay%3Fv%3D2/risk"
        "?tenant=acme&issuer=https%3A%2F%2Fas.example",
        "decision": "https://trust.example/v1/decisions/01KAV9FT00",
    }
    assert not {"feature_vector", "evidence"} & data.keys()


def test_alert_by_time_alone() -> None:
    """A level that changed by time alone names no event; without reasons its cause is the cool-down group."""
    quiet = msgspec.structs.replace(DECISION, event_id="", cause="tick", reasons=())

    data = json.loads(build_alert_row(quiet, POLICY, SOURCE).payload)["data"]

    assert (data["event_id"], data["event_time"], data["cause"]) == (None, None, "tick")
    assert build_alert_row(quiet, POLICY, SOURCE).group == "tick"


def test_alert_row() -> None:
    """The outbox row carries what routing and cool-down look at, and the same decision gives the same key."""
    row = build_alert_row(DECISION, POLICY, SOURCE)

    assert (row.kind, row.target, row.group, row.level, row.tenant) == ("alert", "", "burst", 4, "acme")
    assert (row.agent_key, row.created_ms) == (DECISION.agent.key, DECISION.decided_ms)
    assert row == build_alert_row(DECISION, POLICY, SOURCE)


def test_the_count_of_suppressed_alerts_changes_nothing_else() -> None:
    """Only the count of suppressed alerts differs in what is sent."""
    payload = build_alert_row(DECISION, POLICY, SOURCE).payload
    rendered = render_alert(payload, "cloudevents", 3)
    assert rendered is not None
    before, after = json.loads(payload), json.loads(rendered.body)

    assert before["data"].pop("suppressed_before") == 0
    assert after["data"].pop("suppressed_before") == 3
    assert before == after


def test_each_secret_signs() -> None:
    """While secrets rotate, a receiver that knows either of them accepts the alert; one with another does not."""
    now, (present, before) = datetime.now(UTC), SECRETS
    url = Secret("https://example.com/h")
    target = WebhookTarget("t", url, secret=Secret(present), previous_secret=Secret(before))
    headers = sign_headers("alert-1", b'{"a":"\xc3\xa9"}', target.secrets, int(now.timestamp() * 1000))

    for secret in SECRETS:
        assert Webhook(secret).verify(b'{"a":"\xc3\xa9"}', headers) == {"a": "é"}
    assert len(headers["webhook-signature"].split(" ")) == 2
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 32).decode()).verify(b'{"a":"\xc3\xa9"}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[0]).verify(b'{"a":"e"}', headers)


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome", "wait_s"),
    [
        (200, None, "delivered", None),
        (204, None, "delivered", None),
        (307, None, "failed", None),
        (404, "5", "failed", None),
        (408, None, "retry", None),
        (410, None, "gone", None),
        (425, None, "retry", None),
        (429, "7", "retry", 7.0),
        (429, "Mon, 24 Nov 2025 16:01:00 GMT", "retry", 60.0),
        (429, "Mon, 24 Nov 2025 15:00:00 GMT", "retry", 0.0),
        (429, "soon", "retry", None),
        (429, "-1", "retry", None),
        (500, None, "retry", None),
        (503, "999999999999999999", "retry", 999_999_999.0),
    ],
)
def test_meaning_of_answers(status: int, retry_after: str | None, outcome: str, wait_s: float | None) -> None:
    """Each status is success, later, never or gone; Retry-After is seconds or a date, and nonsense is ignored."""
    result = classify_response(status, retry_after, "", 1_764_000_000_000)

    assert (result.outcome, result.retry_after_s) == (outcome, wait_s)
    assert (result.error == "") == (outcome == "delivered")


def test_answer_text_is_made_harmless() -> None:
    """What a target says is cut to 200 characters and cannot break out of a line of log."""
    result = classify_response(400, None, "no\r\n\x1b[31m" + "x" * 1_000, 0)

    assert result.error.startswith("HTTP 400: no [31mxxx")
    assert len(result.error) <= 220
    assert result.error.isprintable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://example.com/h"}, "must be an https"),
        ({"url": "http://localhost.example.com/h"}, "must be an https"),
        ({"url": "file:///etc/passwd"}, "must be an https"),
        ({"url": "https:///h"}, "must be an https"),
        ({"url": "https://u:hunter2@example.com/h"}, "user or password"),
        ({"url": "https://@example.com/h"}, "credentials"),
        ({"url": "https://example.com/h#hunter2"}, "fragment"),
        ({"secret": None}, "`secret`"),
        ({"secret": "hunter2"}, r"`secret` must be whsec_"),
        ({"previous_secret": "hunter2"}, r"so must `previous_secret`"),
        (
            {"secret": None, "format": "slack", "previous_secret": SECRETS[1]},
            "`previous_secret` signs in addition to `secret`",
        ),
        ({"secret": "whsec_aHVudGVyMg=="}, r"`secret` must be whsec_"),
        ({"format": "smoke"}, "format"),
        ({"format": "ocsf", "secret": None}, "`secret`"),
        ({"format": "slack"}, "leave it out"),
        ({"format": "pagerduty", "secret": None}, "`routing_key`"),
        ({"routing_key": "hunter2"}, "`routing_key` means nothing"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"levels": ()}, "levels"),
        ({"name": ""}, "name"),
        ({"name": "n" * 65}, "name"),
    ],
)
def test_wrong_targets(change: dict[str, Any], message: str) -> None:
    """A wrong target is refused at start with the member's name, and the message never shows a secret."""
    values: dict[str, Any] = {"name": "t", "url": "https://example.com/h", "secret": SECRETS[0]}

    with pytest.raises(msgspec.ValidationError, match=message) as caught:
        msgspec.convert(values | change, WebhookTarget, dec_hook=lambda _, text: Secret(text))

    assert "hunter2" not in str(caught.value)
    assert "aHVudGVyMg" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_plain_http_to_loopback(host: str) -> None:
    """Plain http is allowed to this machine alone."""
    WebhookTarget("t", Secret(f"http://{host}:8000/h"), secret=Secret(SECRETS[0]))

    with pytest.raises(ValueError, match="must be an https"):
        WebhookTarget("t", Secret("http://203.0.113.5:8000/h"), secret=Secret(SECRETS[0]))
