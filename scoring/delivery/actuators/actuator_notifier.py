"""Delivery of desired states to actuators, and metrics of how they fare."""

from __future__ import annotations

import asyncio
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from ...records.containment import Actuation, ActuationStatus
from ...store.containment_store import ActuationStore
from ...store.outbox_store import LeasedDelivery
from ..delivery_target import DeliveryResult
from .actuator import ActuationResult, Actuator, ActuatorError, UnknownClient
from .actuator_settings import ActuatorSettings
from .desired_state import DesiredState, UnreadableAction, decode_desired_state, encode_desired_state

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
        for bound, count in zip([*(f"{one:g}" for one in BUCKETS_S), "+Inf"], counts, strict=bool(counts)):
            total += count
            shown.append((bound, float(total)))
        return shown

    @property
    def targets(self) -> list[str]:
        """Targets with a containment time."""
        return sorted(self._buckets)


# Carries wishes of the outbox to an actuator until the server says that it is so.
#
# The store keeps, per target and agent, the newest wish and what the server had before anything was lowered. Each
# attempt compares itself with that: an older wish is dropped, and one that is overtaken while it is applied goes on
# with the newer, so that whoever is last to touch the server leaves the newest wish there. Several processes may do so
# at a time.


MAX_ROUNDS = 8
"""Wishes that may overtake each other within one attempt; the next attempt goes on."""

SERVER_TIME_SHARE = 0.9
"""Share of the target's time for the server, so that there is some left to write down that it did not answer."""

DesiredStateLookup = Callable[[DesiredState], Awaitable[DesiredState]]
ActuationObserver = Callable[[str, str, float | None], None]


class _ActuationAttempt(NamedTuple):
    """What one try at the server came to."""

    row: Actuation
    result: DeliveryResult
    outcome: str


