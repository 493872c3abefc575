"""What every actuator promises, at a server in memory and at real ones: clients feel what is lowered, and it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.delivery.actuators.actuator import (
    Actuator,
    ActuatorAccessDenied,
    ActuatorUnavailable,
    UnknownClient,
)
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuatorNotifier
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, build_action_row
from trustwatch.scoring.delivery.delivery_target import DeliveryResult
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from trustwatch.scoring.records.commits import LeasedDelivery
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.store.containment_store import ActuationStore
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ..support.authorization_servers import (
    DEFAULT_S,
    AuthorizationServer,
    HydraServer,
    KeycloakServer,
    MemoryServer,
    now_ms,
    wish,
)

T = TypeVar("T")
SERVERS = ["memory", *(pytest.param(name, marks=pytest.mark.integration) for name in ("hydra", "keycloak"))]
STORED = {"notBefore"}
"""Since when tokens of a client of Keycloak count: a revocation stays."""


@pytest.fixture(scope="module")
def _realms() -> list[KeycloakServer]:
    """One realm for the module: to make it takes Keycloak longer than most tests take."""
    return []


@pytest.fixture(params=SERVERS)
def world(request: pytest.FixtureRequest, _realms: list[KeycloakServer]) -> AuthorizationServer:
    """Each server; a test makes clients of its own."""
    if request.param == "memory":
        return MemoryServer()
    server = request.getfixturevalue(request.param)
    if request.param == "hydra":
        return HydraServer(server)
    if not _realms:
        _realms.append(KeycloakServer(server))
    return _realms[0]


def with_actuator(world: AuthorizationServer, work: Callable[[Actuator], Awaitable[T]]) -> T:
    """Do some *work* with the server's actuator."""

    async def run() -> T:
        async with world.opened() as actuator:
            return await work(actuator)

    return asyncio.run(run())


def lower(world: AuthorizationServer, client: str, *wishes: DesiredState, original: bytes = b"") -> bytes:
    """Bring them about, one after the other; returns what has to be restored."""

    async def work(actuator: Actuator) -> bytes:
        kept = original or await actuator.capture(client)
        for one in wishes:
            brought = await actuator.lower(client, kept, one)
            assert brought.confirmed
            kept = brought.original
        return kept

    return with_actuator(world, work)


def restore(world: AuthorizationServer, client: str, original: bytes) -> None:
    """Restore, and be told that it is so."""

    async def work(actuator: Actuator) -> None:
        assert (await actuator.restore(client, original)).confirmed

    with_actuator(world, work)


def test_the_next_token_is_shorter_and_refresh_goes_on(world: AuthorizationServer) -> None:
    """A ceiling is felt at once, by this client alone; restored, everything is as it was."""
    bot, other = world.client(), world.client()
    before, others, refresh = world.shown(bot), world.shown(other), world.refresh_token(bot)
    assert world.issued(bot).lifetime_s == DEFAULT_S

    original = lower(world, bot, wish(bot, "medium"))

    assert 290 <= world.issued(bot).lifetime_s <= 300  # Hydra counts from when it began
    assert world.refreshes(bot, refresh)
    assert world.issued(other).lifetime_s == DEFAULT_S
    assert world.shown(other) == others
    restore(world, bot, original)
    assert world.shown(bot) == before
    assert world.issued(bot).lifetime_s == DEFAULT_S


def test_what_is_shorter_already_stays(world: AuthorizationServer) -> None:
    """A ceiling never lengthens a token."""
    bot = world.client(lifespan_s=120)
    before = world.shown(bot)

    original = lower(world, bot, wish(bot, "medium", max_token_lifetime_s=130))

    assert 110 <= world.issued(bot).lifetime_s <= 120
    restore(world, bot, original)
    assert world.shown(bot) == before


def test_refresh_is_refused_while_tokens_are_issued(world: AuthorizationServer) -> None:
    """Tokens of a minute, no refresh; another client refreshes as ever."""
    bot, other = world.client(), world.client()
    before, refresh, others = world.shown(bot), world.refresh_token(bot), world.refresh_token(other)
    time.sleep(1.1)  # tokens count by whole seconds

    original = lower(world, bot, wish(bot, "high", decided_ms=now_ms()))

    assert not world.refreshes(bot, refresh)
    assert world.refreshes(other, others)
    made = world.issued(bot)
    assert 58 <= made.lifetime_s <= 60
    assert world.active(made.token)
    restore(world, bot, original)
    assert world.shown(bot) == before


