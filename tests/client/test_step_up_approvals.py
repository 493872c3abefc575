"""Step-ups pass after a person's approval or a recent log-in in the token; a failure is not an approval."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from trustwatch_client import (
    Approvals,
    Caller,
    Challenge,
    ClientCredentials,
    ClientSecret,
    Guard,
    TokenPolicy,
    judge,
    shown_by_token,
)

from ..support.client_doubles import ALL, DENY, WRITES, Clock, Reply, Request, Scripted, ScriptedAnswer, answer

BOT = Caller(agent_id="https://agents.example/7?a=b", tenant="acme", issuer="https://as.example")


def token() -> str:
    return "a token"


def ask(approvals: Approvals, *callers: Caller) -> list[tuple[str, ...]]:
    async def work() -> list[tuple[str, ...]]:
        found = [await approvals(caller) for caller in callers]
        await approvals.close()
        return found

    return asyncio.run(work())


def page(*scopes: list[str]) -> Reply:
    return Reply(200, {"items": [{"intervention_id": "1", "scopes": one} for one in scopes], "next_cursor": None})


def test_what_persons_approved_for_this_agent(server: Scripted) -> None:
    server.answer = lambda request: page(["a:write"], ["b:*"])

    assert ask(Approvals(server.url, token), BOT, BOT) == [("a:write", "b:*")] * 2

    (request,) = server.requests
    path = urlsplit(request.path)
    assert path.path == "/v1/interventions"
    assert parse_qs(path.query) == {
        "kind": ["approval"],
        "status": ["approved"],
        "agent_id": [BOT.agent_id],
        "tenant": ["acme"],
        "issuer": ["https://as.example"],
        "limit": ["500"],
    }
    assert request.headers["authorization"] == "Bearer a token"


def test_they_are_remembered_for_a_moment_and_apart(server: Scripted, clock: Clock) -> None:
    server.then(page(["a"]), page(["b"]), page([]))

    async def work() -> list[tuple[str, ...]]:
        approvals = Approvals(server.url, token, clock=clock, cache_s=1.0)
        found = [await approvals(BOT), await approvals(Caller(agent_id="other")), await approvals(BOT)]
        clock.now = 1.5
        found.append(await approvals(BOT))
        await approvals.close()
        return found

    assert asyncio.run(work()) == [("a",), ("b",), ("a",), ()]


@pytest.mark.parametrize(
    "reply", [Reply(500), Reply(403), Reply(200, b"<html>"), Reply(200, {"items": [{"scopes": "a"}]}), Reply(302)]
)
def test_what_is_no_answer_is_no_approval(server: Scripted, reply: Reply) -> None:
    server.answer = lambda request: reply

    assert ask(Approvals(server.url, token), BOT) == [()]


def test_a_token_that_the_service_refuses_is_not_shown_again(server: Scripted, clock: Clock) -> None:
    granted = iter(range(10))
    credentials = ClientCredentials(f"{server.url}/token", "gateway", ClientSecret("s"))

    def reply(request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, {"access_token": f"token-{next(granted)}", "token_type": "Bearer", "expires_in": 300})
        return page(["a"]) if request.headers["authorization"] == "Bearer token-1" else Reply(401)

    server.answer = reply

    assert ask(Approvals(server.url, credentials, clock=clock, cache_s=0.0), BOT, BOT) == [(), ("a",)]


def test_nobody_there_or_too_late_is_no_approval(server: Scripted) -> None:
    server.answer = lambda request: page(["*"])._replace(wait_s=0.5)

    assert ask(Approvals(server.url, token, timeout_s=0.1), BOT) == [()]
    assert ask(Approvals("http://127.0.0.1:9", token), BOT) == [()]


@pytest.mark.parametrize(
    ("policy", "effect", "needed", "approved", "action"),
    [
        (ALL, "write", None, ("*",), "allow"),
        (ALL, "read", None, ("a:*",), "step_up"),
        (ALL, "write", ("a:write",), ("a:write",), "allow"),
        (ALL, "write", ("a:write",), ("a:*",), "step_up"),
        (ALL, "write", ("a:write", "b"), ("a:write",), "step_up"),
        (WRITES, "write", None, ("*write*", "*delete*"), "allow"),
        (WRITES, "write", None, ("*write*",), "step_up"),
        (WRITES, "write", ("a:write", "b:read"), ("a:write",), "allow"),
        (DENY, "read", None, ("*",), "deny"),
    ],
)
def test_what_is_approved_passes_and_nothing_else(
    policy: TokenPolicy, effect: Any, needed: Any, approved: tuple[str, ...], action: str
) -> None:
    assert judge(answer(policy), effect, needed, approved).action == action


NOW = 1_000.0


@pytest.mark.parametrize(
    ("challenge", "acr", "auth_time", "shown"),
    [
        (Challenge(), "mfa", NOW, False),
        (Challenge(acr_values="mfa pwd+"), "mfa", None, True),
        (Challenge(acr_values="mfa"), None, NOW, False),
        (Challenge(acr_values="mfa"), "mf", NOW, False),
        (Challenge(max_age_s=60), None, NOW - 59, True),
        (Challenge(max_age_s=60), None, NOW - 61, False),
        (Challenge(max_age_s=60), None, None, False),
        (Challenge(acr_values="mfa", max_age_s=60), "mfa", NOW - 61, False),
        (Challenge(acr_values="mfa", max_age_s=60), "mfa", NOW - 1, True),
    ],
)
def test_a_token_shows_what_the_challenge_asked_for(
    challenge: Challenge, acr: str | None, auth_time: float | None, shown: bool, clock: Clock
) -> None:
    clock.start = NOW
    caller = Caller(agent_id="bot", acr=acr, auth_time=auth_time)

    assert shown_by_token(challenge, clock)(caller) == (("*",) if shown else ())


def test_the_guard_asks_only_when_a_person_is_wanted_and_survives_a_failure() -> None:
    asked = []

    def approved(caller: Caller) -> tuple[str, ...]:
        asked.append(caller.agent_id)
        return ("*",)

    def broken(_: Caller) -> tuple[str, ...]:
        raise RuntimeError("no such luck")

    def ruling(policy: TokenPolicy, by: Any, mode: str = "enforce") -> str:
        return asyncio.run(Guard(ScriptedAnswer(policy, mode), None, by).evaluate(BOT, "write")).action

    assert [ruling(ALL, approved), ruling(DENY, approved), ruling(ALL, approved, "shadow")] == [
        "allow",
        "deny",
        "allow",
    ]
    assert asked == [BOT.agent_id]
    assert [ruling(ALL, broken), ruling(ALL, None)] == ["step_up", "step_up"]
