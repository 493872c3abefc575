"""Okta's token inline hook: commands shorten (300 s at least) and add claims, an error denies, 204 changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel

LIFETIME = "/token/lifetime/expiration"


def patch(level: str, lifetime_s: int | None = None) -> dict[str, Any]:
    """The answer that writes claims and, where given, a lifetime."""
    value: list[dict[str, Any]] = (
        [] if lifetime_s is None else [{"op": "replace", "path": LIFETIME, "value": lifetime_s}]
    )
    value += [
        {"op": "add", "path": "/claims/risk_level", "value": level},
        {"op": "add", "path": "/claims/policy_version", "value": "3"},
    ]
    return {"commands": [{"type": "com.okta.access.patch", "value": value}]}


def error(reason: str) -> dict[str, Any]:
    return {"error": {"errorSummary": f"access denied: {reason}"}}


@pytest.mark.parametrize(
    ("level", "enforced"),
    [
        ("unknown", patch("unknown", 300)),
        ("low", patch("low", 900)),
        ("medium", patch("medium", 300)),
        ("high", error("step_up_required")),
        ("critical", error("risk_level")),
    ],
)
def test_every_level(make_desk: Any, body: Any, level: str, enforced: dict[str, Any]) -> None:
    for mode, expected in (("enforce", enforced), ("shadow", patch(level))):
        desk = make_desk("okta", mode=mode)
        if level != "unknown":
            desk.level(level)
        answer = desk.ask("okta", body("okta"))

        assert (answer.status_code, answer.json()) == (200, expected)


def test_a_token_that_is_short_already_is_never_made_longer(make_desk: Any, body: Any, make_hook: Any) -> None:
    request = body("okta")
    request["data"]["access"]["token"]["lifetime"]["expiration"] = 300

    assert make_desk(make_hook("okta", claims=False)).ask("okta", request).status_code == 204


def test_what_may_not_live_for_300_s(make_desk: Any, body: Any, make_hook: Any) -> None:
    policies = {RiskLevel.HIGH: LevelTokenPolicy(True, 60, None, True, False, False)}
    desk = make_desk(make_hook("okta"), policies=policies)
    desk.level("high")

    assert desk.ask("okta", body("okta")).json() == error("lifetime_not_supported")


def test_scopes_that_wait_for_a_person_can_not_be_left_out(make_desk: Any, body: Any) -> None:
    desk = make_desk("okta")
    desk.level("medium")
    request = body("okta")
    request["data"]["access"]["scopes"]["payments:write"] = {"id": "s3", "action": "GRANT"}

    assert desk.ask("okta", request).json() == error("scopes_not_narrowable")


def test_a_claim_that_the_server_sets_already_is_replaced(make_desk: Any, body: Any) -> None:
    request = body("okta")
    request["data"]["access"]["claims"]["risk_level"] = "from the server's own rules"
    desk = make_desk("okta", mode="shadow")

    operations = desk.ask("okta", request).json()["commands"][0]["value"]
    assert [(one["op"], one["path"]) for one in operations] == [
        ("replace", "/claims/risk_level"),
        ("add", "/claims/policy_version"),
    ]


def test_an_id_token_alone_is_left_alone(make_desk: Any, body: Any) -> None:
    request = body("okta")
    del request["data"]["access"]
    desk = make_desk("okta")

    assert desk.ask("okta", request).status_code == 204
    desk.level("critical")
    assert desk.ask("okta", request).json() == error("risk_level")


def test_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
    desk = make_desk("okta")
    desk.level("low")
    desk.ask("okta", body("okta"))

    (event,) = desk.events()
    scopes = ["payments:read", "payments:list"]
    assert event == {
        "time": "2025-11-24T16:00:00.000Z",
        "source": "urn:trustwatch:okta",
        "type": "token.request",
        "action": "client_credentials",
        "agent": {"id": "bot", "issuer": "https://as.example"},
        "outcome": "success",
        "error": None,
        "tenant": "acme",
        "scopes": {"requested": scopes, "granted": scopes},
        "client": {"ip": "198.51.100.7"},
        "resource": {"audience": "api://payments"},
        "attributes": {"verdict": "allowed", "risk_level": "low", "mode": "enforce", "token_lifetime_s": 900},
    }
