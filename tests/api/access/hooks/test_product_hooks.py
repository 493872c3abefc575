"""Hooks of products: the requests that each one sends, and the answers that it accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.api.http.separation_of_duties import Attribution
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel

LIFETIME = "/token/lifetime/expiration"
ACCESS, REFRESH = "/accessToken/claims/expires_in", "/refreshToken/claims/expires_in"


def hydra_credentials(body: Any) -> dict[str, Any]:
    """The sample as it looks at client credentials: no subject, no claims."""
    request = body("hydra_token")
    request["session"]["id_token"].update(subject="", id_token_claims={"iss": "http://hydra/", "sub": "", "ext": None})
    request["session"]["extra"] = {}
    asked = {"grant_types": ["client_credentials"], "payload": {"grant_type": ["client_credentials"]}}
    request["request"].update(asked, granted_scopes=["read"], requested_scopes=["read"])
    return request


def okta_patch(level: str, lifetime_s: int | None = None) -> dict[str, Any]:
    """The answer that writes claims and, where given, a lifetime."""
    value: list[dict[str, Any]] = (
        [] if lifetime_s is None else [{"op": "replace", "path": LIFETIME, "value": lifetime_s}]
    )
    value += [
        {"op": "add", "path": "/claims/risk_level", "value": level},
        {"op": "add", "path": "/claims/policy_version", "value": "3"},
    ]
    return {"commands": [{"type": "com.okta.access.patch", "value": value}]}


def okta_error(reason: str) -> dict[str, Any]:
    return {"error": {"errorSummary": f"access denied: {reason}"}}


def wso2_success(*operations: tuple[str, str, Any]) -> dict[str, Any]:
    made = [{"op": op, "path": path} | ({} if value is None else {"value": value}) for op, path, value in operations]
    return {"actionStatus": "SUCCESS", "operations": made}


def wso2_claims(level: str) -> tuple[tuple[str, str, Any], ...]:
    named = (("risk_level", level), ("policy_version", "3"))
    return tuple(("add", "/accessToken/claims/-", {"name": name, "value": value}) for name, value in named)


def wso2_failed(reason: str) -> dict[str, Any]:
    return {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": reason}


def wso2_shorter(seconds: int) -> tuple[str, str, Any]:
    return ("replace", ACCESS, seconds)


def zitadel_claims(level: str) -> dict[str, Any]:
    return {"append_claims": [{"key": "risk_level", "value": level}, {"key": "policy_version", "value": "3"}]}


def zitadel_denied(reason: str) -> dict[str, Any]:
    return {"forwardedStatusCode": 403, "forwardedErrorMessage": f"access denied: {reason}"}


LEVELS: list[tuple[str, str, Any, Any]] = [
    ("okta", "unknown", okta_patch("unknown", 300), okta_patch("unknown")),
    ("okta", "low", okta_patch("low", 900), okta_patch("low")),
    ("okta", "medium", okta_patch("medium", 300), okta_patch("medium")),
    ("okta", "high", okta_error("step_up_required"), okta_patch("high")),
    ("okta", "critical", okta_error("risk_level"), okta_patch("critical")),
    (
        "wso2",
        "unknown",
        wso2_success(wso2_shorter(300), *wso2_claims("unknown")),
        wso2_success(*wso2_claims("unknown")),
    ),
    ("wso2", "low", wso2_success(wso2_shorter(900), *wso2_claims("low")), wso2_success(*wso2_claims("low"))),
    (
        "wso2",
        "medium",
        wso2_success(wso2_shorter(300), ("remove", "/accessToken/scopes/1", None), *wso2_claims("medium")),
        wso2_success(*wso2_claims("medium")),
    ),
    ("wso2", "high", wso2_failed("step_up_required"), wso2_success(*wso2_claims("high"))),
    ("wso2", "critical", wso2_failed("risk_level"), wso2_success(*wso2_claims("critical"))),
    *(("zitadel", level, zitadel_claims(level), zitadel_claims(level)) for level in ("unknown", "low", "medium")),
    ("zitadel", "high", zitadel_denied("step_up_required"), zitadel_claims("high")),
    ("zitadel", "critical", zitadel_denied("risk_level"), zitadel_claims("critical")),
]
"""Product, level, and its answers if the policy is enforced and in shadow mode."""


@pytest.mark.parametrize(("product", "level", "enforced", "in_shadow"), LEVELS)
def test_every_level(
    make_desk: Any, body: Any, product: str, level: str, enforced: dict[str, Any], in_shadow: dict[str, Any]
) -> None:
    for mode, expected in (("enforce", enforced), ("shadow", in_shadow)):
        desk = make_desk(product, mode=mode)
        if level != "unknown":
            desk.level(level)
        answer = desk.ask(product, body(product))

        assert (answer.status_code, answer.json()) == (200, expected)


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


def test_hydra_without_claims_an_allowed_token_is_left_alone(make_desk: Any, body: Any, make_hook: Any) -> None:
    answer = make_desk(make_hook("hydra", claims=False)).ask("hydra", body("hydra_token"))

    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


def test_hydra_the_older_refresh_hook_is_understood(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("high", "app-client")

    assert desk.ask("hydra", body("hydra_refresh")).json()["reason"] == "refresh_refused"


def test_hydra_claims_of_the_session_survive_to_the_digit(make_desk: Any, body: Any) -> None:
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


def test_hydra_client_credentials_are_about_the_client(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("critical", "app-client")

    assert desk.ask("hydra", hydra_credentials(body)).status_code == 403
    (event,) = desk.events()
    assert event["agent"] == {"id": "app-client", "issuer": "https://as.example"}
    assert "principal" not in event


def test_hydra_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    desk.level("low", "app-client")
    desk.ask("hydra", body("hydra_token"))
    desk.level("critical", "app-client")
    desk.ask("hydra", hydra_credentials(body))

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


def test_hydra_assertions_are_kept_nowhere(make_desk: Any, body: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the JWT bearer grant Hydra sends the assertion along, a credential."""
    desk = make_desk("hydra")
    request = hydra_credentials(body)
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    request["request"]["payload"] = {"grant_type": [grant], "assertion": ["eyJ.very.secret"]}
    answer = desk.ask("hydra", request)
    broken = desk.ask("hydra", json.dumps(request).encode()[:-1])

    (event,) = desk.events()
    assert event["action"] == grant
    assert "very.secret" not in json.dumps(event) + answer.text + broken.text + "".join(capsys.readouterr())


