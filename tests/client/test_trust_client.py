"""Look-up: cache, single flight, budget, fail modes. Every test runs with the sync and the async client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from trustwatch_client import Question, RiskSettings, TokenPolicy, TrustClient, TrustUnavailable

from ..support.client_doubles import Clock, Reply, Scripted, risk

Make = Callable[..., Any]


def token() -> str:
    return "a token"


def settings(**more: Any) -> RiskSettings:
    return RiskSettings(**{"fail_mode": "closed", "budget_s": 5.0, "pause_s": 0.0, **more})


def test_an_answer_is_what_the_service_said(server: Scripted, make_client: Make) -> None:
    server.answer = lambda request: Reply(
        200,
        {
            "answers": [
                risk("bot", "acme", "https://as.example", level="high", allowed_scopes=["a:read"], new_member=[1])
            ]
        },
    )

    answer = make_client(server.url, token, settings()).risk("bot", tenant="acme", issuer="https://as.example")

    assert (answer.risk_level, answer.source, answer.stale) == ("high", "service", False)
    assert answer.token_policy == TokenPolicy(True, 300, ("a:read",), True, False, False)
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer a token"
    assert request.json == {"agents": [{"agent_id": "bot", "tenant": "acme", "issuer": "https://as.example"}]}


def test_the_cache_gives_it_again_for_a_while(server: Scripted, make_client: Make, clock: Clock) -> None:
    client = make_client(server.url, token, settings(cache_s=1.0), clock=clock)

    first = client.risk("bot")
    clock.now = 0.9
    second = client.risk("bot")
    clock.now = 1.1
    third = client.risk("bot")

    assert [one.source for one in (first, second, third)] == ["service", "cache", "service"]
    assert second.age_s == pytest.approx(0.9)
    assert len(server.requests) == 2


def test_tenants_and_issuers_are_kept_apart(server: Scripted, make_client: Make, clock: Clock) -> None:
    client = make_client(server.url, token, settings(), clock=clock)

    found = [client.risk("bot", tenant=name).source for name in ("a", "b", "a")]

    assert found == ["service", "service", "cache"]


def test_the_cache_keeps_nothing_past_its_end(server: Scripted, make_client: Make, clock: Clock) -> None:
    ends = clock.start + 2.0
    server.answer = lambda request: Reply(200, {"answers": [risk("bot", expires_in_s=ends - time.time())]})
    client = make_client(server.url, token, settings(cache_s=60.0), clock=clock)

    client.risk("bot")
    clock.now = 1.5
    assert client.risk("bot").source == "cache"
    clock.now = 3.0

    assert client.risk("bot").source == "service"


def test_stale_answers_are_given_and_not_kept_unless_they_count_as_none(server: Scripted, make_client: Make) -> None:
    server.answer = lambda request: Reply(200, {"answers": [risk("bot", stale=True)]})
    client = make_client(server.url, token, settings())

    assert [client.risk("bot").stale for _ in range(2)] == [True, True]
    assert (len(server.requests), client.counts()["stale"]) == (2, 2)
    with pytest.raises(TrustUnavailable) as raised:
        make_client(server.url, token, settings(accept_stale=False)).risk("bot")
    assert raised.value.cause == "stale"


def test_the_cache_is_bounded(server: Scripted, make_client: Make, clock: Clock) -> None:
    client = make_client(server.url, token, settings(cache_size=2), clock=clock)

    for name in ("a", "b", "a", "c"):
        client.risk(name)

    assert [client.risk(name).source for name in ("a", "c")] == ["cache", "cache"]
    assert client.risk("b").source == "service"


def test_many_who_ask_are_one_request(server: Scripted, make_client: Make) -> None:
    calm = server.calm
    server.answer = lambda request: calm(request)._replace(wait_s=0.8)
    client = make_client(server.url, token, settings(cache_s=0.0))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.risk("bot"), range(8)))

    assert {one.agent_id for one in answers} == {"bot"}
    assert (len(server.requests), client.counts()["joined"]) == (1, 7)


def test_the_budget_holds_and_a_late_answer_is_kept(server: Scripted, make_client: Make) -> None:
    calm = server.calm
    server.answer = lambda request: calm(request)._replace(wait_s=0.5)
    client = make_client(server.url, token, settings(fail_mode="open", budget_s=0.05, cache_s=60.0))

    began = time.monotonic()
    answer = client.risk("bot")
    took = time.monotonic() - began

    assert (answer.source, answer.risk_level) == ("fail_open", "unknown")
    assert took < 0.4
    deadline = time.monotonic() + 5.0
    while (late := client.risk("bot")).source != "cache" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert late.risk_level == "low"
    assert len(server.requests) == 1
    assert client.counts()["cause_timeout"] >= 1


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(500), "server_error"),
        (Reply(503, {"code": "unavailable"}), "server_error"),
        (Reply(429), "throttled"),
        (Reply(403, {"code": "insufficient_scope"}), "refused"),
        (Reply(200, b"<html>"), "malformed"),
        (Reply(200, {"answers": []}), "malformed"),
        (Reply(200, {"answers": [{"agent_id": "bot"}]}), "malformed"),
        (Reply(200, {"answers": [risk("bot", level="purple")]}), "malformed"),
        (Reply(200, b"\xff\xfe"), "malformed"),
    ],
)
def test_whatever_is_no_answer_meets_the_fail_mode(
    server: Scripted, make_client: Make, reply: Reply, cause: str
) -> None:
    server.answer = lambda request: reply
    closed = make_client(server.url, token, settings(fail_mode="closed"))
    opened = make_client(server.url, token, settings(fail_mode="open"))

    with pytest.raises(TrustUnavailable) as raised:
        closed.risk("bot")
    answer = opened.risk("bot")

    assert (raised.value.cause, raised.value.agents) == (cause, ("bot",))
    assert (answer.source, answer.risk_level, answer.confidence, answer.stale) == ("fail_open", "unknown", 0.0, True)
    assert answer.token_policy == TokenPolicy(True, 300, None, True, False, False)
    assert closed.counts()["fail_closed"] == opened.counts()["fail_open"] == 1
    assert closed.counts()[f"cause_{cause}"] == 1


def test_a_connection_that_the_service_closed_is_replaced_once(server: Scripted, make_client: Make) -> None:
    client = make_client(server.url, token, settings(cache_s=0.0))
    client.risk("bot")
    server.then(Reply(0))
    assert client.risk("bot").source == "service"
    server.then(Reply(0), Reply(0))

    with pytest.raises(TrustUnavailable) as raised:
        client.risk("bot")

    assert (raised.value.cause, len(server.requests)) == ("network", 5)


def test_last_known_until_it_is_too_old(server: Scripted, make_client: Make, clock: Clock) -> None:
    server.answer = lambda request: Reply(500)
    server.then(Reply(200, {"answers": [risk("bot", level="critical", allow=False)]}))
    client = make_client(server.url, token, settings(fail_mode="last_known", last_known_s=100.0), clock=clock)

    assert client.risk("bot").source == "service"
    clock.now = 99.0
    known = client.risk("bot")
    clock.now = 101.0
    with pytest.raises(TrustUnavailable):
        client.risk("bot")

    assert (known.source, known.risk_level, known.token_policy.allow) == ("last_known", "critical", False)
    assert known.age_s == pytest.approx(99.0)
    assert (client.counts()["last_known"], client.counts()["fail_closed"]) == (1, 1)


def test_without_a_last_known_answer_as_settings_say(server: Scripted, make_client: Make) -> None:
    server.answer = lambda request: Reply(500)
    policy = TokenPolicy(True, 10, None, False, False, False)
    more = {"fail_mode": "last_known", "without_last_known": "open", "unknown_policy": policy}

    answer = make_client(server.url, token, settings(**more)).risk("bot")

    assert (answer.source, answer.token_policy) == ("fail_open", policy)


def test_after_a_failure_nobody_asks_for_a_moment(server: Scripted, make_client: Make, clock: Clock) -> None:
    server.then(Reply(429, headers={"Retry-After": "7"}))
    client = make_client(server.url, token, settings(fail_mode="open", pause_s=0.5), clock=clock)

    sources = []
    for now in (0.0, 6.9, 7.1):
        clock.now = now
        sources.append(client.risk("bot").source)

    assert sources == ["fail_open", "fail_open", "service"]
    assert len(server.requests) == 2
    assert client.counts()["cause_paused"] == 1


def test_a_batch_keeps_its_order(server: Scripted, make_client: Make, clock: Clock) -> None:
    client = make_client(server.url, token, settings(max_in_flight=2_000), clock=clock)
    client.risk("agent-7")
    names = [f"agent-{number % 1_200}" for number in range(1_300)]

    answers = client.query([Question(name) for name in names])

    assert [one.agent_id for one in answers] == names
    assert sorted(len(request.json["agents"]) for request in server.requests) == [1, 199, 1_000]


def test_one_that_can_not_be_answered_spoils_no_other(server: Scripted, make_client: Make, clock: Clock) -> None:
    problem = {"type": "t", "title": "t", "status": 409, "detail": "two of them", "code": "ambiguous_agent"}
    server.answer = lambda request: Reply(
        200, {"answers": [risk("a"), {"agent_id": "b", "problem": problem}][: len(request.json["agents"])]}
    )
    opened = make_client(server.url, token, settings(fail_mode="open"), clock=clock)
    closed = make_client(server.url, token, settings(), clock=clock)

    assert [one.source for one in opened.query([Question("a"), Question("b")])] == ["service", "fail_open"]
    with pytest.raises(TrustUnavailable, match="ambiguous_agent") as raised:
        closed.query([Question("a"), Question("b")])
    assert raised.value.agents == ("b",)
    assert closed.risk("a").source == "cache"


def test_too_many_at_once_are_refused(server: Scripted, make_client: Make) -> None:
    client = make_client(server.url, token, settings(fail_mode="open", max_in_flight=2))

    answers = client.query([Question(name) for name in "abc"])

    assert {one.source for one in answers} == {"fail_open"}
    assert (server.requests, client.counts()["cause_busy"]) == ([], 3)


@pytest.mark.parametrize("agent", ["", "x" * 2_049, "lone \ud800 surrogate"])
def test_a_question_that_nobody_can_read_is_not_asked(
    server: Scripted, make_client: Make, clock: Clock, agent: str
) -> None:
    client = make_client(server.url, token, settings(fail_mode="open", pause_s=60.0), clock=clock)

    assert [one.source for one in client.query([Question(agent), Question("bot")])] == ["fail_open", "service"]
    assert client.risk("other").source == "service"


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_refused_question_pauses_nobody(server: Scripted, make_client: Make, clock: Clock, status: int) -> None:
    server.then(Reply(status))
    client = make_client(server.url, token, settings(fail_mode="open", pause_s=60.0), clock=clock)

    assert [client.risk(name).source for name in ("odd", "bot")] == ["fail_open", "service"]


def test_what_waits_in_line_is_dropped_once_the_service_fails(server: Scripted) -> None:
    server.answer = lambda request: Reply(500, wait_s=0.3)
    more = settings(fail_mode="open", budget_s=0.01, pause_s=60.0, workers=1)
    with TrustClient(server.url, token, more) as client:
        for number in range(30):
            assert client.risk(f"agent-{number}").source == "fail_open"
        time.sleep(1.0)

        assert len(server.requests) == 1
        assert client.risk("late").source == "fail_open"
        assert client.counts()["cause_paused"] >= 1


@pytest.mark.parametrize("status", [401, 421])
def test_a_refused_token_is_replaced_once(server: Scripted, make_client: Make, status: int) -> None:
    given = iter(["old", "new"])
    server.then(Reply(status, {"code": "invalid_token"}))

    answer = make_client(server.url, lambda: next(given), settings()).risk("bot")

    assert answer.source == "service"
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer old", "Bearer new"]


def test_a_token_callable_that_breaks_meets_the_fail_mode(server: Scripted, make_client: Make) -> None:
    def broken() -> str:
        raise RuntimeError("the vault is sealed")

    client = make_client(server.url, broken, settings())

    with pytest.raises(TrustUnavailable) as raised:
        client.risk("bot")

    assert (raised.value.cause, server.requests) == ("token", [])
    assert "sealed" not in str(raised.value)


def test_check_tells_at_start_what_open_would_hide(server: Scripted, make_client: Make) -> None:
    client = make_client(server.url, token, settings(fail_mode="open"))
    client.check()
    server.answer = lambda request: Reply(403, {"code": "tenant_not_allowed"})

    with pytest.raises(TrustUnavailable, match="tenant_not_allowed"):
        client.check()

    assert server.requests[0].json == {"agents": []}


def test_one_warning_for_one_outage(server: Scripted, make_client: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(server.url, token, settings(fail_mode="open", cache_s=0.0))
    for replies in ([Reply(500)] * 5, [Reply(500)]):
        server.then(*replies)
        for _ in range(len(replies) + 1):
            client.risk("bot")

    assert [record.message.count("server_error") for record in caplog.records if "no risk" in record.message] == [1, 1]


def test_closing_ends_what_is_on_its_way(server: Scripted, make_client: Make) -> None:
    calm = server.calm
    server.answer = lambda request: calm(request)._replace(wait_s=0.2)
    client = make_client(server.url, token, settings(fail_mode="open", budget_s=0.01))
    client.risk("bot")

    client.close()

    assert not [one for one in threading.enumerate() if one.name.startswith("trustwatch-risk")]


@pytest.mark.parametrize(
    "wrong",
    [{"fail_mode": "ajar"}, {"budget_s": 0}, {"cache_s": -1}, {"cache_size": 0}, {"workers": 0}, {"last_known_s": -1}],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)


def test_the_fail_mode_must_be_named() -> None:
    with pytest.raises(TypeError, match="fail_mode"):
        RiskSettings()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "url", ["http://trust.example", "ftp://localhost", "trust.example", "https://me:pw@trust.example"]
)
def test_tokens_never_travel_in_clear(url: str, make_client: Make) -> None:
    with pytest.raises(ValueError, match=r"https") as raised:
        make_client(url, token, settings())

    assert "pw" not in str(raised.value)
