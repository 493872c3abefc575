"""The dispatcher with the real store, the real webhook notifier and real receivers on loopback; only time is ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from sqlalchemy import Connection
from standardwebhooks import Webhook

from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.delivery import dispatcher
from trustwatch.scoring.delivery.delivery_target import (
    DeliveryChannel,
    DeliveryResult,
    DeliveryTarget,
    DispatchPolicy,
)
from trustwatch.scoring.delivery.dispatcher import Dispatcher
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.commits import Commit, Delivery, LeasedDelivery, OutboxRow, Position
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.store.database import Database
from trustwatch.scoring.store.dialects import sqlite
from trustwatch.scoring.store.outbox_store import OutboxStore
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support import alert_receiver
from ...support.alert_receiver import ROUTING_KEY, SECRET, Receiver


class Clock:
    """UTC milliseconds that move only when told; they start now, since the verifier refuses old signatures."""

    def __init__(self) -> None:
        self.now = int(time.time() * 1000)

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def other() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_store(sqlite_url(tmp_path / "s.db"))
    store.partitions.claim(0)
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def target(receiver: Receiver, name: str = "soc", **values: Any) -> WebhookTarget:
    return alert_receiver.target(receiver.url, "cloudevents", name, **values)


def alert(number: int, clock: Clock, **values: Any) -> OutboxRow:
    given = {
        "decision_id": f"D{number}",
        "agent": AgentName(7, "acme", "https://as", "payer"),
        "decided_ms": clock(),
        "previous_level": 1,
        "level": 3,
        "reasons": (RiskReason(f"reason-{number}", "pace", "9", "1", 0.5, "fast"),),
    }
    decision = msgspec.structs.replace(alert_receiver.DECISION, **(given | values))
    return build_alert_row(decision, {"allow": True}, "https://trust.example")


def change(number: int, before: int, after: int, clock: Clock) -> OutboxRow:
    """An alert that the level of the agent of `DECISION` changed so."""
    payload = alert_receiver.change(RiskLevel(before), RiskLevel(after), decided_ms=clock())
    return msgspec.structs.replace(alert(number, clock), payload=payload, level=after)


def put(store: SqlStore, *rows: OutboxRow) -> None:
    at = store.partitions.position(0)
    store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], [], list(rows), []))


def states(store: SqlStore) -> dict[tuple[str, str], Delivery]:
    return {(one.key, one.target): one for one in store.outbox.page().items}


def dispatch(
    store: SqlStore | OutboxStore,
    clock: Clock,
    targets: Sequence[WebhookTarget],
    use: Callable[[Dispatcher], Awaitable[None]] = Dispatcher.drain,
    policy: DispatchPolicy | None = None,
) -> list[tuple[str, str]]:
    """A new dispatcher, as after a restart, put to use; returns what it observed."""
    seen: list[tuple[str, str]] = []

    async def go() -> None:
        async with make_webhook_client() as client:
            channels = [DeliveryChannel("alert", one, WebhookNotifier(client, clock)) for one in targets]
            chosen = policy or DispatchPolicy()
            outbox = store if isinstance(store, OutboxStore) else store.outbox
            jitter = random.Random(3)
            await use(Dispatcher(outbox, channels, chosen, clock, jitter, lambda *what: seen.append(what)))

    asyncio.run(go())
    return seen


def test_retry_after_failure(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """After a 500 the row waits for its backoff, is tried again under the same id, and then rests."""
    receiver.answers = [(500, {}, b"oops"), (500, {}, b"oops")]
    put(store, alert(1, clock))
    soc = [target(receiver)]

    dispatch(store, clock, soc)
    dispatch(store, clock, soc)  # nothing is due yet
    first = states(store)["alert-D1", "soc"]
    clock.now = first.next_attempt_ms
    dispatch(store, clock, soc)
    second = states(store)["alert-D1", "soc"]
    clock.now = second.next_attempt_ms
    dispatch(store, clock, soc)
    dispatch(store, clock, soc)

    assert (first.status, first.attempts, first.last_error) == ("pending", 1, "HTTP 500: oops")
    assert (second.status, second.attempts) == ("pending", 2)
    done = states(store)["alert-D1", "soc"]
    assert (done.status, done.attempts, done.delivered_ms) == ("delivered", 3, clock())
    assert receiver.keys == ["alert-D1"] * 3
    for headers, body in receiver.got:
        Webhook(SECRET).verify(body, headers)


def test_retry_after_header_pauses_the_target(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """A target that says when to come back is left alone until then, with every row."""
    receiver.answers = [(429, {"retry-after": "7"}, b"slow down")]
    put(store, alert(1, clock))
    start = clock()

    async def use(dispatcher: Dispatcher) -> None:
        await dispatcher.drain()
        await asyncio.to_thread(put, store, alert(2, clock))
        clock.now = start + 6_999
        await dispatcher.drain()
        assert receiver.keys == ["alert-D1"]
        clock.now = start + 7_000
        await dispatcher.drain()

    dispatch(store, clock, [target(receiver)], use)

    assert sorted(receiver.keys) == ["alert-D1", "alert-D1", "alert-D2"]
    assert {one.status for one in states(store).values()} == {"delivered"}


@pytest.mark.parametrize("status", [400, 401, 404])
def test_refusal_is_final(store: SqlStore, clock: Clock, receiver: Receiver, status: int) -> None:
    """A refusal that time will not change ends the row, visibly; a huge answer is not kept."""
    receiver.answers = [(status, {}, b"bad \x1b[2J" * 200_000)]
    put(store, alert(1, clock))

    dispatch(store, clock, [target(receiver)])
    clock.now += 10_000
    dispatch(store, clock, [target(receiver)])

    state = states(store)["alert-D1", "soc"]
    assert (state.status, state.attempts) == ("failed", 1)
    assert state.last_error.startswith(f"HTTP {status}: bad")
    assert len(state.last_error) < 220
    assert len(receiver.got) == 1


def test_gone_stops_the_target(store: SqlStore, clock: Clock, receiver: Receiver, other: Receiver) -> None:
    """After 410 nothing more is sent, also after a restart, until the target's URL changes; no alert is lost."""
    receiver.answers = [(410, {}, b"")]
    put(store, alert(1, clock))
    dispatch(store, clock, [target(receiver)])
    put(store, alert(2, clock))
    clock.now += 5_000
    dispatch(store, clock, [target(receiver)])

    assert receiver.keys == ["alert-D1"]
    assert {one.status for one in states(store).values()} == {"pending"}

    dispatch(store, clock, [target(other)])

    assert sorted(other.keys) == ["alert-D1", "alert-D2"]
    assert {one.status for one in states(store).values()} == {"delivered"}


