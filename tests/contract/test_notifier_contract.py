"""One contract for every format of alerts, against a real HTTP receiver on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import pytest
from standardwebhooks import Webhook

from trustwatch.ingest.settings import Secret, reveal
from trustwatch.scoring.delivery.delivery_target import DeliveryResult
from trustwatch.scoring.delivery.notifiers.alert_formats import ALERT_FORMATS, SIGNED_FORMATS, AlertFormat
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import LeasedDelivery

from ..support.alert_receiver import ALERTS, ROUTING_KEY, SECRET, TOKEN, Receiver, change, outgoing, target

T = TypeVar("T")
RISE = ALERTS["rise"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def use(work: Callable[[WebhookNotifier], Awaitable[T]]) -> T:
    """*work* with a notifier whose clock is the machine's: the verifier refuses old signatures."""

    async def run() -> T:
        async with make_webhook_client() as client:
            return await work(WebhookNotifier(client, lambda: int(time.time() * 1000)))

    return asyncio.run(run())


def deliver(to: WebhookTarget, *rows: LeasedDelivery) -> list[DeliveryResult]:
    """What came of each row, one after the other through one notifier."""

    async def work(notifier: WebhookNotifier) -> list[DeliveryResult]:
        return [await notifier.deliver(row, to) for row in rows]

    return use(work)


@pytest.mark.parametrize("name", ALERTS)
@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_every_alert_arrives_in_every_format(receiver: Receiver, wanted: AlertFormat, name: str) -> None:
    """Known or not, each alert is one POST of a JSON object, of the media type that the receiver expects."""
    (result,) = deliver(target(receiver.url, wanted), outgoing(ALERTS[name]))

    ((headers, body),) = receiver.got
    assert result == DeliveryResult("delivered")
    assert isinstance(json.loads(body), dict)
    kind = "application/cloudevents+json" if wanted == "cloudevents" else "application/json"
    assert headers["content-type"] == kind


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_signatures(receiver: Receiver, wanted: AlertFormat) -> None:
    """What is signed can be verified, the id is the same each time; what is not signed carries no such header."""
    to = target(receiver.url, wanted)
    deliver(to, outgoing(RISE, "k", 1), outgoing(RISE, "k", 2))

    for headers, body in receiver.got:
        if wanted in SIGNED_FORMATS:
            assert Webhook(SECRET).verify(body, headers) == json.loads(body)
            assert headers["webhook-id"] == "k"
        else:
            assert not {name for name in headers if name.startswith("webhook-")}


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_a_repeated_alert_is_the_same_alert(receiver: Receiver, wanted: AlertFormat) -> None:
    """The same row gives the same body, so that the receiver can tell."""
    deliver(target(receiver.url, wanted), outgoing(RISE, attempt=1), outgoing(RISE, attempt=2))

    first, second = receiver.bodies
    assert first == second


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_meaning_of_answers(receiver: Receiver, wanted: AlertFormat) -> None:
    """The answers of all products are read alike: success, later, never, gone."""
    receiver.answers = [
        (202, {}, b"{}"),
        (429, {"retry-after": "7"}, b""),
        (500, {}, b"x"),
        (400, {}, b"invalid_blocks"),
        (410, {}, b"channel_is_archived"),
        (302, {"location": receiver.url}, b""),
    ]
    results = deliver(target(receiver.url, wanted), *(outgoing(RISE) for _ in range(6)))

    assert [one.outcome for one in results] == ["delivered", "retry", "retry", "failed", "gone", "failed"]
    assert results[1].retry_after_s == 7.0
    assert results[3].error == "HTTP 400: invalid_blocks"
    assert len(receiver.got) == 6


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_nobody_answers(receiver: Receiver, wanted: AlertFormat) -> None:
    """No connection is tried again later, and the error names no secret."""
    receiver.close()
    (result,) = deliver(target(receiver.url, wanted), outgoing(RISE))

    assert result.outcome == "retry"
    assert result.error.startswith("ConnectError")
    assert TOKEN not in result.error


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_a_cancelled_attempt_leaves_nothing_behind(receiver: Receiver, wanted: AlertFormat) -> None:
    """The caller bounds the time by cancelling; the next attempt works."""
    to = target(receiver.url, wanted)

    async def work(notifier: WebhookNotifier) -> DeliveryResult:
        receiver.go.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await notifier.deliver(outgoing(RISE), to)
        receiver.go.set()
        return await notifier.deliver(outgoing(RISE), to)

    assert use(work) == DeliveryResult("delivered")


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_secrets_that_a_refusal_repeats_are_hidden(receiver: Receiver, wanted: AlertFormat) -> None:
    """A target (or a proxy before it) may repeat the URL or the body: neither token nor key gets into an error."""
    told = f"no such hook /hook/services/{TOKEN} key {ROUTING_KEY} {SECRET} ".encode()
    receiver.answers = [(404, {}, told), (404, {}, b"x" * 185 + told)]
    to = target(receiver.url, wanted)

    for result in deliver(to, outgoing(RISE), outgoing(RISE)):
        assert result.outcome == "failed"
        for secret in {reveal(to.routing_key), *to.secrets, TOKEN if wanted == "slack" else ""} - {""}:
            assert secret[:8] not in result.error


@pytest.mark.parametrize("wanted", ALERT_FORMATS)
def test_no_secret_is_shown(receiver: Receiver, wanted: AlertFormat) -> None:
    """Neither the printed target nor its fingerprint nor a body shows one; PagerDuty's key has to be in its body."""
    to = target(receiver.url, wanted)
    deliver(to, outgoing(RISE))
    ((_, body),) = receiver.got

    for secret in (SECRET, ROUTING_KEY, TOKEN):
        assert secret not in repr(to) + to.fingerprint
        assert (secret.encode() in body) == (secret == ROUTING_KEY and wanted == "pagerduty")


def test_fingerprint_of_pagerduty_follows_the_key() -> None:
    """All of its integrations have one URL: a target that was stopped goes on with another key."""
    url = "https://events.pagerduty.example/v2/enqueue"
    one, other = (WebhookTarget("p", Secret(url), "pagerduty", routing_key=Secret(key * 32)) for key in "ab")

    assert one.fingerprint != other.fingerprint


def test_pagerduty_is_told_of_rises_and_of_the_end(receiver: Receiver) -> None:
    """Rises trigger, the return to low resolves, under one key; a fall that stays at medium says why it is left."""
    levels = [RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.CRITICAL, RiskLevel.HIGH, RiskLevel.LOW]
    steps = [
        outgoing(change(before, after, decided_ms=1_764_000_000_000 + number))
        for number, (before, after) in enumerate(pairwise(levels))
    ]
    results = deliver(target(receiver.url, "pagerduty"), *steps)

    assert [one.outcome for one in results] == ["delivered", "delivered", "skipped", "delivered"]
    assert "stays at medium or above" in results[2].error
    assert [body["event_action"] for body in receiver.bodies] == ["trigger", "trigger", "resolve"]
    assert len({body["dedup_key"] for body in receiver.bodies}) == 1
