"""Delivers desired states to actuators, and keeps metrics of the results."""

from __future__ import annotations

import asyncio
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import structlog

from ...records.agents import AgentIdentity
from ...records.commits import LeasedDelivery
from ...records.containment import Actuation, ActuationStatus
from ...store.containment_store import ActuationStore
from ..delivery_target import ATTEMPT_TIMEOUT_S, DeliveryResult
from .actuator import ActuationResult, Actuator, ActuatorError, UnknownClient
from .actuator_settings import ActuatorSettings
from .desired_state import DesiredState, UnreadableAction, decode_desired_state, encode_desired_state

_log = structlog.get_logger(__name__)

BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Upper bounds of containment times, s."""


class ActuationMetrics:
    """Counts. For one thread.

    Attributes:
        outcomes: attempts by (target, outcome).
        containment_seconds: sum of containment times by target, s.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.containment_seconds: dict[str, float] = {}
        self._buckets: dict[str, list[int]] = {}

    def record(self, target: str, outcome: str, contained_s: float | None = None) -> None:
        """Count an attempt; *contained_s* is the time from the event to its confirmed consequence."""
        self.outcomes[target, outcome] += 1
        if contained_s is None:
            return
        counts = self._buckets.setdefault(target, [0] * (len(BUCKETS_S) + 1))
        counts[bisect_left(BUCKETS_S, contained_s)] += 1
        self.containment_seconds[target] = self.containment_seconds.get(target, 0.0) + contained_s

    def histogram_buckets(self, target: str) -> list[tuple[str, float]]:
        """(upper bound, times up to it) for every bound and `+Inf`, as a histogram shows them."""
        counts, total, shown = self._buckets.get(target, []), 0, []
        for bound, count in zip([*(f"{seconds:g}" for seconds in BUCKETS_S), "+Inf"], counts, strict=bool(counts)):
            total += count
            shown.append((bound, float(total)))
        return shown

    @property
    def targets(self) -> list[str]:
        """Targets with a containment time."""
        return sorted(self._buckets)


# Several processes may deliver to one server at a time. So the store keeps, per target and agent, the newest desired
# state and what the server had before anything was lowered. Each attempt compares itself with that: an older desired
# state is dropped, and an attempt that is overtaken continues with the newer one, so that the last process to write to
# the server leaves the newest state.


MAX_ROUNDS = 8  # Desired states that may overtake each other within one attempt; the next attempt continues

SERVER_TIME_SHARE = 0.9
"""Share of the target's time for the server, so that there is some left to write down that it did not answer."""

DesiredStateLookup = Callable[[DesiredState], Awaitable[DesiredState]]
ActuationObserver = Callable[[str, str, float | None], None]


class _ActuationAttempt(NamedTuple):
    """Result of one attempt at the server."""

    row: Actuation
    result: DeliveryResult
    outcome: str


