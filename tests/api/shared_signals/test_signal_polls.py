"""Polls (RFC 8936): what is asked, acknowledged and reported, and what a transmitter's bad answer does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.http.auth.set_verification import SetRefused
from trustwatch.api.settings.shared_signals_settings import SignalTransmitterSettings
from trustwatch.api.shared_signals import signal_poller
from trustwatch.api.shared_signals.remote_stream import KeptStream, TransmitterError
from trustwatch.api.shared_signals.signal_poller import SignalPoller, TransmitterPoll
from trustwatch.api.shared_signals.signal_receiver import KeysMissing, SetAnswer, SignalTransmitter
from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator

URL = "https://idp.example/poll/1"
FAILED = f"TransmitterError: POST {URL}"
SETTINGS = SignalTransmitterSettings(
    name="idp",
    issuer="https://idp.example",
    audiences=("us",),
    tenants=("acme",),
    jwks_file=Path("/jwks.json"),
    poll_url=URL,
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll without an answer is given up soon."""
    monkeypatch.setattr(signal_poller, "POLL_TIMEOUT_S", 0.2)


class Peer:
    """A transmitter that answers as told, and a receiver that refuses what is told; both keep what they were given."""

    def __init__(self) -> None:
        self.asked: list[tuple[httpx2.Headers, dict[str, Any]]] = []
        self.answers: list[Any] = []
        self.taken: list[list[bytes]] = []
        self.refusals: dict[bytes, SetAnswer] = {}
        self.failure: Exception | None = None
        self.now = 0.0

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.headers, json.loads(request.content)))
        given = self.answers.pop(0) if self.answers else {"sets": {}}
        if isinstance(given, Exception):
            raise given
        if callable(given):
            await given()
            given = {"sets": {}}
        return given if isinstance(given, httpx2.Response) else httpx2.Response(200, json=given)

    async def take(self, _: SignalTransmitter, tokens: list[bytes]) -> list[SetAnswer]:
        self.taken.append(tokens)
        if self.failure is not None:
            raise self.failure
        return [self.refusals.get(token) for token in tokens]

    def run(self, *polls: Callable[[TransmitterPoll], Any]) -> list[Any]:
        """The results of steps with one poll."""

        async def go() -> list[Any]:
            async with httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer)) as http:
                authenticator = RequestAuthenticator("secret")
                poll = TransmitterPoll(SignalTransmitter(SETTINGS), self, http, authenticator, lambda: self.now)  # type: ignore[arg-type]
                return [await step(poll) for step in polls]

        return asyncio.run(go())


@pytest.fixture
def peer() -> Peer:
    return Peer()


def once(poll: TransmitterPoll) -> Any:
    return poll.poll()


async def failing(poll: TransmitterPoll) -> str:
    """Class and text of what a poll raised."""
    try:
        await poll.poll()
    except (TransmitterError, Unavailable) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_what_was_taken_is_acknowledged_by_the_next_poll(peer: Peer) -> None:
    """Never before; what was refused is reported with its error, in a language that is named."""
    peer.answers = [{"sets": {"j1": "a", "j2": "b"}, "moreAvailable": True}, {"sets": {"j3": "c"}}]
    peer.refusals[b"b"] = SetRefused("invalid_audience", "the SET is meant for another audience")
    assert peer.run(once, once, once) == [True, True, False]

    assert peer.taken == [[b"a", b"b"], [b"c"]]
    (headers, first), (more_headers, second), (_, third) = peer.asked
    assert first == {"maxEvents": 100, "returnImmediately": False}
    assert second["ack"] == ["j1"]
    assert second["setErrs"] == {
        "j2": {"err": "invalid_audience", "description": "the SET is meant for another audience"}
    }
    assert (more_headers["content-language"], "content-language" in headers) == ("en", False)
    assert third["ack"] == ["j3"]
    assert headers["authorization"] == "Bearer secret"


def test_what_could_not_be_kept_is_not_acknowledged(peer: Peer) -> None:
    """Where log or store are away it comes again."""
    peer.answers = [{"sets": {"j1": "a"}}]
    peer.failure = Unavailable("the disk is away")
    assert "Unavailable" in peer.run(failing, failing)[0]
    assert [body.keys() & {"ack", "setErrs"} for _, body in peer.asked] == [set(), set()]


