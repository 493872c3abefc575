"""Sending events: batches, retries that make no new events, bounds. Each test runs with thread and with task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from trustwatch_client import AsyncEventSender, AuditEvent, SenderSettings
from trustwatch_client.events import EventAgent
from trustwatch_client.timing import backoff, parse_retry_after

from ..support.client_doubles import Reply, Scripted

Make = Callable[..., Any]
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def event(number: int = 0, **members: Any) -> AuditEvent:
    return AuditEvent(
        time=NOW, agent=EventAgent(id="bot"), type="tool.call", action=f"act-{number}", outcome="success", **members
    )


def token() -> str:
    return "a token"


def settings(**more: Any) -> SenderSettings:
    return SenderSettings(**{"linger_s": 0.02, "backoff_s": 0.01, "backoff_most_s": 0.05, **more})


def received(server: Scripted) -> list[str]:
    """Actions in the order in which they arrived."""
    return [one["action"] for request in server.requests for one in request.lines]


def test_events_arrive_in_order_and_in_batches(server: Scripted, make_sender: Make) -> None:
    sender = make_sender(server.url, token, settings(batch_events=10, source="urn:gw:1"))
    ids = [sender.send(event(number)) for number in range(35)]

    assert sender.flush()

    assert received(server) == [f"act-{number}" for number in range(35)]
    assert [one["id"] for request in server.requests for one in request.lines] == ids
    assert max(len(request.lines) for request in server.requests) == 10
    first = server.requests[0]
    assert (first.path, first.headers["content-type"]) == ("/v1/events", "application/x-ndjson")
    assert (first.headers["authorization"], first.lines[0]["source"]) == ("Bearer a token", "urn:gw:1")
    assert sender.counts()["accepted"] == 35


def test_batches_are_bounded_in_bytes(server: Scripted, make_sender: Make) -> None:
    sender = make_sender(server.url, token, settings(batch_bytes=1_000))
    for number in range(20):
        sender.send(event(number, session="s" * 200))

    assert sender.flush()

    assert max(len(request.body) for request in server.requests) <= 1_000
    assert len(received(server)) == 20


@pytest.mark.parametrize("status", [429, 500, 502, 503, 401, 403, 408])
def test_an_attempt_that_failed_is_repeated_with_the_same_ids(server: Scripted, make_sender: Make, status: int) -> None:
    server.then(Reply(status), Reply(status))
    sender = make_sender(server.url, token, settings())
    name = sender.send(event())

    assert sender.flush()

    assert [request.lines[0]["id"] for request in server.requests] == [name] * 3
    assert (sender.counts()["retries"], sender.counts()["accepted"]) == (2, 1)


def test_a_lost_reply_is_repeated(server: Scripted, make_sender: Make) -> None:
    """The service took it and the reply did not come: the time-out repeats it."""
    server.then(Reply(202, {"accepted": 1}, wait_s=0.6))
    sender = make_sender(server.url, token, settings(request_timeout_s=0.2))
    name = sender.send(event())

    assert sender.flush()

    assert [request.lines[0]["id"] for request in server.requests] == [name, name]


def test_retry_after_is_kept(server: Scripted, make_sender: Make) -> None:
    server.then(Reply(429, headers={"Retry-After": "1"}))
    sender = make_sender(server.url, token, settings())
    began = time.monotonic()
    sender.send(event())

    assert sender.flush()

    assert time.monotonic() - began >= 1.0


def test_the_oldest_make_room_and_are_counted(server: Scripted, make_sender: Make) -> None:
    calm = server.calm
    server.answer = lambda request: calm(request)._replace(wait_s=0.3)
    sender = make_sender(server.url, token, settings(queue_size=5, batch_events=1, linger_s=0.0))
    sender.send(event(0))
    deadline = time.monotonic() + 5.0
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    for number in range(1, 11):
        sender.send(event(number))

    assert sender.flush()

    assert received(server) == ["act-0", *(f"act-{number}" for number in range(6, 11))]
    assert (sender.counts()["queued"], sender.counts()["dropped"], sender.counts()["accepted"]) == (11, 5, 6)


def test_sending_never_waits(server: Scripted, make_sender: Make) -> None:
    server.answer = lambda request: Reply(500, wait_s=1.0)
    sender = make_sender(server.url, token, settings(linger_s=0.0))
    sender.send(event())
    time.sleep(0.1)

    began = time.monotonic()
    for number in range(100):
        sender.send(event(number))

    assert time.monotonic() - began < 0.5
    server.answer = server.calm


def test_a_body_that_is_too_large_is_halved(server: Scripted, make_sender: Make) -> None:
    calm = server.calm
    server.answer = lambda request: (
        Reply(413) if len(request.lines) > 2 or request.lines[0]["action"] == "act-3" else calm(request)
    )
    sender = make_sender(server.url, token, settings())
    for number in range(7):
        sender.send(event(number))

    assert sender.flush()

    taken = [request.lines for request in server.requests if calm(request) == server.answer(request)]
    assert [one["action"] for lines in taken for one in lines] == [f"act-{number}" for number in (0, 1, 2, 4, 5, 6)]
    assert (sender.counts()["accepted"], sender.counts()["rejected"]) == (6, 1)


def test_what_is_rejected_is_counted_and_not_repeated(
    server: Scripted, make_sender: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rejection = {"index": 0, "path": "$.tenant", "reason": "not bound to it", "dead_letter_id": "01"}
    server.then(
        Reply(202, {"accepted": 1, "duplicate": 1, "rejected": 1, "rejections": [rejection]}), Reply(400, b"no")
    )
    sender = make_sender(server.url, token, settings(batch_events=3, linger_s=5.0))
    for number in range(6):
        sender.send(event(number))

    assert sender.flush()

    counts = sender.counts()
    assert (counts["accepted"], counts["duplicate"], counts["rejected"], counts["retries"]) == (1, 1, 4, 0)
    assert "$.tenant not bound to it" in caplog.text


def test_closing_does_not_sleep_through_a_long_wait(server: Scripted, make_sender: Make) -> None:
    """The service is back before the wait that it asked for is over."""
    server.then(Reply(503, headers={"Retry-After": "50"}))
    sender = make_sender(server.url, token, settings(linger_s=0.0))
    sender.send(event())
    deadline = time.monotonic() + 5.0
    while sender.counts()["retries"] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sender.close(timeout_s=5.0)

    assert received(server) == ["act-0", "act-0"]


def test_closing_gives_up_in_time_and_says_so(server: Scripted, make_sender: Make) -> None:
    server.answer = lambda request: Reply(503)
    sender = make_sender(server.url, token, settings())
    for number in range(3):
        sender.send(event(number))
    began = time.monotonic()

    assert not sender.close(timeout_s=0.3)

    assert time.monotonic() - began < 3.0
    assert sender.counts()["lost"] == 3
    sender.send(event())
    assert sender.counts()["lost"] == 4


async def close_behind_a_swallowed_cancellation(url: str) -> int:
    """Events lost when a sender is closed whose token callable swallows the cancellation."""

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10.0)
        return token()

    sender = AsyncEventSender(url, stubborn, settings())
    sender.send(event())
    async with asyncio.timeout(5.0):
        assert not await sender.close(timeout_s=0.1)
    return sender.counts()["lost"]


def test_an_async_sender_closes_whatever_becomes_of_its_cancellation(server: Scripted) -> None:
    server.answer = lambda request: Reply(503)
    assert asyncio.run(close_behind_a_swallowed_cancellation(server.url)) == 1


def test_a_token_callable_that_breaks_delays_and_ends_nothing(server: Scripted, make_sender: Make) -> None:
    answers = iter([RuntimeError("sealed"), RuntimeError("sealed")])

    def flaky() -> str:
        for error in answers:
            raise error
        return "a token"

    sender = make_sender(server.url, flaky, settings())
    sender.send(event())

    assert sender.flush()
    assert received(server) == ["act-0"]


def test_backoff_grows_up_to_its_bound_and_spreads() -> None:
    waits = [[backoff(attempt, 0.1, 2.0) for _ in range(200)] for attempt in (1, 3, 50)]

    assert [max(some) <= bound for some, bound in zip(waits, (0.1, 0.4, 2.0), strict=True)] == [True] * 3
    assert [max(some) > bound / 2 for some, bound in zip(waits, (0.1, 0.4, 2.0), strict=True)] == [True] * 3
    assert len(set(waits[0])) > 100


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("9" * 30, 999_999_999.0),
        ("٣", None),
        ("Wed, 25 Nov 2026 12:00:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(said: str, seconds: float | None) -> None:
    assert parse_retry_after(said, NOW.timestamp()) == seconds
