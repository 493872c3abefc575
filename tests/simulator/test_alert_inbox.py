"""The demo's receiver of alerts checks signatures as a user's program must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx2
import pytest
from standardwebhooks import Webhook

from trustwatch.simulator.demo import MAX_ALERT_BYTES, AlertInbox

OTHER_SECRET = "whsec_" + "QUFB" * 8
BODY = b'{"type":"io.trustwatch.alert.risk-level-changed.v1"}'


@pytest.fixture
def inbox() -> Iterator[AlertInbox]:
    """One on this machine's loopback."""
    with closing(AlertInbox()) as made:
        yield made


def signed(secret: str, body: bytes = BODY, at: datetime | None = None) -> dict[str, str]:
    """Headers as a sender gives them."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": "msg-1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg-1", at, body.decode()),
    }


def test_a_signed_alert_is_received(inbox: AlertInbox) -> None:
    assert httpx2.post(inbox.url, content=BODY, headers=signed(inbox.secret)).status_code == 204
    assert (inbox.received, inbox.refused) == (1, 0)


@pytest.mark.parametrize("case", ["none", "other body", "other secret", "old", "no form", "no base64", "no text"])
def test_what_is_not_rightly_signed_is_refused(inbox: AlertInbox, case: str) -> None:
    right, body = signed(inbox.secret), BODY
    cases: dict[str, dict[str, str]] = {
        "none": {},
        "other body": signed(inbox.secret, b"{}"),
        "other secret": signed(OTHER_SECRET),
        "old": signed(inbox.secret, at=datetime.now(UTC) - timedelta(hours=1)),
        "no form": {**right, "webhook-signature": "v1"},
        "no base64": {**right, "webhook-signature": "v1,!"},
        "no text": right,
    }
    if case == "no text":
        body = b"\xff\xfe"
    assert httpx2.post(inbox.url, content=body, headers=cases[case]).status_code == 401
    assert (inbox.received, inbox.refused) == (0, 1)


def test_no_body_and_too_large_a_one_are_not_read(inbox: AlertInbox) -> None:
    assert httpx2.post(inbox.url).status_code == 413
    connection = HTTPConnection(urlsplit(inbox.url).netloc)
    connection.putrequest("POST", "/alerts")
    connection.putheader("content-length", str(MAX_ALERT_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert (inbox.received, inbox.refused) == (0, 0)
