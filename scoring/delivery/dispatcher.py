"""Delivers the outbox, at least once.

All state is in the store, so the dispatcher may be killed at any moment and several may run at once: a row is leased
before it is tried, and an unsettled lease expires. Memory holds at most `concurrency` rows per target.
Every target has a separate lane, so one that is slow or down delays no other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from functools import partial
from typing import Any

import structlog

from trustwatch.ingest.errors import ConfigError, Unavailable

from ..records.commits import LeasedDelivery
from ..store.outbox_store import DeliveryRoute, DeliverySettlement, OutboxStore
from .delivery_target import ATTEMPT_TIMEOUT_S, DeliveryChannel, DeliveryResult, DispatchPolicy, retry_delay_s

LEASE_MARGIN_S = 10.0  # A lease outlives the attempt's own time budget by this much, for writing its end down

ROUTE_BATCH = 100
"""Outbox rows routed in one transaction: some 40 ms where each opens a case, so that the pipeline's commits get
between."""

SUPERSEDED = DeliveryResult("skipped", "a newer change of the same agent has been delivered")

_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Dispatcher:
    """Runs in one event loop; the store is called in threads.

    Raises:
        ConfigError: two targets have the same name.
    """

    _outbox: OutboxStore
    channels: InitVar[Sequence[DeliveryChannel[Any]]]
    _policy: DispatchPolicy
    _clock: Callable[[], int]
    _random: random.Random
    _observe: Callable[[str, str], object] = lambda _target, _outcome: None

    def __post_init__(self, channels: Sequence[DeliveryChannel[Any]]) -> None:
        names = [channel.target.name for channel in channels]
        if len(set(names)) < len(names):
            raise ConfigError(f"target names must be unique: {sorted(names)}")
        self._start: Callable[[_TargetWorker], object] = lambda _: None
        self._routes = [_make_route(channel, self._policy) for channel in channels]
        self._target_workers = [self._worker_of(channel) for channel in channels]
        self._wake = asyncio.Event()

    def _worker_of(self, channel: DeliveryChannel[Any]) -> _TargetWorker:
        return _TargetWorker(self._outbox, channel, self._policy, self._clock, self._random, self._observe)

    def use(self, channels: Sequence[DeliveryChannel[Any]]) -> None:
        """Deliver to these targets from now on. Attempts at others are ended; rows for removed targets keep waiting.

        Call it in the dispatcher's loop.
        """
        self._routes = [_make_route(channel, self._policy) for channel in channels]
        kept = {worker.channel.target.name: worker for worker in self._target_workers}
        workers = []
        for channel in channels:
            worker = kept.get(channel.target.name)
            if worker is None or worker.channel.target != channel.target:
                worker = self._worker_of(channel)
                self._start(worker)
            workers.append(worker)
        for worker in self._target_workers:
            if worker not in workers:
                worker.retire()
        self._target_workers = workers
        self._wake.set()

    def wake(self) -> None:
        """Look for new rows now. Call it in the dispatcher's loop (elsewhere: `loop.call_soon_threadsafe`)."""
        self._wake.set()

    async def drain(self) -> None:
        """Route and deliver all that is due now, then return. Raises Unavailable."""
        await self._route()
        await asyncio.gather(*(lane.drain() for lane in self._target_workers))

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until *stop* is set; attempts under way are ended first. The store may be unavailable meanwhile."""
        async with asyncio.TaskGroup() as group:
            self._start = lambda lane: group.create_task(lane.run(stop))
            for lane in self._target_workers:
                self._start(lane)
            while not stop.is_set():
                try:
                    if await self._route():
                        for lane in self._target_workers:
                            lane.wake.set()
                except Unavailable as error:
                    _log.warning("outbox_unavailable", error=str(error))
                await wait_for_wake(self._wake, stop, self._policy.poll_s)

    async def _route(self) -> int:
        """Expire the old, route the new; returns the number of rows routed."""
        now = self._clock()
        await asyncio.to_thread(self._outbox.expire, now - int(self._policy.max_age_s * 1000), now)
        total = 0
        while routed := await asyncio.to_thread(self._outbox.route, self._routes, now, ROUTE_BATCH):
            total += routed
        return total


@dataclass(eq=False)
class _TargetWorker:
    """Deliveries to one target."""

    _outbox: OutboxStore
    channel: DeliveryChannel[Any]
    _policy: DispatchPolicy
    _clock: Callable[[], int]
    _random: random.Random
    _observe: Callable[[str, str], object]

    def __post_init__(self) -> None:
        self.wake = asyncio.Event()
        self._policy = self.channel.policy or self._policy
        self._target = self.channel.target
        self._retired = False
        self._paused_until_ms = 0  # the target asked for a pause (Retry-After): it holds for every row

    def retire(self) -> None:
        self._retired = True
        self.wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or self._retired):
            try:
                if await self._deliver_batch():
                    continue
            except Unavailable as error:
                _log.warning("outbox_unavailable", target=self._target.name, error=str(error))
            await wait_for_wake(self.wake, stop, self._policy.poll_s)

    async def drain(self) -> None:
        while await self._deliver_batch():
            pass

    async def _deliver_batch(self) -> int:
        """Lease what is due, try it, write down how it ended; returns how many were tried."""
        name, fingerprint, now = self._target.name, self._target.fingerprint, self._clock()
        if now < self._paused_until_ms:
            return 0
        stopped = await asyncio.to_thread(self._outbox.stopped_targets)
        if stopped.get(name) == fingerprint:
            return 0
        turns = self._policy.concurrency if self._target.ordered else 1  # all of them may be about one agent
        lease_ms = int((ATTEMPT_TIMEOUT_S * turns + LEASE_MARGIN_S) * 1000)
        lease = partial(self._outbox.lease, in_case_order=self._target.ordered)
        rows = await asyncio.to_thread(lease, name, now, self._policy.concurrency, lease_ms)
        results = await self._attempt_all(rows)
        ended = [self._make_settlement(row, result) for row, result in zip(rows, results, strict=True)]
        await asyncio.to_thread(self._outbox.settle, ended)
        gone = next((result for result in results if result.outcome == "gone"), None)
        if gone is not None:
            _log.error("target_stopped", target=name, reason=gone.error)
            await asyncio.to_thread(self._outbox.stop_target, name, fingerprint, self._clock(), gone.error)
        return len(rows)

    async def _attempt_all(self, rows: list[LeasedDelivery]) -> list[DeliveryResult]:
        """Attempt every row: all at once, or those about one agent one after the other where order matters."""
        if not (rows and self._target.ordered):
            return await asyncio.gather(*(self._attempt(row) for row in rows))
        superseded = await asyncio.to_thread(self._outbox.superseded, self._target.name, [row.seq for row in rows])
        results = {seq: SUPERSEDED for seq in superseded}
        by_agent: dict[int, list[LeasedDelivery]] = {}
        for row in sorted(rows, key=lambda row: row.seq):
            if row.seq not in superseded:
                by_agent.setdefault(row.row.agent_key, []).append(row)

        async def one_by_one(of_agent: list[LeasedDelivery]) -> None:
            for row in of_agent:
                results[row.seq] = await self._attempt(row)

        await asyncio.gather(*map(one_by_one, by_agent.values()))
        return [results[row.seq] for row in rows]

    async def _attempt(self, row: LeasedDelivery) -> DeliveryResult:
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                result = await self.channel.notifier.deliver(row, self._target)
        except TimeoutError:
            result = DeliveryResult("retry", f"no answer within {ATTEMPT_TIMEOUT_S:g} s")
        except Exception as error:  # a notifier's fault must not end the lane: the row is tried again, and is seen
            # No traceback: a renderer that shows local variables would show secrets.
            _log.error("notifier_failed", target=self._target.name, key=row.row.key, error=repr(error)[:200])
            result = DeliveryResult("retry", f"internal error: {type(error).__name__}")
        self._observe(self._target.name, result.outcome)
        return result

    def _make_settlement(self, row: LeasedDelivery, result: DeliveryResult) -> DeliverySettlement:
        now = self._clock()
        status: str = result.outcome
        again_ms = 0
        if status in ("retry", "gone"):  # a row refused with "gone" is kept: the target may be resumed in time
            wait_ms = int(retry_delay_s(self._policy, row.attempt, result.retry_after_s, self._random) * 1000)
            if result.retry_after_s is not None:
                self._paused_until_ms = max(self._paused_until_ms, now + wait_ms)
            status, again_ms = "pending", now + wait_ms
        if status == "skipped":
            status = "suppressed"
        elif status != "delivered":
            failed = {"target": row.target, "key": row.row.key, "attempt": row.attempt, "error": result.error}
            _log.warning("delivery_failed", **failed, then=status)
        return DeliverySettlement(row.seq, row.target, row.attempt, status, again_ms, result.error, now)


def _make_route(channel: DeliveryChannel[Any], policy: DispatchPolicy) -> DeliveryRoute:
    levels = frozenset(map(int, channel.target.levels_taken))
    cooldown_s = policy.cooldown_s if channel.target.has_cooldown else 0.0
    return DeliveryRoute(channel.target.name, channel.kind, levels, int(cooldown_s * 1000))


async def wait_for_wake(wake: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    """Wait until woken, stopped or *seconds* have passed."""
    waiting = [asyncio.create_task(event.wait()) for event in (wake, stop)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    wake.clear()
