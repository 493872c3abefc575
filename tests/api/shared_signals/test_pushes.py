"""Delivery by push (RFC 8935): in order, again until it is taken, and no receiver holds another one up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from trustwatch.ingest.formats.received_signals import STREAM_UPDATED, VERIFICATION
from trustwatch.scoring.delivery.shared_signals.event_types import RISK_LEVEL_CHANGE
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD

from ...support.shared_signals import SetReceiver, announced
from ...support.stream_figures import stream_figures

Transmit = Callable[..., Any]
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def second_receiver() -> Iterator[SetReceiver]:
    """Another HTTP server on loopback."""
    made = SetReceiver()
    yield made
    made.close()


def causes(receiver: Any, stream: dict[str, Any], taken: SetReceiver) -> list[str]:
    """`txn` of what was pushed, in order; every SET is verified."""
    return [receiver.verified(token, stream)["txn"] for token in taken.tokens]


def status_of(receiver: Any, stream: dict[str, Any]) -> dict[str, str]:
    answer = receiver.ask("GET", "status_endpoint", stream_id=stream["stream_id"])
    return dict(answer.json())


@pytest.mark.parametrize("authorization", ["Bearer of-the-receiver", ""])
def test_a_push(transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver, authorization: str) -> None:
    """The bare SET, with the media type, and the receiver's own header as it gave it."""
    stream = receiver.create_push(receiver_of_pushes.url, authorization)
    body = {"stream_id": stream["stream_id"], "state": "VGhpcyBpcyBh"}
    assert receiver.ask("POST", "verification_endpoint", body).status_code == 204
    transmitter.commit(announced())
    headers, token = receiver_of_pushes.got[0]

    assert receiver.verified(token, stream)["events"] == {VERIFICATION: {"state": "VGhpcyBpcyBh"}}
    assert headers["content-type"] == "application/secevent+jwt"
    assert headers["accept"] == "application/json"
    assert headers.get("authorization", "") == authorization
    assert len(receiver_of_pushes.got) == 5
    assert transmitter.context.outcomes == {"queued": 5, "delivered": 5}
    transmitter.step()
    assert len(receiver_of_pushes.got) == 5
    assert receiver.poll(stream | {"delivery": {"endpoint_url": f"/ssf/poll/{stream['stream_id']}"}}).status_code == 404


def test_a_receiver_that_is_down_gets_all_of_it_later(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver
) -> None:
    """In order, the same SETs; later and later, until it answers."""
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers += [(503, b""), (429, b""), (401, b"")]
    transmitter.commit(announced(1), announced(2))
    assert len(receiver_of_pushes.got) == 1
    transmitter.step()  # not yet
    assert len(receiver_of_pushes.got) == 1
    for _ in range(3):
        transmitter.site.clock.now += 10
        transmitter.step()

    assert causes(receiver, stream, receiver_of_pushes) == ["d-1", "d-1", "d-1", "d-1", "d-2"]
    assert len(set(receiver_of_pushes.tokens[:4])) == 1
    assert transmitter.context.outcomes["retry"] == 3
    (kept,) = transmitter.site.store.security_events.list_all_streams()
    assert (kept.failures, kept.failing_since_ms, kept.next_push_ms) == (0, 0, 0)


def slowly(transmitter: Any, taken: SetReceiver, meanwhile: Callable[[], object], *numbers: int) -> list[str]:
    """Have *meanwhile* done while the first push is under way; `txn` of what was pushed."""
    taken.got.clear()
    taken.go.clear()
    begun = threading.Thread(target=lambda: transmitter.commit(*map(announced, numbers)))
    begun.start()
    while stream_figures(transmitter.site.store.security_events).waiting < len(numbers) or not transmitter.work._lanes:
        time.sleep(0.01)
    time.sleep(0.1)
    meanwhile()
    taken.go.set()
    begun.join()
    return [jwt.decode(token, options={"verify_signature": False})["txn"] for token in taken.tokens]


def test_what_was_polled_or_dropped_meanwhile_is_not_pushed(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver
) -> None:
    """While a push is slow its receiver polls and acknowledges the others, or disables the stream: those are over."""
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    named = {"stream_id": stream["stream_id"]}
    push = {"method": PUSH_METHOD, "endpoint_url": receiver_of_pushes.url}

    def poll_them() -> None:
        polled = receiver.ask("PATCH", "configuration_endpoint", named | {"delivery": {"method": POLL_METHOD}}).json()
        receiver.poll(polled, ack=[claims["jti"] for claims in receiver.sets(polled)], maxEvents=0)
        receiver.ask("PATCH", "configuration_endpoint", named | {"delivery": push})

    def disable() -> None:
        for status in ("disabled", "enabled"):
            receiver.ask("POST", "status_endpoint", named | {"status": status})

    assert slowly(transmitter, receiver_of_pushes, poll_them, 1, 2, 3) == ["d-1"]
    assert slowly(transmitter, receiver_of_pushes, disable, 4, 5, 6) == ["d-4"]


def test_who_does_not_lead_any_more_pushes_nothing(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver
) -> None:
    """The push under way ends; the rest is its successor's."""
    receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    work = transmitter.work

    assert slowly(transmitter, receiver_of_pushes, work._seat.give_up, 1, 2, 3) == ["d-1"]
    transmitter.step()
    assert len(receiver_of_pushes.got) == 3


