"""Every verdict, as gateways are told it: by the agent's level, the method and the scopes of the token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from trustwatch.api.access import approval_workflow
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel

LOW, UNKNOWN, MEDIUM = RiskLevel.LOW, RiskLevel.UNKNOWN, RiskLevel.MEDIUM
HIGH, CRITICAL = RiskLevel.HIGH, RiskLevel.CRITICAL
ALLOW, STEP_UP, DENY = "allow", "step_up", "deny"
READ, WRITE, BOTH, NONE = "tools:read", "tools:write", "tools:read tools:write", None

EXPECTED = [
    *(
        (level, scope, method, ALLOW)
        for level in (LOW, UNKNOWN)
        for scope in (READ, BOTH)
        for method in ("GET", "POST")
    ),
    # medium: write scopes wait for a person; a safe method needs none of them while another scope is left
    (MEDIUM, READ, "GET", ALLOW),
    (MEDIUM, READ, "POST", ALLOW),
    (MEDIUM, BOTH, "GET", ALLOW),
    (MEDIUM, BOTH, "HEAD", ALLOW),
    (MEDIUM, BOTH, "OPTIONS", ALLOW),
    (MEDIUM, BOTH, "POST", STEP_UP),
    (MEDIUM, BOTH, "DELETE", STEP_UP),
    (MEDIUM, BOTH, "PURGE", STEP_UP),
    (MEDIUM, WRITE, "GET", STEP_UP),
    (MEDIUM, WRITE, "POST", STEP_UP),
    (MEDIUM, NONE, "GET", ALLOW),
    (MEDIUM, NONE, "POST", STEP_UP),
    # high: every call does
    *((HIGH, scope, method, STEP_UP) for scope in (READ, BOTH, NONE) for method in ("GET", "POST")),
    *((CRITICAL, scope, method, DENY) for scope in (READ, BOTH, NONE) for method in ("GET", "POST", "HEAD")),
]


def told(answer: Any) -> str:
    if answer.status_code == 200:
        assert answer.content == b""
        assert "www-authenticate" not in answer.headers
        return ALLOW
    if answer.status_code == 401:
        assert 'error="insufficient_user_authentication"' in answer.headers["www-authenticate"]
        return STEP_UP
    assert answer.status_code == 403
    assert "www-authenticate" not in answer.headers
    return DENY


@pytest.mark.parametrize(("level", "scope", "method", "expected"), EXPECTED)
def test_every_verdict(desk: Any, level: RiskLevel, scope: str | None, method: str, expected: str) -> None:
    desk.agent("bot", level)
    token = desk.issuer.token(scope=scope)

    assert told(desk.envoy(token, method)) == expected
    assert told(desk.forward(token, method)) == expected


@pytest.mark.parametrize("method", ["", "G E T", "GET\x00", "x" * 33])
def test_a_method_that_is_not_known_is_not_safe(desk: Any, method: str) -> None:
    desk.agent("bot", MEDIUM)

    assert told(desk.forward(desk.issuer.token(scope=BOTH), method)) == STEP_UP


def test_a_method_that_is_told_twice_is_not_known(desk: Any) -> None:
    desk.agent("bot", MEDIUM)
    headers = [("authorization", f"Bearer {desk.issuer.token(scope=BOTH)}")]
    once, other = ("x-forwarded-method", "GET"), ("x-forwarded-method", "POST")

    assert told(desk.send("GET", "/forward-auth", [*headers, once])) == ALLOW
    for more in ([once, other], [once, once], [once, other, ("x-original-method", "GET")]):
        assert told(desk.send("GET", "/forward-auth", [*headers, *more])) == STEP_UP


@pytest.mark.parametrize("original", ["POST", "DELETE", "", "get"])
@pytest.mark.parametrize("turned", [False, True])
def test_products_headers_that_differ_are_no_known_method(desk: Any, original: str, turned: bool) -> None:
    """A gateway sets one of them, and hands on what the agent wrote into the other."""
    desk.agent("bot", MEDIUM)
    both = [("x-forwarded-method", "GET"), ("x-original-method", original)]
    sent = [("authorization", f"Bearer {desk.issuer.token(scope=BOTH)}"), *(reversed(both) if turned else both)]

    assert told(desk.send("GET", "/forward-auth", sent)) == STEP_UP
    agreed = [*sent[:1], ("x-forwarded-method", "GET"), ("x-original-method", "GET")]
    assert told(desk.send("GET", "/forward-auth", agreed)) == ALLOW


def test_envoy_is_asked_for_the_method_itself(desk: Any) -> None:
    """What a client writes into the headers of other products means nothing there."""
    desk.agent("bot", MEDIUM)

    answer = desk.envoy(desk.issuer.token(scope=BOTH), "POST", headers={"x-forwarded-method": "GET"})

    assert told(answer) == STEP_UP


def test_safe_methods_are_the_operators(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(safe_methods=())
    desk.agent("bot", MEDIUM)

    assert told(desk.envoy(desk.issuer.token(scope=BOTH), "GET")) == STEP_UP


def test_scopes_that_a_level_does_not_get_spoil_the_token(new_desk: Callable[..., Any]) -> None:
    """A gateway cannot take them away, so the agent needs another token, whatever the method."""
    desk = new_desk(table={MEDIUM: LevelTokenPolicy(True, 300, ("*:read",), True, False, False)})
    desk.agent("bot", MEDIUM)

    assert told(desk.envoy(desk.issuer.token(scope=READ), "POST")) == ALLOW
    assert [told(desk.envoy(desk.issuer.token(scope=BOTH), method)) for method in ("GET", "POST")] == [DENY, DENY]
    assert desk.asked() == []


def test_a_person_is_asked_only_when_a_call_is_held(desk: Any) -> None:
    """Once for many calls, for the scopes that wait; an approval lets the same token pass, and its end holds it."""
    desk.agent("bot", MEDIUM)
    token = desk.issuer.token(scope=BOTH)
    assert told(desk.envoy(token, "GET")) == ALLOW
    assert desk.asked() == []

    assert [told(desk.envoy(token, "POST")) for _ in range(3)] == [STEP_UP] * 3
    (asked,) = desk.asked()
    assert (asked.scopes, asked.asked_by, asked.agent.agent_id) == (("tools:write",), "ext_authz", "bot")

    from trustwatch.api.http.separation_of_duties import Attribution

    desk.run(desk.guard.approval_workflow.decide(asked, Attribution("ada", "known job"), approve=True, valid_s=60.0))
    assert told(desk.envoy(token, "POST")) == ALLOW
    desk.now += 61
    assert told(desk.envoy(token, "POST")) == STEP_UP


def test_a_gateway_may_have_so_many_persons_asked(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all agents whose tokens one issuer signed: calls are held all the same, and it is counted."""
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_TENANT", 2)
    for number in range(4):
        desk.agent(f"bot-{number}", MEDIUM)
        assert told(desk.envoy(desk.issuer.token(f"bot-{number}", scope=BOTH), "POST")) == STEP_UP

    assert len(desk.asked()) == 2
    assert 'trustwatch_approvals_failed_total{what="unasked"} 2.0' in desk.metrics()


