"""Limits of the intake, and why a whole request is not taken.

::

    TrustwatchError
    ├── BodyTooLarge       body_too_large     send less at once
    ├── UnsupportedBody    unsupported_body   another media type or coding
    └── Unavailable
        └── Overloaded     too_many_requests  the same again after `retry_after_s`; nothing of it was kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from trustwatch.ingest.errors import TrustwatchError, Unavailable

from ..http.auth.callers import SourceBinding
from .disk_reserve import DiskReserve
from .source_fairness import SourceFairness

MAX_LAG_BYTES = 256 * 1024 * 1024
"""Events not yet applied before senders get 429: some ten minutes of work for one pipeline."""


class BodyTooLarge(TrustwatchError):
    """More bytes or more events than one request may hold."""

    code = "body_too_large"


class UnsupportedBody(TrustwatchError):
    """No media type, character set or content coding that the intake reads; the message names those it does."""

    code = "unsupported_body"


class Overloaded(Unavailable):
    """The sender, or all senders together, are faster than their events are taken."""

    code = "too_many_requests"

    def __init__(self, cause: str, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.cause = cause
        self.retry_after_s = retry_after_s


MAX_TOTAL_BODY_BYTES = 128 * 1024 * 1024  # Bytes of bodies that are held at one time, over all sources
MAX_SOURCE_SHARE = 0.5  # Part of it that one source may take, so that the others always find room
BURST_S = 1.0  # A source may be ahead of its rate by what it is granted in this time
DAY_S = 86_400.0
RESERVE_RETRY_S = 30.0
LAG_RETRY_S = 5.0
MEMORY_RETRY_S = 1.0
INITIAL_MEAN_RECORD_BYTES = 700.0
_MEAN_WINDOW_RECORDS = 10_000


class TokenBucket:
    """Token bucket that may go into debt: a body larger than the burst is taken, and paid for with time."""

    def __init__(self, rate: float, now: float, burst_s: float = BURST_S) -> None:
        self._rate = rate
        self._burst = rate * burst_s
        self._tokens = self._burst
        self._updated_at = now

    def wait_s(self, now: float) -> float:
        """Seconds until something may be sent again; 0 = now."""
        self._tokens = min(self._tokens + (now - self._updated_at) * self._rate, self._burst)
        self._updated_at = now
        return 0.0 if self._tokens > 0 else -self._tokens / self._rate or 1 / self._rate

    def consume(self, amount: int) -> None:
        """Count what was sent."""
        self._tokens -= amount


class IntakeLimits:
    """Decides before a body is taken apart whether its sender has to wait."""

    def __init__(
        self,
        pending_records: Callable[[], int],
        max_lag_bytes: int,
        monotonic: Callable[[], float],
        total_bytes: int = MAX_TOTAL_BODY_BYTES,
        reserve: DiskReserve | None = None,
        fairness: SourceFairness | None = None,
    ) -> None:
        self.disk_reserve = reserve
        self._fairness = fairness
        self._pending_records = pending_records
        self._max_lag_bytes = max_lag_bytes
        self._monotonic = monotonic
        self._max_total_bytes = total_bytes
        self._reserved: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._quotas: dict[str, TokenBucket] = {}
        self._mean_record_bytes = INITIAL_MEAN_RECORD_BYTES

    @property
    def reserved_bytes(self) -> int:
        """Bytes of bodies now in memory."""
        return sum(self._reserved.values())

    def check(self, binding: SourceBinding) -> None:
        """Raise Overloaded where a request of that source has to wait."""
        if self._pending_records() * self._mean_record_bytes > self._max_lag_bytes:
            raise Overloaded("lag", "the pipeline is behind; events wait to be applied", LAG_RETRY_S)
        wait = self._fairness.wait_s(binding.name) if self._fairness else 0.0
        if wait > 0:
            raise Overloaded(
                "fairness", "events wait to be applied, and this source sends more than its share of them", wait
            )
        bucket = self._bucket(binding)
        wait = bucket.wait_s(self._monotonic()) if bucket else 0.0
        if wait > 0:
            raise Overloaded("rate", f"this source may send {binding.source.events_per_s:g} events per second", wait)
        quota = self._quota(binding)
        wait = quota.wait_s(self._monotonic()) if quota else 0.0
        if wait > 0:
            raise Overloaded("quota", f"this source may send {binding.bytes_per_day} bytes a day", wait)
        if self.disk_reserve is not None and self.disk_reserve.is_reached():
            raise Overloaded("reserve", "the disk is full but for what orders of people need", RESERVE_RETRY_S)

    def count_events(self, binding: SourceBinding, events: int) -> None:
        """Count events against the rate of their source, and against its share."""
        if self._fairness is not None:
            self._fairness.count(binding.name, events)
        bucket = self._bucket(binding)
        if bucket is not None:
            bucket.consume(events)

    def count_bytes(self, binding: SourceBinding, body_bytes: int) -> None:
        """Count a body, as it is after decompression, against the quota of its source."""
        quota = self._quota(binding)
        if quota is not None:
            quota.consume(body_bytes)

    def observe_commit(self, records: int, payload_bytes: int) -> None:
        """Learn the mean size of records."""
        weight = min(records / _MEAN_WINDOW_RECORDS, 1.0)
        self._mean_record_bytes += weight * (payload_bytes / records - self._mean_record_bytes)

    def reserve(self, binding: SourceBinding) -> BodyReservation:
        """Room for one body; grows as the body arrives and is given back on leaving the block."""
        return BodyReservation(self._reserved, binding.name, self._max_total_bytes)

    def _bucket(self, binding: SourceBinding) -> TokenBucket | None:
        if binding.source.events_per_s is None:
            return None
        bucket = self._buckets.get(binding.name)
        if bucket is None:
            bucket = self._buckets[binding.name] = TokenBucket(binding.source.events_per_s, self._monotonic())
        return bucket

    def _quota(self, binding: SourceBinding) -> TokenBucket | None:
        if binding.bytes_per_day is None:
            return None
        quota = self._quotas.get(binding.name)
        if quota is None:
            rate = binding.bytes_per_day / DAY_S
            quota = self._quotas[binding.name] = TokenBucket(rate, self._monotonic(), DAY_S)
        return quota


@dataclass(eq=False, repr=False)
class BodyReservation:
    """Bytes of one body in memory."""

    reserved: dict[str, int]
    source: str
    total: int

    def __post_init__(self) -> None:
        self._own_bytes = 0

    def grow(self, more: int) -> None:
        """Take room for more bytes; raises Overloaded where there is none."""
        own = self.reserved.get(self.source, 0) + more
        if self._own_bytes != own - more and own > self.total * MAX_SOURCE_SHARE:
            raise Overloaded("share", "this source has too much on its way at one time", MEMORY_RETRY_S)
        if sum(self.reserved.values()) + more > self.total:
            raise Overloaded("memory", "too much is on its way at one time", MEMORY_RETRY_S)
        self.reserved[self.source] = own
        self._own_bytes += more

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.reserved.get(self.source, 0) - self._own_bytes
        if left > 0:
            self.reserved[self.source] = left
        else:
            self.reserved.pop(self.source, None)
