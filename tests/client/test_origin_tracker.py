"""Conversations are separate and bounded; keys are fetched in the background, renewed, and never shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from trustwatch_client import ArgumentOrigins, OriginKeys, OriginKeyUnavailable, OriginLimits, OriginTracker
from trustwatch_client.argument_origins import keyed_fingerprint
from trustwatch_client.events import Caller
from trustwatch_client.origin_tracker import ORIGIN_KEY_PATH, RETRY_S, OriginKey

from ..support.client_doubles import Clock, Reply, Scripted


class FixedKeys:
    """A key for each tenant; none for `late`."""

    def __init__(self) -> None:
        self.generation = 0

    def current(self, tenant: str | None) -> bytes | None:
        return None if tenant == "late" else f"{tenant}/{self.generation}".encode().ljust(32)


def origin_of(conversation: ArgumentOrigins, value: str) -> tuple[str, str]:
    (argument,) = conversation.start_call("act", {"v": value}).arguments or []
    return argument.origin, argument.hash


def test_conversations_do_not_mix() -> None:
    tracker = OriginTracker(FixedKeys())
    tracker.conversation("s", tenant="acme", issuer="i", agent_id="bot").add_prompt("acct-1001")

    assert origin_of(tracker.conversation("s", tenant="acme", issuer="i", agent_id="bot"), "acct-1001")[0] == "prompt"
    for other in ({"tenant": "other"}, {"issuer": "j"}, {"agent_id": "bat"}, {"session": "t"}):
        named = {"session": "s", "tenant": "acme", "issuer": "i", "agent_id": "bot", **other}
        assert origin_of(tracker.conversation(**named), "acct-1001")[0] == "unseen"


def test_tenants_hash_under_keys_of_their_own() -> None:
    tracker = OriginTracker(FixedKeys())

    _, ours = origin_of(tracker.conversation("s", tenant="acme"), "acct-1001")
    _, theirs = origin_of(tracker.conversation("s", tenant="other"), "acct-1001")

    assert ours != theirs
    assert tracker.conversation("s", tenant="late").start_call("act", {"v": "acct-1001"}).arguments is None
    assert tracker.counts()["no_key"] == 1


def test_a_conversation_keeps_its_key_for_a_day() -> None:
    keys, clock = FixedKeys(), Clock()
    tracker = OriginTracker(keys, clock=clock)
    conversation = tracker.conversation("s", tenant="acme")
    first = origin_of(conversation, "acct-1001")
    keys.generation = 1

    assert origin_of(conversation, "acct-1001") == first
    assert origin_of(tracker.conversation("t", tenant="acme"), "acct-1001") != first
    clock.now += 86_400
    assert origin_of(conversation, "acct-1001") != first


def test_a_caller_without_a_session_is_not_traced() -> None:
    tracker = OriginTracker(FixedKeys())
    caller = Caller(agent_id="bot", tenant="acme")

    assert tracker.conversation_of(caller, None) is None
    assert tracker.counts()["no_session"] == 1
    assert tracker.conversation_of(caller, "s") is tracker.conversation("s", tenant="acme", agent_id="bot")


def test_conversations_make_room() -> None:
    tracker = OriginTracker(FixedKeys(), OriginLimits(conversations=3))
    for name in ("a", "b", "c", "a", "d"):
        tracker.conversation(name).add_prompt(f"acct-1001 {name}")

    assert tracker.conversations == 3
    assert tracker.counts()["forgotten"] == 1
    assert origin_of(tracker.conversation("a"), "acct-1001")[0] == "prompt"
    tracker.forget("a")
    assert origin_of(tracker.conversation("a"), "acct-1001")[0] == "unseen"

    small = OriginTracker(FixedKeys(), OriginLimits(total_characters=2_000))
    for number in range(64):
        small.conversation(str(number)).add_prompt("lorem ipsum " * 20)
    assert small.conversations < 32


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="sent is 300"):
        OriginLimits(sent=300)
    with pytest.raises(ValueError, match="characters is 0"):
        OriginLimits(characters=0)


def issued(clock: Clock, key: str = "ab" * 32, lasts_s: float = 3600) -> Reply:
    ends = datetime.fromtimestamp(clock.wall() + lasts_s, UTC).isoformat()
    return Reply(200, {"tenant": "acme", "key": key, "epoch": 1, "expires_at": ends})


def wait_for(keys: OriginKeys, count: str, number: int) -> None:
    deadline = time.monotonic() + 20
    while keys.counts()[count] < number and time.monotonic() < deadline:
        time.sleep(0.005)
    assert keys.counts()[count] == number


def test_a_key_is_fetched_once_and_renewed(server: Scripted, clock: Clock) -> None:
    server.then(issued(clock), issued(clock, "cd" * 32))
    with OriginKeys(server.url, lambda: "token", clock=clock) as keys:
        assert keys.current("acme") is None
        wait_for(keys, "issued", 1)
        assert keys.current("acme") == bytes.fromhex("ab" * 32)
        assert [request.path for request in server.requests] == [f"{ORIGIN_KEY_PATH}?tenant=acme"]
        assert server.requests[0].headers["authorization"] == "Bearer token"
        clock.now += 3601
        assert keys.current("acme") == bytes.fromhex("ab" * 32)
        wait_for(keys, "issued", 2)
        assert keys.current("acme") == bytes.fromhex("cd" * 32)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(403),
        Reply(500),
        Reply(0),
        Reply(200, b"x"),
        Reply(200, {"key": "zz", "expires_at": "2026-01-01T00:00:00Z"}),
    ],
)
def test_without_a_key_nobody_waits_and_it_is_asked_again(server: Scripted, clock: Clock, reply: Reply) -> None:
    server.then(reply, issued(clock))
    with OriginKeys(server.url, lambda: "token", clock=clock) as keys:
        assert keys.current(None) is None
        wait_for(keys, "key_failed", 1)
        assert keys.current(None) is None
        assert len(server.requests) == 1
        clock.now += RETRY_S
        assert keys.current(None) is None
        wait_for(keys, "issued", 1)
        assert keys.current(None) is not None


def test_a_short_key_is_none(server: Scripted, clock: Clock) -> None:
    server.then(issued(clock, "ab"))
    with OriginKeys(server.url, lambda: "token", clock=clock) as keys, pytest.raises(OriginKeyUnavailable, match="16"):
        keys.fetch("acme")


def test_fetch_tells_what_is_wrong(server: Scripted, clock: Clock) -> None:
    """At start, as `check` of the risk clients; the pause of a failure does not hold it up."""
    server.then(Reply(403), issued(clock))
    with OriginKeys(server.url, lambda: "token", clock=clock) as keys:
        with pytest.raises(OriginKeyUnavailable, match=r"403.*trust\.ingest"):
            keys.fetch("acme")
        keys.fetch("acme")
        assert keys.current("acme") is not None


def test_a_key_shows_itself_nowhere() -> None:
    assert "abab" not in repr(OriginKey(b"abab", 1.0))
    assert keyed_fingerprint(b"k" * 32)(b"x") != keyed_fingerprint(b"l" * 32)(b"x")