def test_what_could_not_be_judged_is_not_acknowledged(peer: Peer) -> None:
    """Nor refused: a SET whose key cannot be had comes again, after a pause; the others are settled all the same."""
    peer.answers = [{"sets": {"j1": "a", "j2": "b", "j3": "c"}}, {"sets": {"j1": "a"}}]
    peer.refusals = {b"a": KeysMissing("idp"), b"c": SetRefused("invalid_request", "it is malformed")}
    assert peer.run(once, once, once) == [True, False, False]
    assert [(body.get("ack"), list(body.get("setErrs", {}))) for _, body in peer.asked] == [
        (None, []),
        (["j2"], ["j3"]),
        (None, []),
    ]


def test_an_acknowledgement_that_is_refused_is_not_said_for_ever(peer: Peer) -> None:
    """400: the transmitter knows that SET no more, or no errors; what it gives again is known by its `jti`."""
    peer.answers = [{"sets": {"j1": "a"}}, httpx2.Response(400), {"sets": {"j1": "a"}}]
    peer.run(once, failing, once)
    assert [body.get("ack") for _, body in peer.asked] == [None, ["j1"], None]


def test_acknowledgements_that_did_not_arrive_are_said_again(peer: Peer) -> None:
    """Until a poll is answered, whatever comes between."""
    peer.answers = [{"sets": {"j1": "a"}}, httpx2.Response(503), httpx2.ReadError("gone"), {"sets": {}}, {"sets": {}}]
    results = peer.run(once, failing, failing, once, once)
    assert results == [True, f"{FAILED}: HTTP 503", f"{FAILED}: ReadError", False, False]
    assert [body.get("ack") for _, body in peer.asked] == [None, ["j1"], ["j1"], ["j1"], None]


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, content=b"<html>"),
        httpx2.Response(200, json={"sets": ["a"]}),
        httpx2.Response(200, json={"sets": {"j1": 7}}),
        httpx2.Response(302, headers={"location": "https://evil.example"}),
        httpx2.Response(401),
        httpx2.Response(200, content=b" " * (16 * 1024 * 1024 + 1)),
        lambda: asyncio.sleep(2.0),
    ],
    ids=["no JSON", "a list", "no text", "redirected", "unauthorised", "endless", "never"],
)
def test_answers_that_are_none(peer: Peer, answer: Any) -> None:
    """Said, and tried again later; nothing of them is taken, and no redirect is followed."""
    peer.answers = [answer]
    assert peer.run(failing)[0].startswith("TransmitterError: ")
    assert (peer.taken, len(peer.asked)) == ([], 1)


class Expiring:
    """Credentials that end: a new token for each that was refused."""

    def __init__(self) -> None:
        self.number = 1

    async def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer token-{self.number}"}

    def invalidate(self) -> None:
        self.number += 1


def test_a_token_that_expired_is_replaced(peer: Peer) -> None:
    """401 to one poll: the next one comes with another token, and takes what waited."""
    peer.answers = [httpx2.Response(401), {"sets": {"j1": "a"}}]

    async def go() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(peer.answer)) as http:
            poll = TransmitterPoll(SignalTransmitter(SETTINGS), peer, http, Expiring(), lambda: peer.now)  # type: ignore[arg-type]
            assert "HTTP 401" in await failing(poll)
            assert await poll.poll()

    asyncio.run(go())
    assert [headers["authorization"] for headers, _ in peer.asked] == ["Bearer token-1", "Bearer token-2"]
    assert peer.taken == [[b"a"]]


def test_more_sets_than_were_asked_for(peer: Peer) -> None:
    """Only so many are taken, and acknowledged; the others come again."""
    peer.answers = [{"sets": {f"j{number}": "x" for number in range(150)}}]
    peer.run(once, once)
    assert len(peer.taken[0]) == len(peer.asked[1][1]["ack"]) == 100


def test_a_transmitter_that_does_not_wait_is_asked_after_a_pause(peer: Peer) -> None:
    """Keycloak answers at once: a poll that brought nothing at once says to pause, also where there is said to be more;
    one that waited does not."""

    async def waits() -> None:
        peer.now += 30.0

    peer.answers = [{"sets": {}}, waits, {"sets": {}, "moreAvailable": True}]
    assert peer.run(once, once, once) == [False, True, False]