def test_hanging_target_delays_no_other(
    store: SqlStore, clock: Clock, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that never answers uses up its own time budget; meanwhile another one gets all of its alerts."""
    monkeypatch.setattr(dispatcher, "ATTEMPT_TIMEOUT_S", 0.5)
    receiver.go.clear()
    put(store, *(alert(number, clock) for number in range(6)))

    seen = dispatch(store, clock, [target(receiver, "hangs"), target(other, "fine")])

    assert seen[:6] == [("fine", "delivered")] * 6  # all of them before the first time-out of the other one
    found = states(store)
    assert {found[f"alert-D{number}", "fine"].status for number in range(6)} == {"delivered"}
    hanging = found["alert-D0", "hangs"]
    assert (hanging.status, hanging.last_error) == ("pending", "no answer within 0.5 s")


def test_dispatcher_that_died_in_an_attempt(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """A row that was leased by a dispatcher that died is delivered by the next one when the lease runs out."""
    put(store, alert(1, clock))

    async def route_only(dispatcher: Dispatcher) -> None:
        await dispatcher._route()

    dispatch(store, clock, [target(receiver)], route_only)
    store.outbox.lease("soc", clock(), 1, 15_000)  # ... and its process is gone

    dispatch(store, clock, [target(receiver)])
    assert receiver.got == []
    clock.now += 15_000
    dispatch(store, clock, [target(receiver)])

    assert receiver.keys == ["alert-D1"]
    assert states(store)["alert-D1", "soc"].attempts == 2


def test_cooldown_and_escalation(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """Repeats within the cool-down are suppressed, an escalation never, and each alert tells what was kept back."""
    reasons = (RiskReason("burst", "pace", "9", "1", 0.5, "fast"),)
    start = clock()
    plan = [(0, 3), (10, 3), (20, 2), (30, 4), (40, 3), (931, 3)]
    for number, (at_s, level) in enumerate(plan):
        put(store, alert(number, clock, level=level, reasons=reasons, decided_ms=start + at_s * 1000))
    dispatch(store, clock, [target(receiver)], policy=DispatchPolicy(cooldown_s=900, concurrency=1))

    told = [json.loads(body)["data"] for _, body in receiver.got]
    assert [(one["decision_id"], one["risk_level"], one["suppressed_before"]) for one in told] == [
        ("D0", "high", 0),
        ("D3", "critical", 2),
        ("D5", "high", 1),
    ]
    assert [key for (key, _), one in states(store).items() if one.status == "suppressed"] == [
        "alert-D4",
        "alert-D2",
        "alert-D1",
    ]


def test_levels_of_a_target(store: SqlStore, clock: Clock, receiver: Receiver, other: Receiver) -> None:
    """A target gets the levels it asked for and no others."""
    put(store, alert(1, clock, level=1), alert(2, clock, level=3), alert(3, clock, level=4))
    urgent = target(receiver, "urgent", levels=("critical",))

    dispatch(store, clock, [urgent, target(other, "all")])

    assert receiver.keys == ["alert-D3"]
    assert sorted(other.keys) == ["alert-D1", "alert-D2", "alert-D3"]


def test_too_old_is_dead(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """What could not be delivered within the maximum age is given up, visibly, and not sent any more."""
    receiver.answers = [(500, {}, b"")]
    put(store, alert(1, clock))
    policy = DispatchPolicy(max_age_s=60, cooldown_s=0)
    dispatch(store, clock, [target(receiver)], policy=policy)
    clock.now += 60_001
    dispatch(store, clock, [target(receiver)], policy=policy)

    state = states(store)["alert-D1", "soc"]
    assert (state.status, state.last_error) == ("dead", "given up: too old; last error: HTTP 500")
    assert len(receiver.got) == 1


def test_pagerduty_hears_of_every_rise_and_of_the_end(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """No cool-down there: it would leave incidents open. What it has no use for is suppressed and says why."""
    pager = alert_receiver.target(receiver.url, "pagerduty")
    steps = ((1, 3), (3, 4), (4, 2), (2, 1), (1, 2))
    for number, (before, after) in enumerate(steps):
        clock.now += 1
        put(store, change(number, before, after, clock))
        dispatch(store, clock, [pager])

    assert [body["event_action"] for body in receiver.bodies] == ["trigger", "trigger", "resolve", "trigger"]
    assert {body["routing_key"] for body in receiver.bodies} == {ROUTING_KEY}
    found = states(store)
    assert [found[f"alert-D{n}", "soc"].status for n in range(5)] == ["delivered"] * 2 + ["suppressed"] + [
        "delivered"
    ] * 2
    assert found["alert-D2", "soc"].last_error.startswith("nothing to pagerduty")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_retried_trigger_does_not_reopen_what_is_resolved(
    store: SqlStore, clock: Clock, receiver: Receiver, workers: int
) -> None:
    """The trigger fails: the resolve of its case waits until it has arrived, whichever process looks."""
    pager = alert_receiver.target(receiver.url, "pagerduty")
    receiver.answers = [(503, {}, b"")]
    for number, (before, after) in enumerate(((1, 3), (3, 1), (1, 3))):
        put(store, change(number, before, after, clock))
        dispatch(store, clock, [pager])
        if number == 1:
            clock.now += 10_000
            for _ in range(workers):
                dispatch(store, clock, [pager])

    assert [body["event_action"] for body in receiver.bodies] == ["trigger", "trigger", "resolve", "trigger"]
    assert {found.status for found in states(store).values()} == {"delivered"}


def test_changes_of_one_agent_reach_pagerduty_in_their_order(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """Though several rows are tried at once: those about one agent one after the other."""
    pager = alert_receiver.target(receiver.url, "pagerduty")
    levels = [1, 3, 1, 4, 1, 2, 1, 3, 1]
    for number, (before, after) in enumerate(pairwise(levels)):
        put(store, change(number, before, after, clock))

    async def use(dispatcher: Dispatcher) -> None:
        receiver.go.clear()
        draining = asyncio.create_task(dispatcher.drain())
        await _until(lambda: len(receiver.got) > 0)
        await asyncio.sleep(0.2)
        assert len(receiver.got) == 1
        receiver.go.set()
        await draining

    dispatch(store, clock, [pager], use, DispatchPolicy(concurrency=8))

    assert [body["event_action"] for body in receiver.bodies] == ["trigger", "resolve"] * 4


def test_a_changed_format_holds_for_what_waits(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """Alerts are written at delivery: what was put there before the change arrives in the new format."""
    receiver.answers = [(503, {}, b"")]
    put(store, alert(1, clock))
    dispatch(store, clock, [alert_receiver.target(receiver.url, "cloudevents")])
    clock.now += 1_000_000
    dispatch(store, clock, [alert_receiver.target(receiver.url, "slack")])

    assert [sorted(body)[0] for body in receiver.bodies] == ["data", "blocks"]
    assert states(store)["alert-D1", "soc"].status == "delivered"


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for *condition*; the suite's own time-out ends it if it never comes true."""
    while not condition():
        await asyncio.sleep(0.005)


def test_run_is_woken(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """The running dispatcher delivers when it is told that there is work, without waiting to look by itself, and
    ends when it is told to."""

    async def use(dispatcher: Dispatcher) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(dispatcher.run(stop))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(put, store, alert(1, clock))
        dispatcher.wake()
        await _until(lambda: len(receiver.got) == 1)
        stop.set()
        await running

    dispatch(store, clock, [target(receiver)], use, DispatchPolicy(poll_s=3_600))

    assert states(store)["alert-D1", "soc"].status == "delivered"


def test_run_outlives_a_locked_store(
    tmp_path: Path, clock: Clock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is unavailable the dispatcher waits; afterwards it delivers."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("busy_timeout=5", *sqlite._PRAGMAS[1:]))
    store = open_store(sqlite_url(tmp_path / "l.db"))
    store.partitions.claim(0)
    put(store, alert(1, clock))

    async def use(dispatcher: Dispatcher) -> None:
        stop = asyncio.Event()
        with closing(sqlite3.connect(tmp_path / "l.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            running = asyncio.create_task(dispatcher.run(stop))
            await asyncio.sleep(0.1)
            assert receiver.got == []
            lock.execute("ROLLBACK")
        await _until(lambda: len(receiver.got) == 1)
        stop.set()
        await running

    dispatch(store, clock, [target(receiver)], use, DispatchPolicy(poll_s=0.01))

    assert states(store)["alert-D1", "soc"].status == "delivered"
    store.close()


class WatchedDatabase(Database):
    """The real database, noting every transaction that ran in a thread with an event loop."""

    blocked = 0
    calls = 0

    def _note(self) -> None:
        self.calls += 1
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self.blocked += 1

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        self._note()
        with super().read() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        self._note()
        with super().write() as connection:
            yield connection


def test_event_loop_never_waits_for_the_store(store: SqlStore, clock: Clock, receiver: Receiver) -> None:
    """Every call of the store runs in another thread than the loop."""
    receiver.answers = [(500, {}, b""), (410, {}, b"")]
    put(store, alert(1, clock), alert(2, clock), alert(3, clock))
    watched = WatchedDatabase(store.database.engine)

    dispatch(OutboxStore(watched), clock, [target(receiver)], policy=DispatchPolicy(concurrency=1))

    assert watched.calls > 5
    assert watched.blocked == 0


class PlainTarget(NamedTuple):
    """A target that takes everything, in any order."""

    name: str
    levels_taken: frozenset[RiskLevel] = frozenset(RiskLevel)
    has_cooldown: bool = True
    ordered: bool = False
    fingerprint: str = "plain"


class Counting:
    """A notifier that counts how many rows it holds at once, and fails by exception when told to."""

    def __init__(self, faults: int = 0) -> None:
        self.now = self.most = self.delivered = 0
        self.faults = faults

    async def deliver(self, row: LeasedDelivery, target: DeliveryTarget) -> DeliveryResult:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.faults:
            self.faults -= 1
            raise RuntimeError("secret in here")
        self.delivered += 1
        return DeliveryResult("delivered")


def test_concurrency_is_bounded(store: SqlStore, clock: Clock) -> None:
    """However many rows wait, a target holds no more at once than the policy says, and gets them all."""
    put(store, *(alert(number, clock) for number in range(250)))
    notifier = Counting()
    channel = DeliveryChannel("alert", PlainTarget("t"), notifier)

    asyncio.run(Dispatcher(store.outbox, [channel], DispatchPolicy(concurrency=3), clock, random.Random(1)).drain())

    assert (notifier.most, notifier.delivered) == (3, 250)


def test_fault_of_a_notifier(store: SqlStore, clock: Clock) -> None:
    """A notifier that raises ends neither its lane nor the row, and the error does not show the message."""
    put(store, alert(1, clock), alert(2, clock))
    notifier = Counting(faults=1)
    channel = DeliveryChannel("alert", PlainTarget("t"), notifier)

    asyncio.run(Dispatcher(store.outbox, [channel], DispatchPolicy(), clock, random.Random(1)).drain())

    found = {one.status: one for one in states(store).values()}
    assert found.keys() == {"pending", "delivered"}
    assert found["pending"].last_error == "internal error: RuntimeError"


def test_names_are_unique(store: SqlStore, clock: Clock) -> None:
    """Two targets of one name would share their state, so they are refused."""
    channel = DeliveryChannel("alert", PlainTarget("t"), Counting())

    with pytest.raises(ConfigError, match="unique"):
        Dispatcher(store.outbox, [channel, channel], DispatchPolicy(), clock, random.Random(1))


def test_targets_are_replaced_while_it_runs(store: SqlStore, clock: Clock, receiver: Receiver, other: Receiver) -> None:
    """From then on alerts go to the new targets alone, under their secrets; one that stays keeps its worker."""
    stays, goes = target(receiver, "stays"), target(receiver, "goes")
    changed = msgspec.structs.replace(target(other, "goes"))

    async def go() -> None:
        async with make_webhook_client() as client:

            def channels(*targets: WebhookTarget) -> list[DeliveryChannel[Any]]:
                return [DeliveryChannel("alert", one, WebhookNotifier(client, clock)) for one in targets]

            policy = DispatchPolicy(poll_s=0.02, cooldown_s=0.0)
            dispatcher = Dispatcher(store.outbox, channels(stays, goes), policy, clock, random.Random(3))
            stop = asyncio.Event()
            running = asyncio.create_task(dispatcher.run(stop))
            put(store, alert(1, clock))
            await _until(lambda: len(receiver.got) == 2)
            dispatcher.use(channels(stays, changed))
            put(store, alert(2, clock))
            await _until(lambda: len(receiver.got) == 3 and len(other.got) == 1)
            dispatcher.use(channels(changed))
            put(store, alert(3, clock))
            await _until(lambda: len(other.got) == 2)
            stop.set()
            await running

    asyncio.run(asyncio.wait_for(go(), 20))
    assert len(receiver.got) == 3
