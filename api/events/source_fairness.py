"""Fairness between senders while events wait: who sends more than its share of what the pipeline applies is slowed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

LAG_S = 5.0  # Sources are slowed once applying what waits would take longer than this
PACE_S = 10.0  # Paces are means over about this time: of sources, and of the pipeline
LEAST_PACE_S = 1.5  # Least time for which the pipeline's pace is watched before a source is slowed
STANDSTILL_S = 4.0  # A pipeline that reports no progress for so long stands still
GRANTED = 0.9  # Part of the pipeline's pace that is given to senders while events wait, so that what waits becomes less
MAX_RETRY_S = 30.0
_SAMPLE_S = 0.25
_FORGET_BELOW = 1e-9  # records: what is left of one after 200 s


class Backlog(NamedTuple):
    """Progress of the pipeline: records that it applied, ever, and records that wait."""

    applied: int
    waiting: int


class _Sample(NamedTuple):
    at_s: float
    applied: int
    waiting: int
    ours: int  # records that came through this process, ever


ELSEWHERE = ""  # Name under which other processes count, all of them as one source: replicas, topics
_NOISE = 0.05  # part of the pace: less from elsewhere is time, our own records, and what is on its way to the log


@dataclass(eq=False, repr=False)
class SourceFairness:
    """Slows the fastest senders where the pipeline falls behind, down to equal shares of its pace (max-min fairness).

    What comes from elsewhere counts as one source more, and is not slowed here. Only where another source has sent
    within minutes: one that is alone keeps nobody waiting but itself. A pipeline that stands still, or catches up with
    senders slower than itself, slows nobody.
    """

    backlog: Callable[[], Backlog]  # of the whole log, whoever wrote it
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._sent: dict[str, float] = {}  # records of each source, of which a part is forgotten each moment
        self._sent_at_s = self._sampled_at_s = self.monotonic()
        self._ours = 0

    def count(self, source: str, records: int) -> None:
        """Count records of a source that were logged."""
        self._age_counts()
        self._sent[source] = self._sent.get(source, 0.0) + records
        self._ours += records

    def wait_s(self, source: str) -> float:
        """Seconds until that source may send again; 0 = now."""
        self._take_sample()
        capacity = self._granted_pace()
        if capacity == math.inf:
            return 0.0
        self._age_counts()
        paces = {name: sent / PACE_S for name, sent in self._sent.items()} | self._pace_elsewhere(capacity)
        if len(paces) < 2:
            return 0.0
        pace, share = paces.get(source, 0.0), fair_share(paces, capacity)
        return min(PACE_S * math.log(pace / share), MAX_RETRY_S) if pace > share else 0.0

    def _age_counts(self) -> None:
        now = self.monotonic()
        kept = math.exp((self._sent_at_s - now) / PACE_S)
        self._sent_at_s = now
        self._sent = {name: left for name, sent in self._sent.items() if (left := sent * kept) > _FORGET_BELOW}

    def _take_sample(self) -> None:
        """Note the pipeline's progress, now and then. While nothing waits, or it stands still, it shows no pace."""
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
        """Records per second that all sources may have together; infinite where nobody is slowed."""
        if len(self._samples) < 3:
            return math.inf
        second, last = self._samples[1], self._samples[-1]
        if last.at_s - second.at_s < LEAST_PACE_S:  # before the second, it may have stood still
            return math.inf
        # The best of the last seconds: reports come in steps.
        pace = max(
            (last.applied - before.applied) / seconds
            for before in self._samples
            if (seconds := last.at_s - before.at_s) >= LEAST_PACE_S
        )
        if pace <= 0 or last.waiting <= LAG_S * pace:
            return math.inf
        return GRANTED * pace

    def _pace_elsewhere(self, capacity: float) -> dict[str, float]:
        """Pace of what did not come through this process, where it is more than noise."""
        first, last = self._samples[0], self._samples[-1]
        logged = last.applied + last.waiting - first.applied - first.waiting
        others = (logged - (last.ours - first.ours)) / (last.at_s - first.at_s)
        return {ELSEWHERE: others} if others > _NOISE * capacity else {}


def fair_share(paces: Mapping[str, float], capacity: float) -> float:
    """The most that one source may have, so that all have *capacity* together and who wants less has all it wants.

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
