"""What a person approved holds for arguments to the letter, whatever their normal forms have in common."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustwatch.api.access.call_evaluation import CallQuestion
from trustwatch.ingest.identities import IdentityHasher
from trustwatch_client import ArgumentOrigins, Caller, OriginTracker
from trustwatch_client.argument_origins import exact_hash, keyed_fingerprint

from ...support.client_doubles import FixedKeys

BOT = Caller(agent_id="bot", tenant="acme")
MANY = {f"a{number}": f"value-{number}" for number in range(64)}
LONG = "word " * 30_000
ALTERED: dict[str, tuple[Any, Any]] = {
    "a short number": ({"to": "acct-42", "amount": 50}, {"to": "acct-42", "amount": 99}),
    "its sign": ({"amount": 5000}, {"amount": -5000}),
    "a short text": ({"to": "bob", "for": "the invoice"}, {"to": "eve", "for": "the invoice"}),
    "a blank": ({"command": "rm -rf /tmp/x"}, {"command": "rm -rf / tmp/x"}),
    "capitals": ({"path": "/Data/Report"}, {"path": "/data/report"}),
    "a flag": ({"to": "acct-42", "dry_run": True}, {"to": "acct-42", "dry_run": False}),
    "the order of two": ({"pay": ["ann@a.example", "bob@b.example"]}, {"pay": ["bob@b.example", "ann@a.example"]}),
    "names inside": ({"x": {"from": "acct-11", "to": "acct-22"}}, {"x": {"to": "acct-11", "from": "acct-22"}}),
    "names that are none": ({"to all": "acct-42", "cc": "acct-43"}, {"cc all": "acct-42", "cc": "acct-43"}),
    "an encoding": ({"path": "a%2520b/ccc"}, {"path": "a b/ccc"}),
    "what is not sent": ({**MANY, "zz": "acct-1"}, {**MANY, "zz": "acct-2"}),
    "the end of a long text": ({"text": LONG + "a"}, {"text": LONG + "evil"}),
    "nothing": ({"to": "acct-42", "limit": None}, {"to": "acct-42"}),
    "half a character": ({"to": "acct\ud800"}, {"to": "acct\ud801"}),
}


def digest_of(arguments: Any) -> str:
    tracker = OriginTracker(FixedKeys())
    call = tracker.conversation("conv-1").start_call("pay", arguments)
    told = {"action": "pay", "arguments": call.arguments, "arguments_hash": tracker.hash_arguments(BOT, arguments)}
    call = msgspec.json.decode(msgspec.json.encode(told), type=CallQuestion)
    return IdentityHasher(b"k" * 32).call_digest("acme", "https://as.example", "bot", call.bound_members())


@pytest.mark.parametrize("pair", ALTERED.values(), ids=ALTERED)
def test_altered_arguments_are_another_call(pair: tuple[Any, Any]) -> None:
    approved, altered = pair
    assert digest_of(approved) == digest_of(approved)
    assert digest_of(approved) != digest_of(altered)


def test_the_order_of_members_is_no_alteration() -> None:
    assert digest_of({"to": "acct-42", "amount": 5}) == digest_of({"amount": 5, "to": "acct-42"})


def test_what_can_not_be_written_down_is_never_the_same() -> None:
    ring: list[Any] = []
    ring.append(ring)
    for told in ({"a": object()}, ring, {1: "a", "1": "b"}):
        assert digest_of({"x": told}) != digest_of({"x": told})


def test_two_values_with_one_short_hash_are_two() -> None:
    """48 bits of a key that many have are found to collide in seconds; here the first part always does."""
    keyed = keyed_fingerprint(b"k" * 32)
    weak = lambda value: "0" * 12 if b" 0 " in value else keyed(value)  # noqa: E731
    assert exact_hash("a", weak) != exact_hash("b", weak)


def test_conversations_and_trackers_tell_one_hash() -> None:
    conversation = ArgumentOrigins(lambda: keyed_fingerprint(b"k" * 32))
    assert conversation.hash_arguments({"to": "b"}) == OriginTracker(FixedKeys()).hash_arguments(BOT, {"to": "b"})
    assert ArgumentOrigins(lambda: None).hash_arguments({"to": "b"}) is None
