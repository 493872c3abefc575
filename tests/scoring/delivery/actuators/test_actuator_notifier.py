"""The loop from a row of the outbox to what the server confirms, with a real store and a small server in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from trustwatch.scoring.delivery.actuators import actuator_notifier
from trustwatch.scoring.delivery.actuators.actuator import (
    ActuationResult,
    Actuator,
)
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuationMetrics, ActuatorNotifier
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, build_action_row
from trustwatch.scoring.delivery.delivery_target import DeliveryResult
from trustwatch.scoring.records.commits import LeasedDelivery, OutboxRow
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ....support.authorization_servers import DEFAULT_S, MemoryActuator, MemoryServer, MemoryState, now_ms, wish


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store."""
    opened = open_store(sqlite_url(tmp_path / "store.db"))
    yield opened
    opened.close()


class NotifierAtServer:
    """One notifier at one server. What a row asks is what holds, unless `holds` says otherwise."""

    def __init__(self, store: SqlStore, actuator: Actuator, **target: Any) -> None:
        self.store = store
        self.target = ActuatorSettings("as", "hydra", "https://as", **{"issuers": ("*",), **target})
        self.seen: list[tuple[str, str, float | None]] = []
        self.holds: DesiredState | None = None
        self.notifier = ActuatorNotifier(
            actuator, store.actuations, self._now, now_ms, lambda *seen: self.seen.append(seen)
        )

    async def _now(self, asked: DesiredState) -> DesiredState:
        return self.holds or asked

    async def deliver(self, seq: int, asked: DesiredState | OutboxRow) -> DeliveryResult:
        row = asked if isinstance(asked, OutboxRow) else build_action_row(f"row-{seq}", asked)
        return await self.notifier.deliver(LeasedDelivery(seq, row, "as", 1, 0, 0), self.target)

    def send(self, seq: int, asked: DesiredState | OutboxRow) -> DeliveryResult:
        return asyncio.run(self.deliver(seq, asked))

    def row(self) -> Actuation:
        return self.store.actuations.page().items[0]

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome, _ in self.seen]


@pytest.fixture
def world() -> MemoryServer:
    """A server without clients."""
    return MemoryServer()


@pytest.fixture
def bot(world: MemoryServer) -> str:
    """A client of it."""
    return world.client()


@pytest.fixture
def desk(store: SqlStore, world: MemoryServer) -> NotifierAtServer:
    """A notifier at it, with the right credentials."""
    return NotifierAtServer(store, MemoryActuator(world, True))


def test_agents_of_others_are_left_alone(store: SqlStore, world: MemoryServer, bot: str) -> None:
    """Neither their tenant nor their issuer is configured: nothing is read, written or noted."""
    desk = NotifierAtServer(store, MemoryActuator(world, True), tenants=("acme",), issuers=("https://as",))

    for other in (wish(bot, "critical", tenant="globex"), wish(bot, "critical", issuer="https://evil")):
        assert desk.send(1, other).outcome == "skipped"

    assert world.writes == 0
    assert store.actuations.page().items == []
    assert desk.send(2, wish(bot, "critical")).outcome == "delivered"
    assert world.issue(bot) is None


def test_an_agent_may_have_another_client(store: SqlStore, world: MemoryServer) -> None:
    """The mapping of the settings holds for lowering and for restoring."""
    client = world.client("client-7")
    desk = NotifierAtServer(store, MemoryActuator(world, True), clients={"bot": client})

    desk.send(1, wish("bot", "high"))
    assert world.clients[client].lifespan_s == 60
    desk.send(2, wish("bot", "low"))

    assert world.clients[client] == MemoryState(True, True, None)


def test_what_never_was_lowered_is_not_touched(
    store: SqlStore, world: MemoryServer, bot: str, desk: NotifierAtServer
) -> None:
    """An agent that falls to `low` needs nothing of a server that is down."""
    world.stop()

    assert desk.send(1, wish(bot, "low")).outcome == "delivered"

    assert desk.outcomes == ["unchanged"]
    assert store.actuations.page().items == []


def test_what_holds_now_is_done_not_what_the_row_says(world: MemoryServer, bot: str, desk: NotifierAtServer) -> None:
    """A person pinned the agent after the row was written."""
    desk.holds = wish(bot, "critical")

    desk.send(1, wish(bot, "medium"))

    assert world.issue(bot) is None
    assert msgspec.json.decode(desk.row().desired)["level"] == "critical"


