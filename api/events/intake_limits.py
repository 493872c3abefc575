"""Limits of the intake: how fast sources may send, and how much may wait for the pipeline or the disk."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trustwatch.ingest.timestamps import DAY_S

from ..http.auth.callers import SourceBinding
from ..http.ledger import Overloaded, Party, TokenBucket, party_of
from ..settings.root import Settings

LAG_S = 5.0  # Sources are slowed once applying what waits would take longer than this
PACE_S = 10.0  # Paces are means over about this time: of sources, and of the pipeline
LEAST_PACE_S = 1.5  # Least time for which the pipeline's pace is watched before a source is slowed
STANDSTILL_S = 4.0  # A pipeline that reports no progress for this long is stalled
GRANTED = 0.9  # Part of the pipeline's pace that is given to senders while events wait, so that what waits becomes less
MAX_RETRY_S = 30.0
_SAMPLE_S = 0.25
_FORGET_BELOW = 1e-9  # records: what is left of one after 200 s


class Backlog(NamedTuple):
    """Progress of the pipeline: total records applied, and records waiting."""

    applied: int
    waiting: int


class _Sample(NamedTuple):
    at_s: float
    applied: int
    waiting: int
    ours: int  # records that came through this process, ever


ELSEWHERE = Party("", "")  # As which other processes count, all of them as one tenant: replicas, topics
_NOISE = 0.05  # part of the pace: less from elsewhere is time, our own records, and what is on its way to the log


@dataclass(eq=False, repr=False)
class SourceFairness:
    """Slows the fastest senders when the pipeline falls behind, down to equal shares of its pace (max-min fairness).

    Tenants have equal shares, and so do the sources of a tenant that sends more than its own. Records from other
    processes count as one additional tenant, which is not slowed here. A source is slowed only if another one has sent
    within minutes. A pipeline that is stalled, or catches up with slower senders, slows no source.
    """

    backlog: Callable[[], Backlog]  # of the whole log, from all writers
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._sent: dict[Party, float] = {}  # records of each source, of which a part is forgotten each moment
        self._sent_at_s = self._sampled_at_s = self.monotonic()
        self._ours = 0

    def count(self, source: Party, records: int) -> None:
        """Count logged records of a source."""
        self._age_counts()
        self._sent[source] = self._sent.get(source, 0.0) + records
        self._ours += records

    def wait_s(self, source: Party) -> float:
        """Return the seconds until a source may send again, 0 for now."""
        self._take_sample()
        capacity = self._granted_pace()
        if capacity == math.inf:
            return 0.0
        self._age_counts()
        paces = {name: sent / PACE_S for name, sent in self._sent.items()}
        first, last = self._samples[0], self._samples[-1]
        logged = last.applied + last.waiting - first.applied - first.waiting
        elsewhere = (logged - (last.ours - first.ours)) / (last.at_s - first.at_s)
        if elsewhere > _NOISE * capacity:
            paces[ELSEWHERE] = elsewhere
        if len(paces) < 2:
            return 0.0
        tenants = defaultdict[str, float](float)
        for (tenant, _), pace in paces.items():
            tenants[tenant] += pace
        share = fair_share(tenants, capacity)
        if tenants[source.tenant] <= share:
            return 0.0
        paces = {one: pace for one, pace in paces.items() if one.tenant == source.tenant}
        pace, share = paces.get(source, 0.0), fair_share(paces, share)
        return min(PACE_S * math.log(pace / share), MAX_RETRY_S) if pace > share else 0.0

    def _age_counts(self) -> None:
        now = self.monotonic()
        kept = math.exp((self._sent_at_s - now) / PACE_S)
        self._sent_at_s = now
        self._sent = {name: left for name, sent in self._sent.items() if (left := sent * kept) > _FORGET_BELOW}

    def _take_sample(self) -> None:
        """Sample the pipeline's progress occasionally. While nothing waits, or it is stalled, it shows no pace."""
        now = self.monotonic()
        if self._samples and now - self._sampled_at_s < _SAMPLE_S:
            return
        self._sampled_at_s, backlog = now, self.backlog()
        newest = self._samples[-1] if self._samples else None
        if newest is not None and backlog.applied == newest.applied and now - newest.at_s < STANDSTILL_S:
            return  # no news yet: it reports in steps
        if newest is not None and backlog.applied <= newest.applied:
            self._samples.clear()
        if backlog.waiting == 0:
            self._samples.clear()
            return
        self._samples.append(_Sample(now, *backlog, self._ours))
        while now - self._samples[0].at_s > PACE_S:
            self._samples.popleft()

    def _granted_pace(self) -> float:
        """Return the records per second for all sources together, or infinity if no source is slowed."""
        if len(self._samples) < 3:
            return math.inf
        second, last = self._samples[1], self._samples[-1]
        if last.at_s - second.at_s < LEAST_PACE_S:  # before the second, it may have been stalled
            return math.inf
        # The maximum of the last seconds, because reports arrive in steps.
        pace = max(
            (last.applied - before.applied) / seconds
            for before in self._samples
            if (seconds := last.at_s - before.at_s) >= LEAST_PACE_S
        )
        if pace <= 0 or last.waiting <= LAG_S * pace:
            return math.inf
        return GRANTED * pace


