"""The transmitter's background work: SETs are derived from committed decisions, and pushed.

All state is in the store, so it may be killed at any moment. One process of a deployment does this at a time. Every
stream that is pushed has a separate lane: a slow receiver delays no other, and SETs of one stream keep their
order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
import structlog

from trustwatch.ingest.errors import ConfigError, Fenced, TrustwatchError, Unavailable
from trustwatch.scoring.delivery.delivery_target import DeliveryResult, DispatchPolicy, retry_delay_s
from trustwatch.scoring.delivery.dispatcher import wait_for_wake
from trustwatch.scoring.delivery.notifiers import alert_events
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client, push_set
from trustwatch.scoring.delivery.shared_signals import announced_decision
from trustwatch.scoring.delivery.shared_signals.announced_decision import (
    AnnouncedDecision,
    pin_as_decision,
    read_announced_decision,
    read_announced_pin,
)
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import simple_subjects
from trustwatch.scoring.pipeline.desired_state_resolver import PRINCIPAL_WINDOW_MS
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.records.agents import AgentIdentity, RiskLevel
from trustwatch.scoring.records.security_events import PUSH_METHOD, EventStream, SecurityEvent
from trustwatch.scoring.store.database import LeaderSeat
from trustwatch.scoring.store.security_event_store import PendingOutboxRow
from trustwatch.scoring.store.sql_store import SqlStore

from .transmitter_context import MAX_WAITING, TransmitterContext

JOB = "transmitter"
LOOK_EVERY_S = 0.5
CHECK_LEADERSHIP_EVERY_S = 5.0
ROTATE_EVERY_S = 3_600.0
PUSH_TIMEOUT_S = 10.0  # Time budget of one push
PUSH_RETRY_CAP_S = 300.0
"""Longest wait between two pushes to a failing receiver: it learns of a compromise soon after it recovers."""
PUSH_GIVE_UP_S = 86_400.0  # A stream whose receiver takes nothing for so long is paused
DERIVE_BATCH = 100  # Rows of the outbox in one transaction, so that the pipeline's commits get between
WITHDRAW_BATCH = 100  # SETs that are dropped at a time since their stream's owner may no longer hear of their tenant

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class SharedSignalsTransmitter:
    """Derives and pushes until asked to stop. For one event loop; the store is called in threads."""

    _context: TransmitterContext
    _store: SqlStore
    _policy: LivePolicy
    _now_ms: Callable[[], int]
    _monotonic: Callable[[], float]
    _random: random.Random

    def __post_init__(self) -> None:
        self._events = self._store.security_events
        self._dispatch_policy = DispatchPolicy(backoff_cap_s=PUSH_RETRY_CAP_S, retry_after_cap_s=PUSH_RETRY_CAP_S)
        self._client: httpx2.AsyncClient | None = None
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._seat = LeaderSeat(self._store.database, JOB)
        self._ending = self._knows_owners = False
        self._checked_at = self._rotated_at = float("-inf")

    def wake(self) -> None:
        """Look for new decisions now. Call it in the transmitter's loop."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; pushes under way are ended first. The store may be unavailable meanwhile."""
        if self._context.encryption is not None:
            await self._context.encryption.start()
        try:
            while not stop.is_set():
                try:
                    await self.step()
                except TrustwatchError as error:
                    _log.warning("shared_signals_wait", error=str(error))
                except Exception as error:  # a bug must not end the service; the next look tries again
                    _log.error("transmitter_failed", error=repr(error)[:200])
                await wait_for_wake(self._wake, stop, LOOK_EVERY_S)
        finally:
            await self.close()
            if self._context.encryption is not None:
                await self._context.encryption.close()

    async def step(self) -> None:
        """Do what is due now, if this process is the one that does. Raises Unavailable, ConfigError."""
        if not await self._leads():
            return
        if not self._knows_owners:
            await asyncio.to_thread(self._disable_orphaned_streams)
            self._knows_owners = True
        while await asyncio.to_thread(self._derive_batch):
            self._context.ring()
        for stream in await asyncio.to_thread(self._events.list_push_due, self._now_ms()):
            if stream.stream_id not in self._lanes:
                task = asyncio.create_task(self._push_waiting(stream.stream_id), name=stream.stream_id)
                self._lanes[stream.stream_id] = task
                task.add_done_callback(lambda done: self._lanes.pop(done.get_name(), None))

    async def drain(self) -> None:
        """Like `step`, and wait until pushes have ended."""
        await self.step()
        while self._lanes:
            await asyncio.wait(list(self._lanes.values()))
            await asyncio.sleep(0)  # the lanes' own ends come after the tasks'

    async def close(self) -> None:
        """End pushes in progress, each within its time budget, and let another process continue."""
        self._ending = True
        if self._lanes:
            await asyncio.wait(list(self._lanes.values()))
        if self._client is not None:
            await self._client.aclose()
        await asyncio.to_thread(self._seat.give_up)

    async def _leads(self) -> bool:
        """Return true if this process transmits; check the lock and rotate keys when due."""
        now = self._monotonic()
        if now - self._checked_at < CHECK_LEADERSHIP_EVERY_S:
            return self._seat.lock is not None
        self._checked_at = now
        with contextlib.suppress(Fenced):  # another process may have it by now
            await asyncio.to_thread(self._seat.take)
        if self._seat.lock is not None and now - self._rotated_at >= ROTATE_EVERY_S:
            self._rotated_at = now
            await asyncio.to_thread(self._context.keys.rotate)
        return self._seat.lock is not None

    def _disable_orphaned_streams(self) -> None:
        """Disable streams whose owner is not a caller of the settings: no caller may use or delete them."""
        for stream in self._events.list_all_streams():
            if not self._context.is_known(stream.owner) and stream.status != "disabled":
                at = max(self._now_ms(), stream.updated_ms + 1)
                self._events.change_status(stream.stream_id, "disabled", "its receiver is no longer a caller", at)
                self._context.outcomes["disabled"] += 1
                _log.error("stream_of_nobody_disabled", stream=stream.stream_id, owner=stream.owner)

    def _derive_batch(self) -> bool:
        """Derive the SETs of a few rows of the outbox; False = there are no more."""
        rows = self._events.list_underived(DERIVE_BATCH)
        if not rows:
            return False
        now, deriver = self._now_ms(), self._context.deriver
        queued, stopped = self._events.add_derived(
            self._derive(rows, now), now, MAX_WAITING, lambda stream: deriver.stream_updated(stream, now)
        )
        self._context.outcomes["queued"] += queued
        for stream in stopped:
            self._context.outcomes["disabled"] += 1
            _log.error("stream_disabled", stream=stream.stream_id, owner=stream.owner, reason=stream.status_reason)
        return len(rows) == DERIVE_BATCH

    def _derive(self, rows: Sequence[PendingOutboxRow], now_ms: int) -> dict[int, list[SecurityEvent]]:
        """SETs by the number of the row that they follow from; of most rows none do."""
        derived: dict[int, list[SecurityEvent]] = {pending.seq: [] for pending in rows}
        streams = self._events.list_all_streams()
        if not streams:
            return derived
        pins = {
            pin.agent.identity: pin.intervention_id
            for pin in self._store.interventions.list_open()
            if pin.kind == "pin" and pin.status == "active" and pin.expires_ms > now_ms
        }
        read = ((pending, self._change_of(pending, pins)) for pending in rows)
        changes = [(pending, change) for pending, change in read if change is not None]
        tenants = {change.tenant for _, change in changes}
        heard = [
            stream for stream in streams if any(self._context.may_hear(stream.owner, tenant) for tenant in tenants)
        ]
        named = [subject for _, change in changes for subject in simple_subjects(change)]
        live = [stream.stream_id for stream in heard if stream.status != "disabled"]
        subjects = self._events.list_subjects(live, named)
        for pending, change in changes:
            key = pending.row.agent_key
            derived[pending.seq] = self._context.deriver.derive(change, key, heard, subjects, now_ms)
        return derived

    def _change_of(self, pending: PendingOutboxRow, pins: Mapping[AgentIdentity, str]) -> AnnouncedDecision | None:
        match pending.row.kind:
            case alert_events.ALERT_ROW_KIND:
                change = read_announced_decision(pending.row.payload)
                if change is not None and (change.tenant, change.issuer, change.agent_id) in pins:
                    change = msgspec.structs.replace(change, overruled=True)
            case announced_decision.PIN_ROW_KIND:
                change = self._pinned_change(pending.row.payload, pins)
            case _:
                return None
        if change is None:
            return None
        principal = ""
        if self._context.names_principals:  # the one that the agent acted for last
            agent, since_ms = (change.tenant, change.issuer, change.agent_id), self._now_ms() - PRINCIPAL_WINDOW_MS
            edges = self._store.edges.find([agent], outgoing=True, kinds=("acts_for",), since_ms=since_ms, limit=200)
            last = max(edges, key=lambda edge: edge.last_ms, default=None)
            principal = "" if last is None else last.target
        in_claims = self._context.writes_claims(change.tenant, change.issuer)
        return msgspec.structs.replace(change, in_claims=in_claims, principal=principal)

    def _pinned_change(self, payload: bytes, pins: Mapping[AgentIdentity, str]) -> AnnouncedDecision | None:
        """The change that a pin or its end made; None if another pin has replaced it."""
        pin = read_announced_pin(payload)
        if pin is None:
            return None
        agent = (pin.tenant, pin.issuer, pin.agent_id)
        if pins.get(agent, pin.intervention_id) != pin.intervention_id:
            return None
        stored = self._store.agents.find_newest(self._store.edges.agent_name(*agent))
        measured, agent_type, concern = RiskLevel.UNKNOWN, "", ""
        if stored is not None:
            measured, agent_type, concern = RiskLevel(stored.level), stored.agent_type, stored.concern
        policy = self._policy.book.effective_policy(*agent, agent_type, concern)
        revokes = policy.table[pin.level if pin.holds else measured].revoke
        return pin_as_decision(pin, measured, revokes=revokes, enforced=policy.enforced)

    async def _push_waiting(self, stream_id: str) -> None:
        """Push what waits in a stream, in order, until there is no more or its receiver does not take it."""
        try:
            while self._seat.lock is not None and not self._ending:
                # Read again each time: the receiver may have changed its stream, or taken by poll what waited.
                due = await asyncio.to_thread(self._next_push, stream_id)
                if due is None or not await self._push_one(*due):
                    return
        except TrustwatchError as error:
            _log.warning("shared_signals_wait", stream=stream_id, error=str(error))

    def _next_push(self, stream_id: str) -> tuple[EventStream, SecurityEvent] | None:
        """Return a stream and the first event to push; drop events whose tenant its owner may not see."""
        stream = self._events.get_stream(stream_id)
        if stream is None or stream.method != PUSH_METHOD or not self._context.is_known(stream.owner):
            return None
        while first := self._events.waiting(stream, 1):
            if self._context.may_hear(stream.owner, first[0].tenant):
                return stream, first[0]
            waiting = self._events.waiting(stream, WITHDRAW_BATCH)
            withdrawn = [event.jti for event in waiting if not self._context.may_hear(stream.owner, event.tenant)]
            self._context.outcomes["withdrawn"] += self._events.settle(stream_id, withdrawn)
        return None

    async def _push_one(self, stream: EventStream, event: SecurityEvent) -> bool:
        """Push a SET; False = the stream has to wait."""
        result = await self._push(stream, event)
        if result.outcome in ("retry", "gone") and stream.status == "enabled":
            await self._record_failure(stream, result)
            return False
        await asyncio.to_thread(self._events.settle, stream.stream_id, [event.jti])
        self._context.outcomes[result.outcome] += 1
        if result.outcome == "failed":
            _log.warning("set_refused", stream=stream.stream_id, owner=stream.owner, jti=event.jti, error=result.error)
        if stream.failures:
            await asyncio.to_thread(self._events.record_push_success, stream.stream_id)
        return True

    async def _push(self, stream: EventStream, event: SecurityEvent) -> DeliveryResult:
        if not self._context.settings.may_push_to(stream.endpoint_url):
            return DeliveryResult("gone", "`shared_signals.push_hosts` no longer names the receiver's host")
        if self._client is None:
            self._client = make_webhook_client(self._context.ca_file)
        try:
            claims = msgspec.json.decode(event.claims, type=dict[str, Any])
            token = await asyncio.to_thread(self._context.sign, stream.owner, claims)
            authorization = await asyncio.to_thread(self._context.keys.unseal, stream.authorization)
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                return await push_set(self._client, stream.endpoint_url, authorization, token, self._now_ms())
        except TimeoutError:
            return DeliveryResult("retry", f"no answer within {PUSH_TIMEOUT_S:g} s")
        except ConfigError as error:  # a key that cannot be used: the operator reads it in the log
            _log.error("push_not_signed", stream=stream.stream_id, error=str(error))
            return DeliveryResult("retry", "the transmitter's keys cannot be used")
        except Unavailable as error:  # the receiver's own key is unavailable: nothing is sent in clear
            return DeliveryResult("retry", str(error))
        except Exception as error:  # a bug must not end the lane: the SET is tried again, and the error is logged
            # No traceback: a renderer that shows local variables would show the receiver's header.
            _log.error("push_failed", stream=stream.stream_id, error=type(error).__name__)
            return DeliveryResult("retry", f"internal error: {type(error).__name__}")

    async def _record_failure(self, stream: EventStream, result: DeliveryResult) -> None:
        """Schedule another attempt; if the receiver has failed for too long, pause its stream and notify it once."""
        now = self._now_ms()
        self._context.outcomes["retry"] += 1
        since = stream.failing_since_ms or now
        if result.outcome != "gone" and now - since < PUSH_GIVE_UP_S * 1000:
            wait_s = retry_delay_s(self._dispatch_policy, stream.failures + 1, result.retry_after_s, self._random)
            await asyncio.to_thread(self._events.record_push_failure, stream, now, now + int(wait_s * 1000))
            _log.warning("push_put_off", stream=stream.stream_id, owner=stream.owner, error=result.error, wait_s=wait_s)
            return
        reason, at = f"pushes failed: {result.error}", max(now, stream.updated_ms + 1)
        if not await asyncio.to_thread(self._events.pause_failing, stream, reason, at):
            return
        self._context.outcomes["paused"] += 1
        _log.error("stream_paused", stream=stream.stream_id, owner=stream.owner, reason=reason)
        paused = msgspec.structs.replace(stream, status="paused", status_reason=reason, updated_ms=at)
        await self._push(paused, self._context.deriver.stream_updated(paused, at))