def test_credentials_that_are_refused_are_seen_and_tried_again(store: SqlStore, world: MemoryServer, bot: str) -> None:
    """The error is at the actuation and at the delivery; nothing is kept as the original."""
    refused = NotifierAtServer(store, MemoryActuator(world, False)).send(1, wish(bot, "high"))

    assert refused.outcome == "retry"
    row = store.actuations.page().items[0]
    assert (row.status, row.error, row.original) == ("wanted", "not you", b"")
    assert NotifierAtServer(store, MemoryActuator(world, True)).send(1, wish(bot, "high")).outcome == "delivered"


class Forgetful(MemoryActuator):
    """A server that takes every call and keeps nothing of it."""

    async def _write_client(self, client: Any, state: MemoryState) -> None:
        self.asked = state


def test_what_is_not_read_back_is_no_success(store: SqlStore, world: MemoryServer, bot: str) -> None:
    """Neither lowering nor restoring counts before the server shows it."""
    desk = NotifierAtServer(store, Forgetful(world, True))

    lowered = desk.send(1, wish(bot, "high"))

    assert lowered.outcome == "retry"
    assert "reading back" in lowered.error
    assert desk.row().confirmed_ms == 0
    NotifierAtServer(store, MemoryActuator(world, True)).send(1, wish(bot, "high"))
    restored = desk.send(2, wish(bot, "low"))
    assert restored.outcome == "retry"
    assert desk.row().original  # still to be restored


class Hanging(MemoryActuator):
    """A server that does not answer."""

    async def _read_client(self, client_id: str) -> Any:
        await asyncio.sleep(60)


