"""ZITADEL's Actions v2: a signed body; claims are appended, a status to forward denies."""

from __future__ import annotations

import json
from typing import Any

import pytest


def claims(level: str) -> dict[str, Any]:
    return {"append_claims": [{"key": "risk_level", "value": level}, {"key": "policy_version", "value": "3"}]}


def denied(reason: str) -> dict[str, Any]:
    return {"forwardedStatusCode": 403, "forwardedErrorMessage": f"access denied: {reason}"}


@pytest.mark.parametrize(
    ("level", "enforced"),
    [
        ("unknown", claims("unknown")),
        ("low", claims("low")),
        ("medium", claims("medium")),
        ("high", denied("step_up_required")),
        ("critical", denied("risk_level")),
    ],
)
def test_every_level(make_desk: Any, body: Any, level: str, enforced: dict[str, Any]) -> None:
    for mode, expected in (("enforce", enforced), ("shadow", claims(level))):
        desk = make_desk("zitadel", mode=mode)
        if level != "unknown":
            desk.level(level)
        answer = desk.ask("zitadel", body("zitadel"))

        assert (answer.status_code, answer.json()) == (200, expected)


def test_without_claims_nothing_is_said(make_desk: Any, body: Any, make_hook: Any) -> None:
    assert make_desk(make_hook("zitadel", claims=False)).ask("zitadel", body("zitadel")).json() == {}


def test_the_agent_is_where_the_settings_say(make_desk: Any, body: Any, make_hook: Any) -> None:
    desk = make_desk(make_hook("zitadel", agent="user.username"))
    desk.level("critical", "payments-bot")

    assert desk.ask("zitadel", body("zitadel")).json() == denied("risk_level")


def test_a_signature_is_of_body_time_and_key(make_desk: Any, body: Any) -> None:
    desk = make_desk("zitadel")
    content = json.dumps(body("zitadel")).encode()
    right = desk.signature(content)
    wrong = [
        "",
        "t=,v1=",
        right.partition(",")[0],
        right.partition(",")[2],
        right + ",t=1",
        "v1=" + "0" * 64,
        desk.signature(content + b" "),
        desk.signature(content, desk.now - 301),
        desk.signature(content, desk.now + 301),
        desk.signature(content, secret="another secret of letters"),
        right.replace("t=", "t=1"),
        right.partition(",")[0] + ",v1=x" * 9,
    ]

    answers = {given: desk.ask("zitadel", content, zitadel_signature=given) for given in wrong}

    assert {given: answer.status_code for given, answer in answers.items()} == dict.fromkeys(wrong, 401)
    assert desk.guard.verdict_counts.total() == desk.guard.failure_counts.total() == 0


def test_a_key_is_changed_with_two_signatures(make_desk: Any, body: Any) -> None:
    """ZITADEL signs with the old and the new key; one that fits is enough, at any time within the tolerance."""
    desk = make_desk("zitadel")
    content = json.dumps(body("zitadel")).encode()
    for at_s in (desk.now - 300, desk.now + 300):
        stamp, _, right = desk.signature(content, at_s).partition(",")
        given = f"{stamp},v1={'0' * 64},{right.upper().replace('V1', 'v1')}"

        assert desk.ask("zitadel", content, zitadel_signature=given).status_code == 200