@dataclass(eq=False)
class ActuatorNotifier:
    """`Notifier` for rows of kind `action`: one target, one actuator."""

    actuator: Actuator
    actuations: ActuationStore
    resolve_desired: DesiredStateLookup
    clock: Callable[[], int]
    observe: ActuationObserver

    def __post_init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[AgentIdentity, asyncio.Lock] = weakref.WeakValueDictionary()

    async def deliver(self, row: LeasedDelivery, target: ActuatorSettings) -> DeliveryResult:
        """Bring about what holds for the row's agent. Raises Unavailable: the store does not answer."""
        try:
            asked = decode_desired_state(row.row.payload)
        except UnreadableAction as error:
            return self._report(target, "failed", DeliveryResult("failed", str(error)))
        if not target.serves(asked.tenant, asked.issuer):
            return self._report(
                target, "skipped", DeliveryResult("skipped", "not of the tenants and issuers it serves")
            )
        lock = self._locks.setdefault(asked.name.identity, asyncio.Lock())
        async with lock:
            return await self._apply_desired_state(row.seq, asked, target)

    async def _apply_desired_state(self, version: int, asked: DesiredState, target: ActuatorSettings) -> DeliveryResult:
        desired = await self.resolve_desired(asked)
        before = await asyncio.to_thread(self.actuations.get, target.name, desired.name)
        desired = _with_decision_times(desired, before)
        if before is None and desired.restores:
            return self._report(target, "unchanged", DeliveryResult("delivered"))
        times = desired.caused_ms, desired.decided_ms, 0, self.clock()
        wanted = encode_desired_state(desired)
        asked_for = Actuation(target.name, desired.name, version, wanted, b"", "wanted", *times, "")
        row = await asyncio.to_thread(self.actuations.request, asked_for)
        if row is None:
            return self._report(target, "superseded", DeliveryResult("delivered"))
        revoked = _confirmed_desired_state(before)
        done = revoked.decision_id if revoked is not None and revoked.revoke else ""  # its tokens are dead already
        for _ in range(MAX_ROUNDS):
            tried = _keep_confirmation_time(await self._attempt_actuation(row, desired, target, done), desired, before)
            if await asyncio.to_thread(self.actuations.settle, tried.row):
                contained_s = self._containment_time_s(tried.row, desired, before)
                _log_actuation(tried, desired, contained_s)
                return self._report(target, tried.outcome, tried.result, contained_s)
            newer = await self._newer_actuation(tried.row)
            if newer is None:
                break
            row, desired, before = newer, decode_desired_state(newer.desired), None
        error = "newer orders arrived meanwhile; the next attempt continues"
        return self._report(target, "retry", DeliveryResult("retry", error))

    async def _newer_actuation(self, mine: Actuation) -> Actuation | None:
        """Returns the newer actuation. The server's original state is kept, whichever process restored it."""
        newer = await asyncio.to_thread(self.actuations.get, mine.target, mine.agent)
        if newer is None or newer.original or not mine.original:
            return newer
        kept = await asyncio.to_thread(self.actuations.keep_original, mine.target, mine.agent, mine.original)
        return msgspec.structs.replace(newer, original=kept)

    async def _attempt_actuation(
        self, row: Actuation, desired: DesiredState, target: ActuatorSettings, done: str
    ) -> _ActuationAttempt:
        current_row = row
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S * SERVER_TIME_SHARE):
                client = target.client_of(desired.agent_id)
                if not desired.restores and not row.original:
                    original = await self.actuator.capture(client)
                    kept = await asyncio.to_thread(self.actuations.keep_original, target.name, desired.name, original)
                    current_row = msgspec.structs.replace(row, original=kept)
                return await self._apply_at_server(client, current_row, desired, done)
        except UnknownClient as error:
            if desired.restores:  # there is nothing left to restore
                gone = msgspec.structs.replace(current_row, original=b"")
                return self._attempted(gone, "restored", "restored", str(error))
            return self._attempted(current_row, "failed", "failed", str(error))
        except ActuatorError as error:
            return self._attempted(current_row, "wanted", "retry", str(error), error.retry_after_s)
        except TimeoutError:
            text = f"no answer of the server within {ATTEMPT_TIMEOUT_S * SERVER_TIME_SHARE:g} s"
            return self._attempted(current_row, "wanted", "retry", text)

    async def _apply_at_server(
        self, client: str, row: Actuation, desired: DesiredState, done: str
    ) -> _ActuationAttempt:
        """Lower or restore; returns the row as that leaves it."""
        if desired.restores:
            if row.original:
                await self.actuator.restore(client, row.original)
            restored = msgspec.structs.replace(row, original=b"")
            return self._attempted(restored, "restored", "restored" if row.original else "unchanged")
        if done and done == desired.decision_id and desired.allow:
            # They died when it was decided. Those issued since are the agent's by the same policy.
            desired = msgspec.structs.replace(desired, revoke=False)
        brought: ActuationResult = await self.actuator.lower(client, row.original, desired)
        status: ActuationStatus = "confirmed" if brought.confirmed else "applied"
        return self._attempted(msgspec.structs.replace(row, original=brought.original), status, status)

    def _attempted(
        self, row: Actuation, status: ActuationStatus, outcome: str, error: str = "", retry_after_s: float | None = None
    ) -> _ActuationAttempt:
        """The attempt that leaves *row* in *status*. An error of a restored row is kept, and its delivery is done."""
        now = self.clock()
        confirmed_ms = now if status in ("confirmed", "restored") else 0
        ended = msgspec.structs.replace(row, status=status, confirmed_ms=confirmed_ms, updated_ms=now, error=error)
        result = DeliveryResult("delivered")
        if outcome == "retry":
            result = DeliveryResult("retry", error, retry_after_s)
        elif outcome == "failed":
            result = DeliveryResult("failed", error)
        return _ActuationAttempt(ended, result, outcome)

    def _containment_time_s(self, row: Actuation, desired: DesiredState, before: Actuation | None) -> float | None:
        """Seconds from the event to the confirmed consequence; given once for each decision that lowers something."""
        confirmed = _confirmed_desired_state(before)
        if (
            row.status != "confirmed"
            or not desired.caused_ms
            or (confirmed and confirmed.decision_id == desired.decision_id)
        ):
            return None
        return max(0.0, (row.confirmed_ms - desired.caused_ms) / 1000)

    def _report(
        self, target: ActuatorSettings, outcome: str, result: DeliveryResult, contained_s: float | None = None
    ) -> DeliveryResult:
        self.observe(target.name, outcome, contained_s)
        return result


def _log_actuation(tried: _ActuationAttempt, desired: DesiredState, contained_s: float | None) -> None:
    if tried.outcome == "unchanged":
        return
    line = _log.warning if tried.result.error else _log.info
    line(
        "actuation",
        target=tried.row.target,
        tenant=desired.tenant,
        agent_id=desired.name.agent_id,
        risk_level=desired.level,
        outcome=tried.outcome,
        decision_id=desired.decision_id or None,
        contained_s=contained_s,
        error=tried.result.error or None,
    )


def _stored_desired_state(row: Actuation | None) -> DesiredState | None:
    """The desired state of a stored actuation; None = there is none, or another version of us wrote it."""
    try:
        return None if row is None else decode_desired_state(row.desired)
    except UnreadableAction:
        return None


def _with_decision_times(desired: DesiredState, before: Actuation | None) -> DesiredState:
    """*desired* with the times of its decision, if that was desired before: another check does not make it later."""
    was = _stored_desired_state(before)
    if was is None or not desired.decision_id or (was.decision_id, was.level) != (desired.decision_id, desired.level):
        return desired
    return msgspec.structs.replace(desired, decided_ms=was.decided_ms, caused_ms=was.caused_ms)


def _keep_confirmation_time(
    tried: _ActuationAttempt, desired: DesiredState, before: Actuation | None
) -> _ActuationAttempt:
    """Keeps the time of the earlier confirmation if another check finds the state unchanged."""
    confirmed = _confirmed_desired_state(before)
    same = confirmed is not None and (confirmed.decision_id, confirmed.level) == (desired.decision_id, desired.level)
    if before is None or not same or tried.row.status != "confirmed":
        return tried
    return tried._replace(row=msgspec.structs.replace(tried.row, confirmed_ms=before.confirmed_ms))


def _confirmed_desired_state(before: Actuation | None) -> DesiredState | None:
    return _stored_desired_state(before) if before is not None and before.status == "confirmed" else None