def test_hydra_scopes_that_wait_for_a_person_can_not_be_left_out(make_desk: Any, body: Any) -> None:
    """At medium, write scopes need approval; Hydra can only deny the whole, and a person is asked."""
    desk = make_desk("hydra")
    desk.level("medium", "app-client")
    request = hydra_credentials(body)
    request["request"]["granted_scopes"] = ["read", "notes:write"]

    assert desk.ask("hydra", request).json()["reason"] == "scopes_not_narrowable"
    request["request"]["granted_scopes"] = ["read"]
    assert desk.ask("hydra", request).status_code == 200
    (asked,) = desk.asked()
    assert (asked.kind, asked.scopes, asked.asked_by) == ("approval", ("notes:write",), "hydra")


def test_hydra_a_refresh_is_one_however_the_client_writes_it(make_desk: Any, body: Any) -> None:
    """Hydra takes `refresh_token ` for a refresh, so it is one for the policy of `high`, too."""
    desk = make_desk("hydra")
    request = hydra_credentials(body)
    request["request"]["grant_types"] = ["refresh_token"]
    request["request"]["payload"] = {"grant_type": ["refresh_token "]}

    desk.ask("hydra", request)

    (event,) = desk.events()
    assert (event["type"], event["action"]) == ("token.refresh", "refresh_token")


def test_okta_a_token_that_is_short_already_is_never_made_longer(make_desk: Any, body: Any, make_hook: Any) -> None:
    request = body("okta")
    request["data"]["access"]["token"]["lifetime"]["expiration"] = 300

    assert make_desk(make_hook("okta", claims=False)).ask("okta", request).status_code == 204


def test_okta_what_may_not_live_for_300_s(make_desk: Any, body: Any, make_hook: Any) -> None:
    policies = {RiskLevel.HIGH: LevelTokenPolicy(True, 60, None, True, False, False)}
    desk = make_desk(make_hook("okta"), policies=policies)
    desk.level("high")

    assert desk.ask("okta", body("okta")).json() == okta_error("lifetime_not_supported")


def test_okta_scopes_that_wait_for_a_person_can_not_be_left_out(make_desk: Any, body: Any) -> None:
    desk = make_desk("okta")
    desk.level("medium")
    request = body("okta")
    request["data"]["access"]["scopes"]["payments:write"] = {"id": "s3", "action": "GRANT"}

    assert desk.ask("okta", request).json() == okta_error("scopes_not_narrowable")


def test_okta_a_claim_that_the_server_sets_already_is_replaced(make_desk: Any, body: Any) -> None:
    request = body("okta")
    request["data"]["access"]["claims"]["risk_level"] = "from the server's own rules"
    desk = make_desk("okta", mode="shadow")

    operations = desk.ask("okta", request).json()["commands"][0]["value"]
    assert [(one["op"], one["path"]) for one in operations] == [
        ("replace", "/claims/risk_level"),
        ("add", "/claims/policy_version"),
    ]


def test_okta_an_id_token_alone_is_left_alone(make_desk: Any, body: Any) -> None:
    request = body("okta")
    del request["data"]["access"]
    desk = make_desk("okta")

    assert desk.ask("okta", request).status_code == 204
    desk.level("critical")
    assert desk.ask("okta", request).json() == okta_error("risk_level")


def test_okta_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
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


def test_wso2_an_approval_lets_the_scope_through(make_desk: Any, body: Any) -> None:
    desk = make_desk("wso2")
    desk.level("medium")
    desk.ask("wso2", body("wso2"))
    (asked,) = desk.asked()
    desk.runner.run(
        desk.guard.approval_workflow.decide(asked, Attribution("ann", "month end"), approve=True, valid_s=600)
    )

    assert desk.ask("wso2", body("wso2")).json() == wso2_success(wso2_shorter(300), *wso2_claims("medium"))


