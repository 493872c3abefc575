"""WSO2's pre-issue access token action: operations within `allowedOperations`, or FAILED."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.http.separation_of_duties import Attribution
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel

ACCESS, REFRESH = "/accessToken/claims/expires_in", "/refreshToken/claims/expires_in"


def success(*operations: tuple[str, str, Any]) -> dict[str, Any]:
    made = [{"op": op, "path": path} | ({} if value is None else {"value": value}) for op, path, value in operations]
    return {"actionStatus": "SUCCESS", "operations": made}


def claims(level: str) -> tuple[tuple[str, str, Any], ...]:
    named = (("risk_level", level), ("policy_version", "3"))
    return tuple(("add", "/accessToken/claims/-", {"name": name, "value": value}) for name, value in named)


def failed(reason: str) -> dict[str, Any]:
    return {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": reason}


def shorter(seconds: int) -> tuple[str, str, Any]:
    return ("replace", ACCESS, seconds)


@pytest.mark.parametrize(
    ("level", "enforced"),
    [
        ("unknown", success(shorter(300), *claims("unknown"))),
        ("low", success(shorter(900), *claims("low"))),
        ("medium", success(shorter(300), ("remove", "/accessToken/scopes/1", None), *claims("medium"))),
        ("high", failed("step_up_required")),
        ("critical", failed("risk_level")),
    ],
)
def test_every_level(make_desk: Any, body: Any, level: str, enforced: dict[str, Any]) -> None:
    for mode, expected in (("enforce", enforced), ("shadow", success(*claims(level)))):
        desk = make_desk("wso2", mode=mode)
        if level != "unknown":
            desk.level(level)
        answer = desk.ask("wso2", body("wso2"))

        assert (answer.status_code, answer.json()) == (200, expected)


def test_an_approval_lets_the_scope_through(make_desk: Any, body: Any) -> None:
    desk = make_desk("wso2")
    desk.level("medium")
    desk.ask("wso2", body("wso2"))
    (asked,) = desk.asked()
    desk.runner.run(
        desk.guard.approval_workflow.decide(asked, Attribution("ann", "month end"), approve=True, valid_s=600)
    )

    assert desk.ask("wso2", body("wso2")).json() == success(shorter(300), *claims("medium"))


def test_several_scopes_leave_from_the_end(make_desk: Any, body: Any) -> None:
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
def test_what_is_not_allowed_to_be_changed_is_denied(
    make_desk: Any, body: Any, level: str, operation: str, path: str, reason: str
) -> None:
    """WSO2 ignores operations that it did not allow: the token would go out as it was."""
    desk = make_desk("wso2")
    desk.level(level)
    request = body("wso2")
    for allowed in request["allowedOperations"]:
        if allowed["op"] == operation:
            allowed["paths"].remove(path)

    assert desk.ask("wso2", request).json() == failed(reason)


def test_claims_stay_away_where_none_may_be_added(make_desk: Any, body: Any) -> None:
    request = body("wso2")
    request["allowedOperations"] = []

    assert make_desk("wso2", mode="shadow").ask("wso2", request).json() == success()


def test_a_claim_of_the_token_before_is_replaced(make_desk: Any, body: Any) -> None:
    """WSO2 keeps added claims for refreshed tokens, and adds none twice."""
    request = body("wso2")
    request["event"]["accessToken"]["claims"].append({"name": "risk_level", "value": "low"})
    request["allowedOperations"][2]["paths"].append("/accessToken/claims/risk_level")
    desk = make_desk("wso2", mode="shadow")

    assert desk.ask("wso2", request).json() == success(
        ("replace", "/accessToken/claims/risk_level", "unknown"), claims("")[1]
    )


def test_refresh_tokens_shrink_where_no_refresh_is_allowed(make_desk: Any, body: Any) -> None:
    """With high approved by a person, the access token lives for 60 s, and a refresh token for no longer."""
    desk = make_desk("wso2", policies={RiskLevel.HIGH: LevelTokenPolicy(True, 60, None, False, False, False)})
    desk.level("high")
    expected = success(shorter(60), ("replace", REFRESH, 60), *claims("high"))

    assert desk.ask("wso2", body("wso2")).json() == expected
    request = body("wso2")
    request["event"]["request"]["grantType"] = "refresh_token"
    assert desk.ask("wso2", request).json() == failed("refresh_refused")


def test_a_call_is_an_audit_event(make_desk: Any, body: Any) -> None:
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