def test_revoked_tokens_are_dead_and_stay_so(world: AuthorizationServer) -> None:
    """Introspection says so, refresh and new tokens are refused; restored, only new tokens live."""
    bot, other = world.client(), world.client()
    before, mine, theirs = world.shown(bot), world.issued(bot), world.issued(other)
    refresh = world.refresh_token(bot)
    assert world.active(mine.token)

    original = lower(world, bot, wish(bot, "critical", decided_ms=now_ms(), principals=("alice",)))

    assert not world.active(mine.token)
    assert not world.refreshes(bot, refresh)
    assert world.issue(bot) is None
    assert world.active(theirs.token)
    assert world.issue(other) is not None
    restore(world, bot, original)
    after = world.shown(bot)
    assert after == before | {name: after[name] for name in STORED if name in after}
    time.sleep(1.1)
    assert not world.active(mine.token)
    assert not world.refreshes(bot, refresh)
    made = world.issued(bot)
    assert made.lifetime_s == DEFAULT_S
    assert world.active(made.token)


def test_levels_in_any_order_end_where_they_began(world: AuthorizationServer) -> None:
    """Each step is measured against the first state, not against the last one."""
    bot = world.client(lifespan_s=1800)
    before = world.shown(bot)

    original = lower(world, bot, wish(bot, "medium"), wish(bot, "high"), wish(bot, "medium"))

    assert 290 <= world.issued(bot).lifetime_s <= 300  # Hydra counts from when it began
    assert world.refreshes(bot, world.refresh_token(bot))
    restore(world, bot, original)
    assert world.shown(bot) == before
    original = lower(world, bot, wish(bot, "critical"), wish(bot, "high"))
    time.sleep(1.1)
    assert 58 <= world.issued(bot).lifetime_s <= 60
    restore(world, bot, original)
    after = world.shown(bot)
    assert after == before | {name: after[name] for name in STORED if name in after}


@pytest.mark.parametrize("level", ["medium", "high", "critical"])
def test_the_same_again_changes_nothing(world: AuthorizationServer, level: str) -> None:
    """Repeated, later and from a capture that is too late."""
    bot = world.client()
    asked = wish(bot, level)
    original = lower(world, bot, asked)
    once = world.shown(bot)
    time.sleep(1.1)

    assert lower(world, bot, asked, asked, original=original) == original

    assert world.shown(bot) == once
    restore(world, bot, original)
    restored = world.shown(bot)
    restore(world, bot, original)
    assert world.shown(bot) == restored


def test_what_is_kept_holds_no_secret(world: AuthorizationServer) -> None:
    """It is stored, and shown to callers."""
    bot = world.client()

    captured = with_actuator(world, lambda actuator: actuator.capture(bot))

    assert captured == with_actuator(world, lambda actuator: actuator.capture(bot))
    assert msgspec.json.decode(captured)
    assert not any(word in captured for word in (b"secret", b"jwks", b"registration", bot.encode()))


def test_an_odd_client_id_is_one_client(world: AuthorizationServer) -> None:
    """Client ids are texts, URLs among them."""
    odd, plain = world.client(world.ODD), world.client()
    before, others = world.shown(odd), world.shown(plain)

    original = lower(world, odd, wish(odd, "high"))

    assert 58 <= world.issued(odd).lifetime_s <= 60
    assert world.shown(plain) == others
    restore(world, odd, original)
    assert world.shown(odd) == before


def test_failures_are_told_apart(world: AuthorizationServer) -> None:
    """No such client; credentials that are not taken; nobody there, and there again."""
    bot = world.client()
    with pytest.raises(UnknownClient, match="no client nobody"):
        with_actuator(world, lambda actuator: actuator.capture("nobody"))

    async def refused() -> None:
        async with make_webhook_client() as http:
            await world.actuator(http, good=False).capture(bot)

    with pytest.raises(ActuatorAccessDenied):
        asyncio.run(refused())
    world.stop()
    try:
        with pytest.raises(ActuatorUnavailable):
            with_actuator(world, lambda actuator: actuator.capture(bot))
    finally:
        world.start()
    lower(world, bot, wish(bot, "medium"))


# The same servers behind the notifier: rows of an outbox in, until the server says that it is so.


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = open_store(sqlite_url(tmp_path / "store.db"))
    yield opened
    opened.close()


class Bench:
    """Rows delivered to one target. What a row asks is what holds, unless `holds` says otherwise."""

    TARGET = ActuatorSettings("as", "hydra", "https://as", ("*",))

    def __init__(self, store: SqlStore, actuator: Actuator, actuations: ActuationStore | None = None) -> None:
        self.store = store
        self.seen: list[tuple[str, str, float | None]] = []
        self.holds: DesiredState | None = None
        self.notifier = ActuatorNotifier(
            actuator, actuations or store.actuations, self._now, now_ms, lambda *seen: self.seen.append(seen)
        )

    async def _now(self, asked: DesiredState) -> DesiredState:
        return self.holds or asked

    async def deliver(self, seq: int, asked: DesiredState) -> DeliveryResult:
        row = build_action_row(f"row-{seq}", asked)
        return await self.notifier.deliver(LeasedDelivery(seq, row, "as", 1, 0, 0), self.TARGET)

    def actuation(self, asked: DesiredState) -> Actuation:
        found = self.store.actuations.get("as", asked.name)
        assert found is not None
        return found