def test_wso2_several_scopes_leave_from_the_end(make_desk: Any, body: Any) -> None:
    """So that every index is right, whether WSO2 counts in the list as it was or as it is by then."""
    desk = make_desk("wso2")
    desk.level("medium")
    request = body("wso2")
    request["event"]["accessToken"]["scopes"] = ["a:write", "read", "b:write", "a:write"]

    removed = [one["path"] for one in desk.ask("wso2", request).json()["operations"] if one["op"] == "remove"]
    assert removed == [f"/accessToken/scopes/{place}" for place in (3, 2, 0)]


@pytest.mark.parametrize(
    ("level", "operation", "path", "reason"),
    [
        ("medium", "remove", "/accessToken/scopes/", "scopes_not_narrowable"),
        ("low", "replace", ACCESS, "lifetime_not_supported"),
    ],
)
def test_wso2_what_is_not_allowed_to_be_changed_is_denied(
    make_desk: Any, body: Any, level: str, operation: str, path: str, reason: str
) -> None:
    """WSO2 ignores operations that it did not allow: the token would go out as it was."""
    desk = make_desk("wso2")
    desk.level(level)
    request = body("wso2")
    for allowed in request["allowedOperations"]:
        if allowed["op"] == operation:
            allowed["paths"].remove(path)

    assert desk.ask("wso2", request).json() == wso2_failed(reason)


def test_wso2_claims_stay_away_where_none_may_be_added(make_desk: Any, body: Any) -> None:
    request = body("wso2")
    request["allowedOperations"] = []

    assert make_desk("wso2", mode="shadow").ask("wso2", request).json() == wso2_success()


def test_wso2_a_claim_of_the_token_before_is_replaced(make_desk: Any, body: Any) -> None:
    """WSO2 keeps added claims for refreshed tokens, and adds none twice."""
    request = body("wso2")
    request["event"]["accessToken"]["claims"].append({"name": "risk_level", "value": "low"})
    request["allowedOperations"][2]["paths"].append("/accessToken/claims/risk_level")
    desk = make_desk("wso2", mode="shadow")

    assert desk.ask("wso2", request).json() == wso2_success(
        ("replace", "/accessToken/claims/risk_level", "unknown"), wso2_claims("")[1]
    )


def test_wso2_refresh_tokens_shrink_where_no_refresh_is_allowed(make_desk: Any, body: Any) -> None:
    """With high approved by a person, the access token lives for 60 s, and a refresh token for no longer."""
    desk = make_desk("wso2", policies={RiskLevel.HIGH: LevelTokenPolicy(True, 60, None, False, False, False)})
    desk.level("high")
    expected = wso2_success(wso2_shorter(60), ("replace", REFRESH, 60), *wso2_claims("high"))

    assert desk.ask("wso2", body("wso2")).json() == expected
    request = body("wso2")
    request["event"]["request"]["grantType"] = "refresh_token"
    assert desk.ask("wso2", request).json() == wso2_failed("refresh_refused")


def test_wso2_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
    desk = make_desk("wso2")
    desk.level("medium")
    desk.ask("wso2", body("wso2"))

    event = next(one for one in desk.events() if one["type"] == "token.request")
    assert event["scopes"] == {"requested": ["read", "write", "list"]}, "what we left out is not asked too much"
    assert event["attributes"]["granted"] == "read list"
    assert event["principal"] == {"id": "u-7", "type": "user"}
    assert event["resource"] == {"audience": "https://payments.example"}
    assert "credential" not in event, "a life that we shorten is no habit of the agent"
    assert event["attributes"]["token_lifetime_s"] == 300


def test_zitadel_without_claims_nothing_is_said(make_desk: Any, body: Any, make_hook: Any) -> None:
    assert make_desk(make_hook("zitadel", claims=False)).ask("zitadel", body("zitadel")).json() == {}


def test_zitadel_the_agent_is_where_the_settings_say(make_desk: Any, body: Any, make_hook: Any) -> None:
    desk = make_desk(make_hook("zitadel", agent="user.username"))
    desk.level("critical", "payments-bot")

    assert desk.ask("zitadel", body("zitadel")).json() == zitadel_denied("risk_level")


def test_zitadel_a_signature_is_of_body_time_and_key(make_desk: Any, body: Any) -> None:
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


def test_zitadel_a_key_is_changed_with_two_signatures(make_desk: Any, body: Any) -> None:
    """ZITADEL signs with the old and the new key; one that fits is enough, at any time within the tolerance."""
    desk = make_desk("zitadel")
    content = json.dumps(body("zitadel")).encode()
    for at_s in (desk.now - 300, desk.now + 300):
        stamp, _, right = desk.signature(content, at_s).partition(",")
        given = f"{stamp},v1={'0' * 64},{right.upper().replace('V1', 'v1')}"

        assert desk.ask("zitadel", content, zitadel_signature=given).status_code == 200