def test_a_server_that_hangs_is_told_at_the_actuation(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the dispatcher's time is over, so that the operator sees why."""
    monkeypatch.setattr(actuator_notifier, "ATTEMPT_TIMEOUT_S", 0.2)
    world = MemoryServer()
    desk = NotifierAtServer(store, Hanging(world, True))

    assert desk.send(1, wish("bot", "high")).outcome == "retry"

    assert desk.row().error == "no answer of the server within 0.18 s"


class Unasked:
    """A receiver that accepts, and cannot be asked."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def capture(self, client_id: str) -> bytes:
        return b"{}"

    async def lower(self, client_id: str, original: bytes, wish: DesiredState) -> ActuationResult:
        self.told.append(wish.level)
        return ActuationResult(original, confirmed=False)

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        self.told.append("restore")
        return ActuationResult(original, confirmed=False)


def test_accepted_is_not_confirmed(store: SqlStore) -> None:
    """Without anybody to ask the state says so, and no containment time is told."""
    receiver = Unasked()
    desk = NotifierAtServer(store, receiver)

    desk.send(1, wish("bot", "critical"))

    assert (desk.row().status, desk.row().confirmed_ms) == ("applied", 0)
    assert desk.seen == [("as", "applied", None)]
    desk.send(2, wish("bot", "low"))
    assert receiver.told == ["critical", "restore"]


def test_one_decision_revokes_once_where_tokens_are_still_issued(
    world: MemoryServer, bot: str, desk: NotifierAtServer
) -> None:
    """A policy that revokes and allows: tokens from after it are the agent's own, whoever looks again."""
    asked = wish(bot, "high", revoke=True)
    old = world.issued(bot).token

    desk.send(1, asked)
    new = world.issued(bot).token
    desk.send(2, msgspec.structs.replace(asked, decided_ms=now_ms(), caused_ms=0))

    assert not world.active(old)
    assert world.active(new)
    desk.send(3, wish(bot, "high", revoke=True))
    assert not world.active(new)


def test_a_further_look_tells_no_second_containment(world: MemoryServer, bot: str, desk: NotifierAtServer) -> None:
    """The time of the event stays that of the decision; a retry after a failure is still told once."""
    asked = wish(bot, "high", caused_ms=now_ms() - 3_000)
    world.stop()
    desk.send(1, asked)
    world.start()

    desk.send(1, asked)
    first = desk.row()
    time.sleep(0.01)
    desk.send(2, msgspec.structs.replace(asked, caused_ms=0, decided_ms=now_ms()))

    assert (desk.row().confirmed_ms, desk.row().wanted_ms) == (first.confirmed_ms, first.wanted_ms)
    assert desk.row().updated_ms > first.updated_ms
    assert desk.outcomes == ["retry", "confirmed", "confirmed"]
    told = [seconds for _, _, seconds in desk.seen if seconds is not None]
    assert len(told) == 1
    assert 3.0 <= told[0] < 10.0
    assert desk.row().caused_ms == asked.caused_ms


class Slow(MemoryActuator):
    """Writes only when it is let to."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, True)
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def _write_client(self, client: Any, state: MemoryState) -> None:
        self.reached.set()
        await self.go.wait()
        await super()._write_client(client, state)


def test_a_write_that_lands_after_the_restoration_is_undone(store: SqlStore, world: MemoryServer, bot: str) -> None:
    """A process that stalls between reading and writing still knows how it was, though another restored meanwhile."""

    async def race() -> list[DeliveryResult]:
        slow = Slow(world)
        stalled = asyncio.create_task(NotifierAtServer(store, slow).deliver(1, wish(bot, "high")))
        await slow.reached.wait()
        quick = await NotifierAtServer(store, MemoryActuator(world, True)).deliver(2, wish(bot, "low"))
        assert store.actuations.page().items[0].original == b""
        slow.go.set()
        return [quick, await stalled]

    results = asyncio.run(race())

    assert [result.outcome for result in results] == ["delivered", "delivered"]
    assert world.clients[bot] == MemoryState(True, True, None)
    row = store.actuations.page().items[0]
    assert (row.version, row.status, row.original) == (2, "restored", b"")


def test_rows_of_one_agent_wait_for_each_other_others_do_not(store: SqlStore, world: MemoryServer) -> None:
    """A process never has two hands at one client."""
    one, other = world.client(), world.client()

    async def work() -> None:
        slow = Slow(world)
        desk = NotifierAtServer(store, slow)
        first = asyncio.create_task(desk.deliver(1, wish(one, "high")))
        await slow.reached.wait()
        second = asyncio.create_task(desk.deliver(2, wish(one, "medium")))
        await asyncio.sleep(0.05)
        assert store.actuations.page().items[0].version == 1
        slow.go.set()
        await desk.deliver(3, wish(other, "high"))
        await asyncio.gather(first, second)

    asyncio.run(work())

    assert world.clients[one].lifespan_s == 300
    assert world.clients[other].lifespan_s == 60


def test_a_client_that_is_gone_has_nothing_to_be_restored(
    world: MemoryServer, bot: str, desk: NotifierAtServer
) -> None:
    """It was deleted at the server while it was lowered: that ends it, without a retry for ever."""
    desk.send(1, wish(bot, "high"))
    del world.clients[bot]

    assert desk.send(2, wish(bot, "low")).outcome == "delivered"

    row = desk.row()
    assert (row.status, row.original) == ("restored", b"")
    assert bot in row.error


def test_a_row_that_can_not_be_read_fails_for_good(store: SqlStore) -> None:
    """It says why, and nothing is tried again."""
    desk = NotifierAtServer(store, MemoryActuator(MemoryServer(), True))

    result = desk.send(1, OutboxRow("k", "action", "", b'{"level":"high"}', 0))

    assert result.outcome == "failed"
    assert "cannot be read" in result.error


def test_a_ceiling_of_nothing_is_a_second() -> None:
    """Servers take 0 for "not set"."""
    assert wish("bot", "critical").ceiling_s == 1
    assert wish("bot", "low").ceiling_s is None
    assert DEFAULT_S > 300


def test_figures_are_a_histogram() -> None:
    """Cumulated, with `+Inf` at the end; attempts without a time are counted alone."""
    figures = ActuationMetrics()
    for seconds in (0.05, 0.1, 0.3, 1.99, 2.5, 61.0):
        figures.record("as", "confirmed", seconds)
    figures.record("as", "retry")
    figures.record("other", "retry")

    buckets = dict(figures.histogram_buckets("as"))

    assert [buckets[bound] for bound in ("0.1", "0.25", "0.5", "2", "3", "60", "+Inf")] == [2, 2, 3, 4, 5, 5, 6]
    assert figures.containment_seconds["as"] == pytest.approx(65.94)
    assert figures.outcomes == {("as", "confirmed"): 6, ("as", "retry"): 1, ("other", "retry"): 1}
    assert figures.targets == ["as"]


def test_the_log_tells_what_was_done_at_a_server(world: MemoryServer, bot: str, desk: NotifierAtServer) -> None:
    """Confirmed, restored, put off with its error; that nothing had to be done is no line."""
    with capture_logs() as lines:
        desk.send(1, wish(bot, "low"))
        desk.send(2, wish(bot, "critical"))
        desk.send(3, wish(bot, "low"))
        world.stop()
        desk.send(4, wish(bot, "critical"))

    assert [(line["outcome"], line["risk_level"]) for line in lines] == [
        ("confirmed", "critical"),
        ("restored", "low"),
        ("retry", "critical"),
    ]
    assert [line["log_level"] for line in lines] == ["info", "info", "warning"]
    assert lines[0]["error"] is None
    assert lines[2]["error"]