def on_bench(world: AuthorizationServer, store: SqlStore, work: Callable[[Bench], Awaitable[T]]) -> T:
    return with_actuator(world, lambda actuator: work(Bench(store, actuator)))


def test_rows_come_repeated_and_out_of_order(world: AuthorizationServer, store: SqlStore) -> None:
    """The newest counts, however they arrive; the last one restores."""
    bot = world.client()
    before = world.shown(bot)
    high, medium, low = (wish(bot, level) for level in ("high", "medium", "low"))

    async def work(bench: Bench) -> None:
        await bench.deliver(7, high)
        once = world.shown(bot)
        await bench.deliver(7, high)
        await bench.deliver(5, medium)
        assert world.shown(bot) == once
        assert bench.actuation(high).status == "confirmed"
        assert bench.actuation(high).confirmed_ms > 0
        await bench.deliver(9, low)
        await bench.deliver(8, medium)
        outcomes = [outcome for _, outcome, _ in bench.seen]
        assert outcomes == ["confirmed", "confirmed", "superseded", "restored", "superseded"]
        seconds = [contained for _, _, contained in bench.seen if contained is not None]
        assert len(seconds) == 1
        assert seconds[0] >= 0.5

    on_bench(world, store, work)

    assert world.shown(bot) == before
    done = store.actuations.page().items[0]
    assert (done.status, done.original, done.error) == ("restored", b"", "")


def test_wishes_that_race_leave_the_newest(world: AuthorizationServer, store: SqlStore) -> None:
    """Two processes with one store: whoever is last to touch the server leaves the newest wish there."""
    bot = world.client()
    before = world.shown(bot)

    async def race() -> None:
        async with world.opened() as one, world.opened() as two:
            first, second = Bench(store, one), Bench(store, two)
            for round_ in range(0, 12, 4):
                levels = ("high", "medium", "high", "low") if round_ < 8 else ("medium", "high", "low", "medium")
                rows = [(round_ + place, wish(bot, level)) for place, level in enumerate(levels)]
                await asyncio.gather(
                    *((first, second)[seq % 2].deliver(seq, asked) for seq, asked in reversed(rows)),
                )

    asyncio.run(race())

    assert 290 <= world.issued(bot).lifetime_s <= 300  # Hydra counts from when it began
    assert store.actuations.page().items[0].version == 11
    on_bench(world, store, lambda bench: bench.deliver(12, wish(bot, "low")))
    assert world.shown(bot) == before


class Crashing:
    """Actuations of a process that dies when it is to write down how one ended."""

    def __init__(self, actuations: ActuationStore) -> None:
        self._actuations = actuations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actuations, name)

    def settle(self, actuation: Actuation) -> bool:
        raise Unavailable("crashed")


@pytest.mark.parametrize("level", ["high", "critical"])
def test_a_crash_before_it_is_written_down_loses_no_original(
    world: AuthorizationServer, store: SqlStore, level: str
) -> None:
    """The next attempt finds the client lowered, and still knows how it was."""
    bot = world.client()
    before, asked = world.shown(bot), wish(bot, level)
    crashing: Any = Crashing(store.actuations)

    async def crash(actuator: Actuator) -> None:
        with pytest.raises(Unavailable):
            await Bench(store, actuator, crashing).deliver(1, asked)

    with_actuator(world, crash)
    assert world.shown(bot) != before

    on_bench(world, store, lambda bench: bench.deliver(1, asked))
    assert store.actuations.page().items[0].status == "confirmed"
    on_bench(world, store, lambda bench: bench.deliver(2, wish(bot, "low")))
    after = world.shown(bot)
    assert after == before | {name: after[name] for name in STORED if name in after and level == "critical"}


def test_a_server_that_is_down_is_tried_again(world: AuthorizationServer, store: SqlStore) -> None:
    """The wish and why it is not met are visible meanwhile; an unknown client is not tried again."""
    bot = world.client()
    asked = wish(bot, "high")
    world.stop()
    try:
        result = on_bench(world, store, lambda bench: bench.deliver(1, asked))
    finally:
        world.start()
    assert result.outcome == "retry"
    waiting = store.actuations.page().items[0]
    assert (waiting.status, waiting.error) == ("wanted", result.error)
    assert waiting.error

    assert on_bench(world, store, lambda bench: bench.deliver(1, asked)).outcome == "delivered"

    assert 58 <= world.issued(bot).lifetime_s <= 60
    assert store.actuations.page().items[0].error == ""
    unknown = on_bench(world, store, lambda bench: bench.deliver(2, wish("nobody", "high")))
    assert unknown.outcome == "failed"
    assert "nobody" in unknown.error
    assert on_bench(world, store, lambda bench: bench.deliver(3, wish("nobody", "low"))).outcome == "delivered"
