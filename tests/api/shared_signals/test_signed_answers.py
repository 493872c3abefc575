"""Answers and alerts as signed JWTs: verified offline by another library and our key set alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jwt
import pytest
from jwt import PyJWKSet
from standardwebhooks import Webhook

from trustwatch.api.http.problems import SignedAnswersMissing
from trustwatch.api.http.responses import wants_signed
from trustwatch.api.settings.root import Settings
from trustwatch.api.shared_signals.transmitter_context import TransmitterContext
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget

from ...support.alert_receiver import ALERTS, SECRET, Receiver, outgoing, target
from ...support.console_records import decision_of, row_of
from ...support.stored_rows import commit

SIGNED = {"accept": "application/jwt"}
PUBLIC = "https://trust.example"


@pytest.fixture
def transmitter(transmit: Callable[..., Any]) -> Any:
    return transmit(ANSWER_S=120)


def verified(transmitter: Any, token: str | bytes, kind: str, audience: str = "gateway") -> Any:
    """The answer in a JWT, as a third party reads it: by the key set, at the time of the service."""
    keys = PyJWKSet.from_dict(transmitter.site.client.get("/ssf/jwks.json").json())
    header = jwt.get_unverified_header(token)
    assert (header["typ"], header["alg"]) == (f"trustwatch-{kind}+jwt", "RS256")
    options: Any = {"require": ["iss", "aud", "iat", "exp", "jti"], "verify_exp": False, "verify_iat": False}
    key = keys[header["kid"]].key
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=PUBLIC, options=options)
    assert (claims["iat"], claims["exp"] - claims["iat"]) == (int(transmitter.site.clock.now), 120)
    return claims[kind]


def test_signed_risk_answers(transmitter: Any) -> None:
    """One and many: the same answer as without, for whoever asked, and never the same `jti`."""
    site = transmitter.site
    path, headers = "/v1/agents/bot/risk?tenant=acme", site.auth("gateway")
    plain = site.client.get(path, headers=headers)
    first, second = (site.client.get(path, headers=headers | SIGNED) for _ in range(2))
    assert first.headers["content-type"] == "application/jwt"
    assert first.headers["cache-control"] == "no-store"
    assert verified(transmitter, first.text, "risk") == plain.json()
    assert first.text != second.text
    with pytest.raises(AssertionError):
        verified(transmitter, first.text, "decision")
    with pytest.raises(jwt.InvalidAudienceError):
        verified(transmitter, first.text, "risk", "somebody")

    body = {"agents": [{"agent_id": "bot"}, {"agent_id": "payer"}]}
    many = site.client.post("/v1/risk/query", json=body, headers=headers | SIGNED)
    assert many.headers["content-type"] == "application/jwt"
    assert [one["agent_id"] for one in verified(transmitter, many.text, "risks")["answers"]] == ["bot", "payer"]


def test_signed_decisions(transmitter: Any, summary: Callable[..., Any]) -> None:
    """As they are answered without; what cannot be answered is the problem that it always was."""
    site = transmitter.site
    decision = decision_of(row_of("bot", "acme", 4), 1)
    commit(site.store, decisions=[decision])
    headers = site.auth("gateway")
    plain = site.client.get("/v1/decisions/d-1", headers=headers)
    assert plain.status_code == 200, plain.text
    signed = site.client.get("/v1/decisions/d-1", headers=headers | SIGNED)
    assert verified(transmitter, signed.text, "decision") == plain.json()
    site.report([summary()])
    for path in ("/v1/decisions?limit=1", "/v1/agents/bot/decisions"):
        listed = site.client.get(path, headers=headers)
        assert [one["decision_id"] for one in listed.json()["items"]] == ["d-1"]
        assert verified(transmitter, site.client.get(path, headers=headers | SIGNED).text, "decisions") == listed.json()
    missing = site.client.get("/v1/decisions/d-2", headers=headers | SIGNED)
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


def test_a_signed_answer_is_no_token_of_any_other_kind(transmitter: Any) -> None:
    """Neither an access token, nor a security event token."""
    site = transmitter.site
    token = site.client.get("/v1/agents/bot/risk", headers=site.auth("gateway") | SIGNED).text
    refused = site.client.get("/v1/agents/bot/risk", headers={"authorization": f"Bearer {token}"})
    assert refused.status_code == 401
    assert jwt.get_unverified_header(token)["typ"] not in ("JWT", "at+jwt", "secevent+jwt")


def test_without_keys_nothing_is_signed(new_site: Callable[..., Any]) -> None:
    """An authorized client that accepts nothing else gets 406. One that accepts JSON too gets JSON."""
    site = new_site()
    for path in ("/v1/agents/bot/risk", "/v1/decisions/d-1", "/v1/decisions"):
        assert site.client.get(path, headers=SIGNED).status_code == 401
        assert site.client.get(path, headers=site.auth("gateway", "trust.ingest") | SIGNED).status_code == 403
        refused = site.client.get(path, headers=site.auth("gateway") | SIGNED)
        assert refused.status_code in (404, 406)
    assert site.client.get("/v1/agents/bot/risk", headers=site.auth("gateway") | SIGNED).status_code == 406
    both = {"accept": "application/jwt, application/json;q=0.5"}
    assert site.client.get("/v1/agents/bot/risk", headers=site.auth("gateway") | both).json()["agent_id"] == "bot"


@pytest.mark.parametrize(
    ("accept", "signed"),
    [
        ("application/jwt", True),
        ("APPLICATION/JWT", True),
        ("application/json, application/jwt", True),
        ("application/jwt;q=0.4, application/json;q=0.4", True),
        ("application/jwt;q=0.4, application/json;q=0.5", False),
        ("application/jwt;q=0.4, */*", False),
        ("application/jwt;q=0", False),
        ("application/jwt;q=x", False),
        ("application/json", False),
        ("*/*", False),
        ("text/application/jwt", False),
        ("", False),
    ],
)
def test_what_a_client_accepts(accept: str, signed: bool) -> None:
    """Signed where that is named, and liked no less than JSON."""
    headers = [(b"host", b"x"), (b"accept", accept.encode())]
    assert wants_signed(headers, can_sign=True) == signed
    try:
        assert not wants_signed(headers, can_sign=False)
    except SignedAnswersMissing:
        assert accept.lower() in ("application/jwt",)


def test_signed_alerts(transmitter: Any) -> None:
    """The CloudEvent in a JWT for the target; its `jti` is the alert's at each attempt, and the secret signs it all."""
    context: TransmitterContext = transmitter.context
    receiver = Receiver()

    async def deliver() -> None:
        async with make_webhook_client() as client:
            sign = partial(context.answers.sign, "alert")
            notifier = WebhookNotifier(client, lambda: 1_764_000_000_000, sign)
            for wanted in ("cloudevents", "ocsf"):
                to = target(receiver.url, wanted, name=f"soc-{wanted}", signed=True)  # type: ignore[arg-type]
                assert (await notifier.deliver(outgoing(ALERTS["rise"], "alert-7"), to)).outcome == "delivered"
            bare = WebhookNotifier(client, lambda: 1_764_000_000_000)
            result = await bare.deliver(outgoing(ALERTS["rise"]), target(receiver.url, "ocsf", signed=True))
            assert (result.outcome, "shared_signals.enabled" in result.error) == ("retry", True)

    try:
        asyncio.run(deliver())
    finally:
        receiver.close()
    (headers, body), (_, finding) = receiver.got
    assert headers["content-type"] == "application/jwt"
    alert = verified(transmitter, body, "alert", "soc-cloudevents")
    assert alert["type"] == json.loads(ALERTS["rise"])["type"]
    assert alert["data"]["decision_id"] == json.loads(ALERTS["rise"])["data"]["decision_id"]
    assert jwt.decode(body, options={"verify_signature": False})["jti"] == "alert-7"
    assert verified(transmitter, finding, "alert", "soc-ocsf")["class_uid"] == 2004
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"] == Webhook(SECRET).sign(headers["webhook-id"], at, body.decode())


def test_alerts_that_can_not_be_signed() -> None:
    """By formats that check no signature, and where there are no keys: an error of the settings."""
    url = Secret("https://soc.example/x")
    with pytest.raises(ValueError, match="means nothing in format `slack`"):
        WebhookTarget(name="chat", url=url, format="slack", signed=True)
    webhook = WebhookTarget(name="soc", url=url, secret=Secret(SECRET), signed=True)
    with pytest.raises(ValueError, match=r"shared_signals\.enabled"):
        Settings(webhooks=(webhook,))