class ActuatorNotifier:
    """`Notifier` for rows of kind `action`: one target, one actuator.

    Args:
        actuator: reaches the server.
        actuations: keeps wishes and originals.
        wish: what is to hold now for the agent of a row (`Wishes.now`).
        clock: UTC milliseconds.
        observe: told (target, outcome, containment time in s or None) of every attempt. Outcomes: confirmed, applied,
            restored, unchanged, superseded, skipped, retry, failed.
    """

    def __init__(
        self,
        actuator: Actuator,
        actuations: ActuationStore,
        wish: DesiredStateLookup,
        clock: Callable[[], int],
        observe: ActuationObserver,
    ) -> None:
        self._actuator = actuator
        self._actuations = actuations
        self._resolve_desired = wish
        self._clock = clock
        self._observe = observe
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()

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
        lock = self._locks.setdefault(asked.agent_key, asyncio.Lock())
        async with lock:
            return await self._apply_desired_state(row.seq, asked, target)

    async def _apply_desired_state(self, version: int, asked: DesiredState, target: ActuatorSettings) -> DeliveryResult:
        wish = await self._resolve_desired(asked)
        before = await asyncio.to_thread(self._actuations.get, target.name, wish.agent_key)
        wish = _with_decision_times(wish, before)
        if before is None and wish.restores:
            return self._report(target, "unchanged", DeliveryResult("delivered"))
        row = await asyncio.to_thread(self._actuations.request, self._new_actuation(version, wish, target))
        if row is None:
            return self._report(target, "superseded", DeliveryResult("delivered"))
        done = _revoked_decision_id(before)
        for _ in range(MAX_ROUNDS):
            tried = _keep_confirmation_time(await self._attempt_actuation(row, wish, target, done), wish, before)
            if await asyncio.to_thread(self._actuations.settle, tried.row):
                contained_s = self._containment_time_s(tried.row, wish, before)
                return self._report(target, tried.outcome, tried.result, contained_s)
            newer = await self._newer_actuation(tried.row)
            if newer is None:
                break
            row, wish, before = newer, decode_desired_state(newer.desired), None
        error = "newer wishes overtook each other; the next attempt goes on"
        return self._report(target, "retry", DeliveryResult("retry", error))

    async def _newer_actuation(self, mine: Actuation) -> Actuation | None:
        """The newer wish. What was there before anything was lowered is not lost with it, whoever restored."""
        newer = await asyncio.to_thread(self._actuations.get, mine.target, mine.agent.key)
        if newer is None or newer.original or not mine.original:
            return newer
        kept = await asyncio.to_thread(self._actuations.keep_original, mine.target, mine.agent.key, mine.original)
        return msgspec.structs.replace(newer, original=kept)

    async def _attempt_actuation(
        self, row: Actuation, wish: DesiredState, target: ActuatorSettings, done: str
    ) -> _ActuationAttempt:
        held = row
        try:
            async with asyncio.timeout(target.timeout_s * SERVER_TIME_SHARE):
                client = target.client_of(wish.agent_id)
                if not wish.restores and not row.original:
                    found = await self._actuator.capture(client)
                    kept = await asyncio.to_thread(self._actuations.keep_original, target.name, wish.agent_key, found)
                    held = msgspec.structs.replace(row, original=kept)
                return await self._apply_at_server(client, held, wish, done)
        except UnknownClient as error:
            return self._handle_unknown_client(held, wish, str(error))
        except ActuatorError as error:
            result = DeliveryResult("retry", str(error), error.retry_after_s)
            return _ActuationAttempt(self._updated_actuation(held, "wanted", str(error)), result, "retry")
        except TimeoutError:
            error_text = f"no answer of the server within {target.timeout_s * SERVER_TIME_SHARE:g} s"
            return _ActuationAttempt(
                self._updated_actuation(held, "wanted", error_text), DeliveryResult("retry", error_text), "retry"
            )

    async def _apply_at_server(self, client: str, row: Actuation, wish: DesiredState, done: str) -> _ActuationAttempt:
        """Lower or restore, and what that makes of the row."""
        if wish.restores:
            if row.original:
                await self._actuator.restore(client, row.original)
            restored = msgspec.structs.replace(row, original=b"")
            outcome = "restored" if row.original else "unchanged"
            return _ActuationAttempt(
                self._updated_actuation(restored, "restored", ""), DeliveryResult("delivered"), outcome
            )
        if done and done == wish.decision_id and wish.allow:
            # They died when it was decided. Those issued since are the agent's by the same policy.
            wish = msgspec.structs.replace(wish, revoke=False)
        brought: ActuationResult = await self._actuator.lower(client, row.original, wish)
        status: ActuationStatus = "confirmed" if brought.confirmed else "applied"
        lowered = msgspec.structs.replace(row, original=brought.original)
        return _ActuationAttempt(self._updated_actuation(lowered, status, ""), DeliveryResult("delivered"), status)

    def _handle_unknown_client(self, row: Actuation, wish: DesiredState, error: str) -> _ActuationAttempt:
        """No such client: an error where something was to be lowered; to be restored there is nothing left."""
        if wish.restores:
            gone = msgspec.structs.replace(row, original=b"")
            return _ActuationAttempt(
                self._updated_actuation(gone, "restored", error), DeliveryResult("delivered"), "restored"
            )
        return _ActuationAttempt(
            self._updated_actuation(row, "failed", error), DeliveryResult("failed", error), "failed"
        )

    def _new_actuation(self, version: int, wish: DesiredState, target: ActuatorSettings) -> Actuation:
        return Actuation(
            target.name,
            wish.name,
            version,
            encode_desired_state(wish),
            b"",
            "wanted",
            wish.caused_ms,
            wish.decided_ms,
            0,
            self._clock(),
            "",
        )

    def _updated_actuation(self, row: Actuation, status: ActuationStatus, error: str) -> Actuation:
        now = self._clock()
        confirmed_ms = now if status in ("confirmed", "restored") else 0
        return msgspec.structs.replace(row, status=status, confirmed_ms=confirmed_ms, updated_ms=now, error=error)

    def _containment_time_s(self, row: Actuation, wish: DesiredState, before: Actuation | None) -> float | None:
        """From the event to the confirmed consequence; told once for each decision that lowers something."""
        told = _confirmed_desired_state(before)
        if row.status != "confirmed" or not wish.caused_ms or (told and told.decision_id == wish.decision_id):
            return None
        return max(0.0, (row.confirmed_ms - wish.caused_ms) / 1000)

    def _report(
        self, target: ActuatorSettings, outcome: str, result: DeliveryResult, contained_s: float | None = None
    ) -> DeliveryResult:
        self._observe(target.name, outcome, contained_s)
        return result


def _stored_desired_state(row: Actuation | None) -> DesiredState | None:
    """What was wanted; None = nothing, or what another version of us wrote."""
    try:
        return None if row is None else decode_desired_state(row.desired)
    except UnreadableAction:
        return None


def _with_decision_times(wish: DesiredState, before: Actuation | None) -> DesiredState:
    """*wish* with the times of its decision, where that was wanted before: a further look does not make it later."""
    was = _stored_desired_state(before)
    if was is None or not wish.decision_id or (was.decision_id, was.level) != (wish.decision_id, wish.level):
        return wish
    return msgspec.structs.replace(wish, decided_ms=was.decided_ms, caused_ms=was.caused_ms)


def _keep_confirmation_time(
    tried: _ActuationAttempt, wish: DesiredState, before: Actuation | None
) -> _ActuationAttempt:
    """A further look that finds all as it was confirmed before says since when it is so."""
    told = _confirmed_desired_state(before)
    same = told is not None and (told.decision_id, told.level) == (wish.decision_id, wish.level)
    if before is None or not same or tried.row.status != "confirmed":
        return tried
    return tried._replace(row=msgspec.structs.replace(tried.row, confirmed_ms=before.confirmed_ms))


def _confirmed_desired_state(before: Actuation | None) -> DesiredState | None:
    """What the server has confirmed last."""
    return _stored_desired_state(before) if before is not None and before.status == "confirmed" else None


def _revoked_decision_id(before: Actuation | None) -> str:
    """The decision whose revocation the server has confirmed; "" = none."""
    told = _confirmed_desired_state(before)
    return told.decision_id if told is not None and told.revoke else ""
