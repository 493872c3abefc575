"""The ledger of a process: what each tenant may hold, have waiting and create, counted after expansion.

Every limit is in `LIMITS`. A tenant that reaches one gets 429 with what ran out and when it recovers; others notice
nothing. Several processes count separately.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio
from cachetools import FIFOCache

from trustwatch.ingest.errors import SourceNotAllowed, Unavailable
from trustwatch.ingest.timestamps import HOUR_S

from .auth.callers import CONSOLE_NAME_PREFIX, SourceBinding


class Party(NamedTuple):
    """For whom something is counted: a tenant, and a caller within it."""

    tenant: str
    caller: str


def party_of(binding: SourceBinding) -> Party:
    """Return the party of a source. A source of several tenants is counted by itself."""
    return Party(binding.default_tenant or f"source {binding.name}", binding.name)


class Limit(NamedTuple):
    """A limit of the ledger. *retry_s*: when a party may try again if that cannot be computed."""

    amount: int
    unit: str
    retry_s: float


LIMITS: Final = {
    "memory": Limit(128 * 1024 * 1024, "bytes of bodies in memory, of all tenants together", 1.0),
    "work": Limit(64, "bulk requests that wait", 2.0),
    "work_bytes": Limit(16 * 1024 * 1024, "bytes of bulk requests that wait", 2.0),
    "agents": Limit(20_000, "new agents an hour", 60.0),
}
"""Limits of each tenant in one process; `memory` is shared by all, as described at `BodyMemory`."""


class Overloaded(Unavailable):
    """A tenant has reached a limit, or is faster than events are processed. Nothing of the request was kept.

    *limit* names what ran out, *retry_after_s* when it recovers.
    """

    code = "too_many_requests"

    def __init__(self, limit: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.limit = limit
        self.retry_after_s = LIMITS[limit].retry_s if retry_after_s is None else retry_after_s


class TokenBucket:
    """Token bucket that can go into debt: a body larger than the burst is accepted, and delays later ones."""

    def __init__(self, rate: float, now: float, burst_s: float = 1.0) -> None:
        self._rate = rate
        self._burst = rate * burst_s
        self._tokens = self._burst
        self._updated_at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until something may be sent again, 0 for now."""
        self._tokens = min(self._tokens + (now - self._updated_at) * self._rate, self._burst)
        self._updated_at = now
        return 0.0 if self._tokens > 0 else -self._tokens / self._rate or 1 / self._rate

    def consume(self, amount: float) -> None:
        self._tokens -= amount


# Bodies in memory

BODY_OVERHEAD_BYTES: Final = 64 * 1024
"""Counted for each body from its first byte: connection, task, buffers."""


class HeldBody:
    """The bytes of one body. It can be given up while it is received, and not while it is worked on."""

    def __init__(self, memory: BodyMemory, party: Party) -> None:
        self.memory, self.party = memory, party
        self.bytes, self.progress = 0, 0
        self.receiving: anyio.CancelScope | None = None
        self.given_up = False

    def grow(self, more: int) -> None:
        """Count more bytes. Raises Overloaded if there is no room for them."""
        self.memory.make_room(self, more)
        self.bytes += more

    @contextmanager
    def receive(self) -> Iterator[None]:
        """Receive within the block, which ends early with Overloaded if the body has to make room for others."""
        with anyio.CancelScope() as self.receiving:
            yield
        self.receiving = None
        if self.given_up:
            raise _no_room(self)


def _no_room(held: HeldBody) -> Overloaded:
    return Overloaded("memory", f"this source holds {held.bytes} bytes of unfinished bodies: send fewer at a time")