def fair_share(paces: Mapping[Any, float], capacity: float) -> float:
    """Return the maximum for one party, so that all together have *capacity* and modest sources get all they want.

    >>> fair_share({"noisy": 900.0, "quiet": 10.0}, 100.0), fair_share({"a": 30.0, "b": 40.0}, 100.0)
    (90.0, inf)
    """
    left, above = capacity, len(paces)
    for pace in sorted(paces.values()):
        if pace * above > left:
            return left / above
        left -= pace
        above -= 1
    return math.inf


DISK_RESERVE_MB = 512
"""Free space that is reserved, MiB: for people's orders, and for the database to write them."""

MAX_SHARE = 0.1  # Share of the disk that the reserve takes at most, for disks of less than 5 GiB
LOOK_EVERY_S = 0.25


@dataclass(eq=False, repr=False)
class DiskReserve:
    """Detects when the free space on a disk has fallen to the reserve."""

    folder: Path
    reserve_bytes: int
    monotonic: Callable[[], float]
    _looked_at: float | None = field(default=None, init=False)
    _is_reached: bool = field(default=False, init=False)

    def is_reached(self) -> bool:
        """Return whether only people's orders may be written. The disk is checked a few times a second at most."""
        now = self.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            try:
                usage = shutil.disk_usage(self.folder)
                self._is_reached = usage.free < min(self.reserve_bytes, int(usage.total * MAX_SHARE))
            except OSError:  # the log itself reports what is wrong with the disk
                self._is_reached = False
        return self._is_reached


def disk_reserve(settings: Settings, monotonic: Callable[[], float]) -> DiskReserve:
    """Return the reserve for the disk of the service's event log, if the log is local."""
    reserve_mb = 0 if settings.distributed else DISK_RESERVE_MB
    return DiskReserve(settings.data_dir, reserve_mb * 1024 * 1024, monotonic)


MAX_LAG_BYTES = 256 * 1024 * 1024
"""Bytes of unapplied events above which senders get 429: about ten minutes of work for one pipeline."""


BURST_S = 1.0  # A source may be ahead of its rate by what it is granted in this time
RESERVE_RETRY_S = 30.0
LAG_RETRY_S = 5.0
INITIAL_MEAN_RECORD_BYTES = 700.0
_MEAN_WINDOW_RECORDS = 10_000


@dataclass(eq=False, repr=False)
class IntakeLimits:
    """Decides before a body is read whether its sender has to wait."""

    pending_records: Callable[[], int]  # records that are logged and not yet applied
    max_lag_bytes: int  # bound of the same in bytes, estimated from the mean size of logged records
    monotonic: Callable[[], float]
    disk_reserve: DiskReserve | None = None  # of the disk, for orders; None = none is kept
    fairness: SourceFairness | None = None  # None = first come, first served
    _buckets: dict[tuple[str, float], TokenBucket] = field(default_factory=dict, init=False)
    _mean_record_bytes: float = field(default=INITIAL_MEAN_RECORD_BYTES, init=False)

    def check(self, binding: SourceBinding) -> None:
        """Raise Overloaded if a request of that source has to wait."""
        if self.pending_records() * self._mean_record_bytes > self.max_lag_bytes:
            raise Overloaded("lag", "the pipeline is behind; events wait to be applied", LAG_RETRY_S)
        wait = self.fairness.wait_s(party_of(binding)) if self.fairness else 0.0
        if wait > 0:
            raise Overloaded(
                "fairness", "events wait to be applied, and this source sends more than its share of them", wait
            )
        rate = self._rate(binding)
        if rate is not None and (wait := rate.wait_s(self.monotonic())) > 0:
            raise Overloaded("rate", f"this source may send {binding.source.events_per_s:g} events per second", wait)
        quota = self._quota(binding)
        if quota is not None and (wait := quota.wait_s(self.monotonic())) > 0:
            raise Overloaded("quota", f"this source may send {binding.bytes_per_day} bytes a day", wait)
        if self.disk_reserve is not None and self.disk_reserve.is_reached():
            raise Overloaded("reserve", "the disk is full; the rest is reserved for orders of people", RESERVE_RETRY_S)

    def count_events(self, binding: SourceBinding, events: int) -> None:
        """Count events against the rate and the fair share of their source."""
        if self.fairness is not None:
            self.fairness.count(party_of(binding), events)
        if (rate := self._rate(binding)) is not None:
            rate.consume(events)

    def count_bytes(self, binding: SourceBinding, kept_bytes: int) -> None:
        """Count the bytes that a body became against the quota of its source."""
        if (quota := self._quota(binding)) is not None:
            quota.consume(kept_bytes)

    def observe_commit(self, records: int, payload_bytes: int) -> None:
        """Update the mean size of records."""
        weight = min(records / _MEAN_WINDOW_RECORDS, 1.0)
        self._mean_record_bytes += weight * (payload_bytes / records - self._mean_record_bytes)

    def _rate(self, binding: SourceBinding) -> TokenBucket | None:
        return self._bucket(binding.name, binding.source.events_per_s, BURST_S)

    def _quota(self, binding: SourceBinding) -> TokenBucket | None:
        per_day = binding.bytes_per_day
        return self._bucket(binding.name, None if per_day is None else per_day / DAY_S, DAY_S)

    def _bucket(self, source: str, rate: float | None, burst_s: float) -> TokenBucket | None:
        if rate is None:
            return None
        bucket = self._buckets.get((source, burst_s))
        if bucket is None:
            bucket = self._buckets[source, burst_s] = TokenBucket(rate, self.monotonic(), burst_s)
        return bucket