def test_who_may_no_longer_hear_gets_nothing(transmitter: Any, receiver_of_pushes: SetReceiver) -> None:
    """Of a tenant that was taken from it, or of anybody once it is no caller: its streams are disabled then."""
    receiver = transmitter.receiver("two")
    receiver.create_push(receiver_of_pushes.url, "Bearer x", events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers += [(503, b""), (202, b""), (503, b"")]
    transmitter.commit(announced(1, tenant="acme"), announced(2, tenant="globex"), announced(3, tenant="acme"))
    transmitter.context._tenants["two"] = frozenset({"acme"})  # as the settings of the next start have it
    transmitter.site.clock.now += 10
    transmitter.step()
    assert len(receiver_of_pushes.got) == 3
    assert transmitter.context.outcomes["withdrawn"] == 1
    del transmitter.context._tenants["two"]
    transmitter.site.clock.now += 100
    transmitter.step()
    assert len(receiver_of_pushes.got) == 3
    transmitter.work._knows_owners = False  # as after a start
    transmitter.step()
    (stream,) = transmitter.site.store.security_events.list_all_streams()
    assert (stream.status, stream_figures(transmitter.site.store.security_events).waiting) == ("disabled", 0)


def test_what_a_receiver_refuses_does_not_come_again(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver
) -> None:
    """400 with a SET error is the end of that SET; an error about the stream is no word against it."""
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.refuse("invalid_request")
    receiver_of_pushes.refuse("authentication_failed")
    transmitter.commit(announced(1), announced(2))
    transmitter.site.clock.now += 10
    transmitter.step()

    assert causes(receiver, stream, receiver_of_pushes) == ["d-1", "d-2", "d-2"]
    assert transmitter.context.outcomes == {"queued": 2, "failed": 1, "retry": 1, "delivered": 1}


def test_a_dead_receiver_is_paused_and_loses_nothing_when_it_comes_back(
    transmit: Transmit, receiver_of_pushes: SetReceiver
) -> None:
    """It is told, if it hears that; the status says why; enabled again it gets what waited."""
    transmitter = transmit(PUSH_GIVE_UP_S=100.0)
    receiver = transmitter.receiver()
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers += [(500, b"")] * 2
    transmitter.commit(announced(1))
    transmitter.site.clock.now += 101
    transmitter.step()
    status = status_of(receiver, stream)

    assert (status["status"], status["reason"]) == ("paused", "pushes failed: HTTP 500")
    told = receiver.verified(receiver_of_pushes.tokens[-1], stream)
    assert told["events"][STREAM_UPDATED] == {"status": "paused", "reason": "pushes failed: HTTP 500"}
    transmitter.site.clock.now += 1000
    transmitter.step()
    assert len(receiver_of_pushes.got) == 3
    receiver.ask("POST", "status_endpoint", {"stream_id": stream["stream_id"], "status": "enabled"})
    transmitter.step()
    assert receiver.verified(receiver_of_pushes.tokens[-1], stream)["txn"] == "d-1"
    assert transmitter.context.outcomes["paused"] == 1


def test_a_receiver_that_says_it_is_gone_is_paused_at_once(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver
) -> None:
    """410."""
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers.append((410, b""))
    transmitter.commit(announced())

    assert status_of(receiver, stream)["status"] == "paused"


def test_redirects_are_not_followed(transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver) -> None:
    """They would lead where the operator never let us go."""
    receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers.append((307, b""))
    transmitter.commit(announced())

    assert transmitter.context.outcomes == {"queued": 1, "retry": 1}


def test_a_host_that_the_operator_took_back_is_called_no_more(
    transmitter: Any, receiver: Any, receiver_of_pushes: SetReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`push_hosts` holds at every push, not only when a stream is made."""
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    closed = type(transmitter.context.settings)(enabled=True)
    monkeypatch.setattr(transmitter.context, "settings", closed)
    transmitter.commit(announced())

    assert receiver_of_pushes.got == []
    assert "push_hosts" in status_of(receiver, stream)["reason"]


def test_a_slow_receiver_holds_up_nobody_else(
    transmit: Transmit, receiver_of_pushes: SetReceiver, second_receiver: SetReceiver, until: Until
) -> None:
    """A lane for each stream; the attempt that takes too long is ended and comes again."""
    transmitter = transmit(PUSH_TIMEOUT_S=4.0)  # the quick one has to answer within it on a busy machine
    slow, quick = transmitter.receiver(), transmitter.receiver("trusted")
    slow.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    quick.create_push(second_receiver.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.go.clear()
    transmitter.site.store.outbox.enqueue([announced(number) for number in range(3)])
    transmitter.now_s += 10
    transmitter.site.wait(transmitter.work.step())
    until(lambda: len(second_receiver.got) == 3)
    assert receiver_of_pushes.got == []
    transmitter.site.wait(transmitter.work.drain())
    assert transmitter.context.outcomes["retry"] == 1
    receiver_of_pushes.go.set()
    transmitter.site.clock.now += 10
    transmitter.step()
    until(lambda: len(receiver_of_pushes.got) >= 3)


def test_a_full_queue_of_a_dead_receiver_is_dropped(transmit: Transmit, receiver_of_pushes: SetReceiver) -> None:
    """Bounded though nobody takes anything; disabled, and the receiver is told once, if it hears that."""
    transmitter = transmit(MAX_WAITING=10)
    receiver = transmitter.receiver()
    stream = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    receiver_of_pushes.answers.append((503, b""))
    transmitter.commit(*(announced(number) for number in range(11)))
    status = status_of(receiver, stream)

    assert status["status"] == "disabled"
    (token,) = receiver_of_pushes.tokens
    assert receiver.verified(token, stream)["events"][STREAM_UPDATED] == {
        "status": "disabled",
        "reason": status["reason"],
    }
    assert stream_figures(transmitter.site.store.security_events).waiting == 0