def test_nothing_is_refused_in_shadow_mode(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(mode="shadow", record="all")
    for agent, level in (("held", MEDIUM), ("high", HIGH), ("critical", CRITICAL)):
        desk.agent(agent, level)
        assert told(desk.envoy(desk.issuer.token(agent, scope=BOTH), "POST")) == ALLOW

    metrics = desk.metrics()
    for level, reason in (("medium", "step_up_required"), ("high", "step_up_required"), ("critical", "risk_level")):
        line = f'trustwatch_verdicts_total{{level="{level}",mode="shadow",reason="{reason}",via="ext_authz"}} 1.0'
        assert line in metrics
    assert desk.asked() == []
    assert {event["outcome"] for event in desk.events()} == {"success"}


def test_a_live_token_is_refused_at_the_very_next_call(desk: Any) -> None:
    """The token is remembered, the answer is not; other agents are as they were."""
    desk.agent("bot", LOW)
    desk.agent("twin", LOW)
    mine, twins = desk.issuer.token("bot"), desk.issuer.token("twin")
    assert [told(desk.envoy(token)) for token in (mine, twins, mine)] == [ALLOW] * 3

    desk.agent("bot", CRITICAL)

    assert [told(desk.envoy(token)) for token in (mine, twins)] == [DENY, ALLOW]
    assert told(desk.forward(mine)) == DENY
    desk.agent("bot", LOW)
    assert told(desk.envoy(mine)) == ALLOW


def test_stale_risk_is_used_or_denied(new_desk: Callable[..., Any]) -> None:
    for on_stale, expected in (("use", ALLOW), ("deny", DENY)):
        desk = new_desk(on_stale=on_stale)
        desk.agent("bot", LOW)
        token = desk.issuer.token(exp=int(desk.now) + 9000)
        assert told(desk.envoy(token)) == ALLOW
        desk.now += desk.settings.risk.staleness_s + 1

        assert told(desk.envoy(token)) == expected


@pytest.mark.parametrize(
    ("claims", "agent"),
    [
        ({"act": {"sub": "actor"}}, "actor"),
        ({"act": {"sub": "actor", "act": {"sub": "earlier"}}}, "actor"),
        ({"client_id": "client"}, "client"),
        ({"client_id": None, "azp": "client"}, "client"),
        ({"client_id": None, "cid": "client"}, "client"),
        ({"client_id": None}, "subject"),
    ],
)
def test_the_current_actor_decides(desk: Any, claims: dict[str, Any], agent: str) -> None:
    """`act.sub`, then the client, then the subject; all others are as good as absent."""
    for other in {"actor", "earlier", "client", "subject", "bot"} - {agent}:
        desk.agent(other, CRITICAL)
    token = desk.issuer.token(**{"sub": "subject", "client_id": "bot"} | claims)
    assert told(desk.envoy(token)) == ALLOW

    desk.agent(agent, CRITICAL)
    assert told(desk.envoy(token)) == DENY


def test_the_tenant_is_the_claims_or_the_issuers(new_desk: Callable[..., Any], issuer: Any) -> None:
    desk = new_desk(issuer.settings(tenant_claim="organization_id"))
    desk.agent("bot", CRITICAL, tenant="acme")

    assert told(desk.envoy(issuer.token())) == DENY
    assert told(desk.envoy(issuer.token(organization_id="acme"))) == DENY
    assert told(desk.envoy(issuer.token(organization_id="globex"))) == ALLOW
    for wrong in ("", 7, ["acme"], "x" * 2049):
        assert desk.envoy(issuer.token(organization_id=wrong)).status_code == 401


def test_the_issuer_of_events_may_have_another_name(new_desk: Callable[..., Any], issuer: Any) -> None:
    desk = new_desk(issuer.settings(agent_issuer="https://inside.example"))
    desk.agent("bot", CRITICAL, issuer="https://inside.example")

    assert told(desk.envoy(issuer.token())) == DENY


def test_the_level_is_told_upstream_only_where_configured(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(risk_header="X-Risk-Level")
    assert desk.envoy(desk.issuer.token()).headers["x-risk-level"] == "unknown"
    desk.agent("bot", MEDIUM)
    assert desk.forward(desk.issuer.token()).headers["x-risk-level"] == "medium"
    desk.agent("bot", CRITICAL)
    assert "x-risk-level" not in desk.envoy(desk.issuer.token()).headers
    assert "x-risk-level" not in desk.envoy("bad").headers

    assert "x-risk-level" not in new_desk().envoy(desk.issuer.token()).headers


def test_the_log_tells_why_a_token_is_not_accepted(desk: Any) -> None:
    """Else wrong settings of issuers would be refusals of all calls without a reason; a missing token is no line."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        desk.envoy("no.jwt.this", headers={"x-request-id": "call-2"})
    (told,) = [line for line in lines if line["event"] == "a token is not accepted"]
    assert (told["via"], told["request_id"], told["why"]) == ("ext_authz", "call-2", "the token is not a signed JWT")
    assert "no.jwt" not in str(lines)


def test_the_log_tells_each_call_that_is_refused(desk: Any) -> None:
    """With the id that the answer has; allowed calls are no line, a flood of refusals is bounded."""
    desk.agent("bot", RiskLevel.CRITICAL)
    desk.agent("calm", RiskLevel.LOW)
    with capture_logs(processors=[merge_contextvars]) as lines:
        desk.envoy(desk.issuer.token("calm"))
        refused = desk.envoy(desk.issuer.token(), headers={"x-request-id": "call-1"})
        for _ in range(50):
            desk.forward(desk.issuer.token())
    calls = [line for line in lines if line["event"] == "call refused"]

    assert (calls[0]["agent_id"], calls[0]["via"], calls[0]["risk_level"]) == ("bot", "ext_authz", "critical")
    assert calls[0]["request_id"] == refused.headers["x-request-id"] == refused.json()["request_id"] == "call-1"
    assert 1 < len(calls) < 51
    assert {line["agent_id"] for line in calls} == {"bot"}
