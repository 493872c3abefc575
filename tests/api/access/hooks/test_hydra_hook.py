"""Ory Hydra's token hook: 204, 200 and 403 are all it understands, and 200 replaces the session's claims."""

from __future__ import annotations

import json
from typing import Any

import pytest


def credentials(body: Any) -> dict[str, Any]:
    """The sample as it looks at client credentials: no subject, no claims."""
    request = body("hydra_token")
    request["session"]["id_token"].update(subject="", id_token_claims={"iss": "http://hydra/", "sub": "", "ext": None})
    request["session"]["extra"] = {}
    asked = {"grant_types": ["client_credentials"], "payload": {"grant_type": ["client_credentials"]}}
    request["request"].update(asked, granted_scopes=["read"], requested_scopes=["read"])
    return request


@pytest.mark.parametrize(
    ("level", "enforced", "in_shadow"),
    [
        ("unknown", 200, 200),
        ("low", 200, 200),
        ("medium", 200, 200),
        ("high", "refresh_refused", 200),
        ("critical", "risk_level", 200),
    ],
)
def test_hydras_own_request_at_every_level(
    make_desk: Any, body: Any, level: str, enforced: int | str, in_shadow: int
) -> None:
    """The refresh of Hydra's own test: its claims are given back with ours, or it is denied; never in shadow."""
    for mode, expected in (("enforce", enforced), ("shadow", in_shadow)):
        desk = make_desk("hydra", mode=mode)
        if level != "unknown":
            desk.level(level, "app-client")
        answer = desk.ask("hydra", body("hydra_token"))

        if expected == 200:
            claims = {"hooked": "legacy", "risk_level": level, "policy_version": "3"}
            assert answer.status_code == 200
            assert answer.json() == {"session": {"access_token": claims, "id_token": {"hooked": "legacy"}}}
        else:
            assert (answer.status_code, answer.json()) == (403, {"error": "access_denied", "reason": expected})


def test_without_claims_an_allowed_token_is_left_alone(make_desk: Any, body: Any, make_hook: Any) -> None:
    answer = make_desk(make_hook("hydra", claims=False)).ask("hydra", body("hydra_token"))

    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


def test_the_older_refresh_hook_is_understood(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("high", "app-client")

    assert desk.ask("hydra", body("hydra_refresh")).json()["reason"] == "refresh_refused"


def test_claims_of_the_session_survive_to_the_digit(make_desk: Any, body: Any) -> None:
    """Hydra drops what is not given back, so nothing may be lost or written another way."""
    request = body("hydra_token")
    kept = (
        '{"n": 12345678901234567890, "f": 1.10, "e": 1e300, "d": {"a": [null, true, "é\\u0000"]}, "risk_level": "old"}'
    )
    content = json.dumps(request).replace('{"hooked": "legacy"}, "client_id"', f'{kept}, "client_id"').encode()
    assert kept.encode() in content

    answer = make_desk("hydra").ask("hydra", content)

    for piece in (b"12345678901234567890", b"1.10", b"1e300", b'[null, true, "\xc3\xa9\\u0000"]'):
        assert piece in answer.content
    assert json.loads(answer.content)["session"]["access_token"]["risk_level"] == "unknown"


def test_client_credentials_are_about_the_client(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("critical", "app-client")

    assert desk.ask("hydra", credentials(body)).status_code == 403
    (event,) = desk.events()
    assert event["agent"] == {"id": "app-client", "issuer": "https://as.example"}
    assert "principal" not in event


def test_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("low", "app-client")
    desk.ask("hydra", body("hydra_token"))
    desk.level("critical", "app-client")
    desk.ask("hydra", credentials(body))

    allowed, refused = desk.events()

    scopes = ["offline", "openid", "hydra.*"]
    assert allowed == {
        "time": "2025-11-24T16:00:00.000Z",
        "source": "urn:trustwatch:hydra",
        "type": "token.refresh",
        "action": "refresh_token",
        "agent": {"id": "app-client", "issuer": "https://as.example"},
        "principal": {"id": "foo", "type": "user"},
        "outcome": "success",
        "error": None,
        "tenant": "acme",
        "scopes": {"requested": scopes, "granted": scopes},
        "attributes": {"verdict": "allowed", "risk_level": "low", "mode": "enforce"},
    }
    assert (refused["type"], refused["outcome"], refused["error"]) == (
        "token.request",
        "denied",
        "revoked_by_trustwatch",
    )


def test_assertions_are_kept_nowhere(make_desk: Any, body: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the JWT bearer grant Hydra sends the assertion along, a credential."""
    desk = make_desk("hydra")
    request = credentials(body)
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    request["request"]["payload"] = {"grant_type": [grant], "assertion": ["eyJ.very.secret"]}
    answer = desk.ask("hydra", request)
    broken = desk.ask("hydra", json.dumps(request).encode()[:-1])

    (event,) = desk.events()
    assert event["action"] == grant
    assert "very.secret" not in json.dumps(event) + answer.text + broken.text + "".join(capsys.readouterr())


def test_scopes_that_wait_for_a_person_can_not_be_left_out(make_desk: Any, body: Any) -> None:
    """At medium, write scopes need approval; Hydra can only deny the whole, and a person is asked."""
    desk = make_desk("hydra")
    desk.level("medium", "app-client")
    request = credentials(body)
    request["request"]["granted_scopes"] = ["read", "notes:write"]

    assert desk.ask("hydra", request).json()["reason"] == "scopes_not_narrowable"
    request["request"]["granted_scopes"] = ["read"]
    assert desk.ask("hydra", request).status_code == 200
    (asked,) = desk.asked()
    assert (asked.kind, asked.scopes, asked.asked_by) == ("approval", ("notes:write",), "hydra")


def test_a_refresh_is_one_however_the_client_writes_it(make_desk: Any, body: Any) -> None:
    """Hydra takes `refresh_token ` for a refresh, so it is one for the policy of `high`, too."""
    desk = make_desk("hydra")
    request = credentials(body)
    request["request"]["grant_types"] = ["refresh_token"]
    request["request"]["payload"] = {"grant_type": ["refresh_token "]}

    desk.ask("hydra", request)

    (event,) = desk.events()
    assert (event["type"], event["action"]) == ("token.refresh", "refresh_token")