@dataclass(eq=False, repr=False)
class BodyMemory:
    """The memory of bodies. If it is full, the caller that holds most of the tenant that holds most gives up a body.

    So a tenant that holds less than an equal share always finds room, and so does each caller within a tenant.
    """

    total: int = LIMITS["memory"].amount
    _held: set[HeldBody] = field(default_factory=set, init=False)
    _clock: int = field(default=0, init=False)

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies in memory."""
        return sum(held.bytes for held in self._held)

    @contextmanager
    def hold(self, party: Party) -> Iterator[HeldBody]:
        """Count a body within the block. Raises Overloaded."""
        held = HeldBody(self, party)
        self._held.add(held)
        try:
            held.grow(BODY_OVERHEAD_BYTES)
            yield held
        finally:
            self._held.discard(held)

    def make_room(self, asking: HeldBody, more: int) -> None:
        """Give up bodies until there is room. Raises Overloaded if that would have to be the asking one."""
        if asking.given_up:
            raise _no_room(asking)
        self._clock += 1
        asking.progress = self._clock
        while self.held_bytes + more > self.total:
            last = self._last_to_keep(asking, more)
            if last is asking or last.receiving is None:
                raise _no_room(asking)
            last.given_up, last.bytes = True, 0
            last.receiving.cancel()
            self._held.discard(last)

    def _last_to_keep(self, asking: HeldBody, more: int) -> HeldBody:
        """Return the body that waited longest, of the largest caller of the largest tenant that receives any."""
        sizes: dict[str | Party, int] = {}
        for held in self._held:
            size = held.bytes + (more if held is asking else 0)
            for one in (held.party, held.party.tenant):
                sizes[one] = sizes.get(one, 0) + size
        choice = [held for held in self._held if held.receiving is not None or held is asking]
        return max(choice, key=lambda held: (sizes[held.party.tenant], sizes[held.party], -held.progress))


# Bulk work

AT_ONCE: Final = 2
"""Pieces of bulk work in one process at a time; one of each tenant."""


class FairQueue:
    """Gives tickets for bulk work: to the tenant whose work has taken the least time, and there to such a caller.

    Who comes anew begins with the least that others have used, so nobody saves up time. For one event loop.
    """

    def __init__(self, monotonic: Callable[[], float], at_once: int = AT_ONCE) -> None:
        self._monotonic, self._free = monotonic, at_once
        self._waiting: dict[Party, deque[asyncio.Future[None]]] = {}
        self._active: set[str] = set()
        self._pieces, self._bytes = Counter[str | Party](), Counter[str]()
        self._used: dict[str | Party, float] = {}  # seconds of work, of tenants and of callers

    def waiting(self, tenant: str) -> int:
        """Return how many pieces of a tenant are worked on or wait."""
        return self._pieces[tenant]

    def check(self, party: Party, size: int) -> None:
        """Raise Overloaded if that many more bytes of a tenant would be refused now; one piece may always wait."""
        pieces = self._pieces[party.tenant]
        for limit, amount in (("work", pieces + 1), ("work_bytes", self._bytes[party.tenant] + size)):
            if pieces and amount > LIMITS[limit].amount:
                most = f"at most {LIMITS[limit].amount} {LIMITS[limit].unit}"
                raise Overloaded(limit, f"too much bulk work of this tenant waits: {most}; send one after another")

    @asynccontextmanager
    async def ticket(self, party: Party, size: int = 0) -> AsyncIterator[None]:
        """Wait for a ticket, and hold it within the block. Raises Overloaded."""
        self.check(party, size)
        for one, others in ((party.tenant, self._active), (party, self._waiting)):
            self._used.setdefault(one, min((self._used.get(other, 0.0) for other in others), default=0.0))
            self._pieces[one] += 1
        self._bytes[party.tenant] += size
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(granted)
        self._grant()
        try:
            await granted
            started = self._monotonic()
            try:
                yield
            finally:
                for one in (party.tenant, party):
                    self._used[one] += self._monotonic() - started
        finally:
            self._leave(party, size, granted)

    def _grant(self) -> None:
        while self._free:
            ready = [party for party in self._waiting if party.tenant not in self._active]
            if not ready:
                return
            party = min(ready, key=lambda one: (self._used[one.tenant], self._used[one]))
            waiting = self._waiting.pop(party)
            granted = waiting.popleft()
            if waiting:
                self._waiting[party] = waiting  # behind others that have used as much
            if not granted.cancelled():
                self._free -= 1
                self._active.add(party.tenant)
                granted.set_result(None)

    def _leave(self, party: Party, size: int, granted: asyncio.Future[None]) -> None:
        if granted.done() and not granted.cancelled():
            self._active.discard(party.tenant)
            self._free += 1
        elif granted in (waiting := self._waiting.get(party, deque())):
            waiting.remove(granted)
            if not waiting:
                del self._waiting[party]
        self._bytes[party.tenant] -= size
        for one in (party.tenant, party):
            self._pieces[one] -= 1
            if not self._pieces[one]:
                del self._pieces[one], self._used[one]
        self._grant()


# Agents

REMEMBERED_AGENTS: Final = 131_072
"""Agents that were admitted last, among them those that the risk view does not have yet."""


class TooManyAgents(SourceNotAllowed):
    """An event names an agent that is new, and its tenant has named too many new ones. Send it again later."""

    code = "too_many_agents"

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            f"this agent is new, and {LIMITS['agents'].unit} of a tenant are at most {LIMITS['agents'].amount}: send "
            "the event again later",
            "$.agent.id",
        )
        self.wait_s = wait_s


@dataclass(eq=False, repr=False)
class NewAgents:
    """Counts agents that are new, by tenant. Agents that are known are not counted."""

    is_known: Callable[[str, str, str], bool]  # by tenant, issuer and id
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._recent: FIFOCache[bytes, None] = FIFOCache(REMEMBERED_AGENTS)
        self._buckets: FIFOCache[str, TokenBucket] = FIFOCache(REMEMBERED_AGENTS)

    def admit(self, name: tuple[str, str, str], partition_key: bytes) -> None:
        """Admit an event of an agent. Raises TooManyAgents if the agent is new, and too many of its tenant were."""
        if partition_key in self._recent:
            return
        if not self.is_known(*name):
            now, tenant = self.monotonic(), name[0]
            bucket = self._buckets.get(tenant)
            if bucket is None:
                bucket = self._buckets[tenant] = TokenBucket(LIMITS["agents"].amount / HOUR_S, now, HOUR_S)
            if (wait_s := bucket.wait_s(now)) > 0:
                raise TooManyAgents(wait_s)
            bucket.consume(1)
        self._recent[partition_key] = None


# The ledger


@dataclass(eq=False, repr=False)
class Ledger:
    """What the tenants of this process hold, have waiting and create. For one event loop."""

    monotonic: Callable[[], float]
    is_known: Callable[[str, str, str], bool]  # whether there is an agent, by tenant, issuer and id
    count: Callable[[str, str], object] = lambda _source, _limit: None  # called for each refusal

    def __post_init__(self) -> None:
        self.memory, self.queue = BodyMemory(), FairQueue(self.monotonic)
        self.new_agents = NewAgents(self.is_known, self.monotonic)

    @contextmanager
    def counted(self, source: str) -> Iterator[None]:
        """Count Overloaded that the block raises. People of the console are counted together."""
        try:
            yield
        except Overloaded as error:
            is_person = source.startswith(CONSOLE_NAME_PREFIX)
            self.count("console" if is_person else source, error.limit)
            raise

    @asynccontextmanager
    async def bulk(self, party: Party, size: int = 0) -> AsyncIterator[None]:
        """Wait for a ticket for bulk work, and hold it within the block. Raises Overloaded."""
        with self.counted(party.caller):
            async with self.queue.ticket(party, size):
                yield