def test_what_was_settled_is_no_news(peer: Peer) -> None:
    """A transmitter that minds no acknowledgement is asked after a pause; with anything new, at once."""
    peer.refusals[b"b"] = SetRefused("invalid_request", "it is malformed")
    same = {"sets": {"j1": "a", "j2": "b"}, "moreAvailable": True}
    peer.answers = [same, same, {"sets": {"j1": "a"}}, {"sets": {"j1": "a", "j3": "c"}}]
    assert peer.run(once, once, once, once) == [True, False, False, True]


def test_no_answer_makes_polls_without_a_pause(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is answered at once: nothing, nothing and more, what was taken before, or something new each time."""
    monkeypatch.setattr(signal_poller, "POLL_INTERVAL_S", 0.1)
    numbers = count()
    for answer in (
        lambda: {"sets": {}},
        lambda: {"sets": {}, "moreAvailable": True},
        lambda: {"sets": {"j1": "a"}, "moreAvailable": True},
        lambda: {"sets": {f"j{next(numbers)}": "a"}, "moreAvailable": True},
    ):
        peer.asked.clear()
        peer.answers = [answer() for _ in range(100)]
        asyncio.run(poll_for(peer, SETTINGS, 0.3))
        assert 2 <= len(peer.asked) <= 7


class Alone:
    """The database and the lock of a deployment with one process."""

    def acquire_leader_lock(self, _: str) -> Alone:
        return self

    def ensure_held(self) -> None:
        """It is."""

    def release(self) -> None:
        """To nobody."""


class Kept:
    """A stream that we keep, and how often that was asked for."""

    def __init__(self, *, is_pushed: bool) -> None:
        self.is_pushed = is_pushed
        self.asked = 0

    async def keep(self) -> KeptStream:
        self.asked += 1
        return KeptStream("s1", "", False)


def test_a_pushed_stream_is_kept_beside_a_poll(peer: Peer) -> None:
    """One transmitter may push by the stream that we make, and be polled by one that somebody else has made."""
    kept = Kept(is_pushed=True)
    asyncio.run(poll_for(peer, SETTINGS, 0.1, {"idp": kept}))
    assert (kept.asked, len(peer.asked) > 0) == (1, True)


def test_a_fault_does_not_end_the_look_for_the_lead(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the lock raises: the next look tries again, and nobody polls meanwhile."""
    monkeypatch.setattr(signal_poller, "LOOK_FOR_LEAD_S", 0.01)
    faults = [RuntimeError("a driver's"), RuntimeError("again")]

    def acquire(self: Alone, _: str) -> Alone:
        if faults:
            raise faults.pop()
        return self

    monkeypatch.setattr(Alone, "acquire_leader_lock", acquire)
    asyncio.run(poll_for(peer, SETTINGS, 0.3))
    assert (faults, len(peer.asked) > 0) == ([], True)


def test_who_can_not_tell_whether_it_leads_lets_others(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is given back: a connection that went to the pool with it would keep it from everybody."""
    monkeypatch.setattr(signal_poller, "LOOK_FOR_LEAD_S", 0.01)
    faults: list[Exception] = [RuntimeError("a driver's"), Unavailable("away")]
    given_back: list[Alone] = []

    def release(self: Alone) -> None:
        given_back.append(self)

    def ensure_held(_: Alone) -> None:
        if faults:
            raise faults.pop()

    monkeypatch.setattr(Alone, "ensure_held", ensure_held)
    monkeypatch.setattr(Alone, "release", release)
    asyncio.run(poll_for(peer, SETTINGS, 0.3))
    assert (faults, len(given_back)) == ([], 3), "twice for a fault, once at the end"


async def poll_for(peer: Peer, settings: SignalTransmitterSettings, seconds: float, streams: Any = None) -> None:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(peer.answer))
    poll = TransmitterPoll(SignalTransmitter(settings), peer, http, RequestAuthenticator("s"), time.monotonic)  # type: ignore[arg-type]
    poller = SignalPoller([poll], streams or {}, http, Alone(), peer)  # type: ignore[arg-type]
    await poller.start()
    await asyncio.sleep(seconds)
    await poller.close()
