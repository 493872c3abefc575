"""The work behind the routes: it goes on whatever fails, and one process of a deployment does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.api.settings.enforcement_settings import HookSettings
from trustwatch.api.shared_signals import transmitter as module
from trustwatch.api.shared_signals.transmitter_context import TransmitterContext
from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.shared_signals.event_types import RISK_LEVEL_CHANGE, TOKEN_CLAIMS_CHANGE

from ...support.shared_signals import SetReceiver, announced

Transmit = Callable[..., Any]
Until = Callable[[Callable[[], Any]], Any]


class FakeLock:
    """A leader's lock that fails as told."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.released = False

    def ensure_held(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def release(self) -> None:
        self.released = True


def test_it_runs_until_it_is_told_to_stop(transmit: Transmit, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    """Neither a store that is away nor a fault of ours ends it."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    transmitter = transmit()
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    events, failures = transmitter.site.store.security_events, [Unavailable("away"), ValueError("a fault")]
    whole = events.list_underived

    def failing(limit: int) -> Any:
        if failures:
            raise failures.pop(0)
        return whole(limit)

    monkeypatch.setattr(events, "list_underived", failing)
    transmitter.site.store.outbox.enqueue([announced()])
    stop = asyncio.Event()
    running = asyncio.run_coroutine_threadsafe(transmitter.work.run(stop), transmitter.site.loop)
    transmitter.site.inside(transmitter.work.wake)
    until(lambda: receiver.sets(stream))
    assert not running.done()
    transmitter.site.inside(stop.set)
    running.result(5)
    assert failures == []


def test_only_the_leader_transmits(transmit: Transmit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process takes over when the lock is free."""
    transmitter = transmit()
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    locks: list[FakeLock | None] = [None, FakeLock()]
    monkeypatch.setattr(transmitter.site.store.database, "acquire_leader_lock", lambda _: locks.pop(0))
    transmitter.commit(announced())
    assert receiver.sets(stream) == []
    transmitter.step()
    assert len(receiver.sets(stream)) == 1


@pytest.mark.parametrize("failure", [Fenced("lost"), Unavailable("away")])
def test_a_lock_that_was_lost_is_given_back(
    transmit: Transmit, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Another process may transmit by now; this one asks again."""
    transmitter = transmit()
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    lost, again = FakeLock(failure), FakeLock()
    locks = [lost, again]
    monkeypatch.setattr(transmitter.site.store.database, "acquire_leader_lock", lambda _: locks.pop(0))
    transmitter.step()
    transmitter.site.store.outbox.enqueue([announced()])
    if isinstance(failure, Unavailable):
        with pytest.raises(Unavailable):
            transmitter.step()
    else:
        transmitter.step()
    assert lost.released
    assert receiver.sets(stream) == []
    transmitter.step()
    assert len(receiver.sets(stream)) == 1


def test_a_key_that_can_not_be_used_puts_pushes_off(transmit: Transmit, receiver_of_pushes: SetReceiver) -> None:
    """The receiver's header cannot be read without its key: nothing is sent without it, nor lost."""
    transmitter = transmit()
    receiver = transmitter.receiver()
    stream = receiver.create_push(receiver_of_pushes.url, "Bearer x", events=(RISK_LEVEL_CHANGE,))
    sealing_key = transmitter.site.settings.data_dir / "shared-signals" / "sealing-key"
    good = sealing_key.read_bytes()
    sealing_key.write_bytes(bytes(32))
    transmitter.context.keys._sealer._key = None
    transmitter.commit(announced())
    assert receiver_of_pushes.got == []
    assert transmitter.context.outcomes["retry"] == 1
    sealing_key.write_bytes(good)
    transmitter.context.keys._sealer._key = None
    transmitter.site.clock.now += 10
    transmitter.step()
    assert receiver.verified(receiver_of_pushes.tokens[0], stream)["txn"] == "d-1"


def test_claims_are_told_where_a_hook_writes_them(transmit: Transmit) -> None:
    """Of the tenant and issuer of a hook with `claims`; the hook of callers is of whomever they speak for."""
    hooks = (
        HookSettings(name="acme", kind="hydra", tenant="acme", issuer="https://as.example", secret=Secret("s" * 20)),
        HookSettings(
            name="quiet",
            kind="okta",
            tenant="globex",
            issuer="https://as.example",
            secret=Secret("s" * 20),
            claims=False,
        ),
    )
    transmitter = transmit(hooks=hooks)
    receiver = transmitter.receiver("all")
    stream = receiver.create((TOKEN_CLAIMS_CHANGE,))
    transmitter.commit(announced(1), announced(2, tenant="globex"), announced(3, 1, 4, revokes=False))

    told = [(one["txn"], one["events"][TOKEN_CLAIMS_CHANGE]["claims"]) for one in receiver.sets(stream)]
    assert told == [("d-1", {"risk_level": "critical"}), ("d-3", {"risk_level": "low"})]
    settings = msgspec.structs.replace(transmitter.site.settings, hooks=(HookSettings(name="pdp", kind="authzen"),))
    context = TransmitterContext(settings, transmitter.site.clock, transmitter.site.clock)
    assert context.writes_claims("globex", "https://other.example")
    few = tuple(caller for caller in settings.callers if caller.name == "gateway")
    context = TransmitterContext(
        msgspec.structs.replace(settings, callers=few), transmitter.site.clock, transmitter.site.clock
    )
    assert context.writes_claims("acme", "https://other.example")
    assert not context.writes_claims("globex", "https://other.example")
