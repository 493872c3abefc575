"""A flood is slowed to its share; who sends little never waits. Simulated second by second."""

from __future__ import annotations

from collections import Counter

import pytest

from trustwatch.api.events.intake_limits import GRANTED, LAG_S, Backlog, IntakeLimits, SourceFairness
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.http.ledger import Overloaded
from trustwatch.api.settings.access_settings import EventSourceSettings

STEP_S = 0.1


class Site:
    """A log with senders that are refused, and a pipeline of a fixed pace behind it.

    Args:
        pace: records per second that the pipeline applies.
        elsewhere: records per second that another process logs.
    """

    def __init__(self, pace: float, elsewhere: float = 0.0) -> None:
        self.pace, self.elsewhere = pace, elsewhere
        self.now, self.applied, self.logged = 0.0, 0.0, 0.0
        self.fairness = SourceFairness(self.backlog, lambda: self.now)
        self.limits = IntakeLimits(lambda: 0, 2**40, lambda: self.now, fairness=self.fairness)
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._due: Counter[str] = Counter()

    @property
    def waiting(self) -> float:
        return self.logged - self.applied

    def backlog(self) -> Backlog:
        return Backlog(int(self.applied), int(self.waiting))

    def run(self, seconds: float, **rates: float) -> None:
        self.taken.clear()
        self.refused.clear()
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for name, rate in rates.items():
                self._due[name] += rate * STEP_S  # type: ignore[assignment]
                while (events := min(int(self._due[name]), 100)) > 0 and self._send(name, events):
                    self._due[name] -= events
                self._due[name] = min(self._due[name], rate)  # type: ignore[assignment]  # none keeps more than a second
            self.logged += self.elsewhere * STEP_S
            self.applied = min(self.logged, self.applied + self.pace * STEP_S)

    def _send(self, name: str, events: int) -> bool:
        binding = SourceBinding(EventSourceSettings(name))
        try:
            self.limits.check(binding)
        except Overloaded as error:
            assert error.limit == "fairness"
            assert error.retry_after_s > 0
            self.refused[name] += 1
            return False
        self.limits.count_events(binding, events)
        self.taken[name] += events
        self.logged += events
        return True


def test_a_flood_gets_what_the_others_leave() -> None:
    """Five times what the pipeline applies: who sends little waits for nothing, and no more than seconds wait."""
    site = Site(pace=1_000)
    site.run(60, noisy=5_000, quiet=50)
    site.run(120, noisy=5_000, quiet=50)

    assert site.refused["quiet"] == 0
    assert site.taken["quiet"] == pytest.approx(6_000, rel=0.02)
    assert site.taken["noisy"] >= 0.8 * GRANTED * 1_000 * 120
    assert site.waiting < 4 * LAG_S * 1_000


def test_floods_share_alike() -> None:
    site = Site(pace=1_000)
    site.run(60, first=2_000, second=8_000, quiet=10)
    site.run(120, first=2_000, second=8_000, quiet=10)

    assert site.refused["quiet"] == 0
    assert site.taken["first"] == pytest.approx(site.taken["second"], rel=0.25)


@pytest.mark.parametrize("elsewhere", [600, 1_000, 5_000])
def test_other_processes_count_as_one_source(elsewhere: float) -> None:
    """However much they send: who sends little here never waits for them, and a flood here has its share."""
    site = Site(pace=1_000, elsewhere=elsewhere)
    site.run(60, noisy=3_000, quiet=50, calm=30)
    site.run(120, noisy=3_000, quiet=50, calm=30)

    assert site.refused.keys() == {"noisy"}
    assert site.taken["quiet"] == pytest.approx(6_000, rel=0.02)
    assert 300 * 120 < site.taken["noisy"] < 600 * 120


def test_a_flood_that_is_alone_on_its_replica_is_slowed_too() -> None:
    """It keeps those waiting whose events came elsewhere."""
    site = Site(pace=1_000, elsewhere=100)
    site.run(60, noisy=5_000)
    site.run(120, noisy=5_000)
    assert site.refused["noisy"]
    assert 600 * 120 < site.taken["noisy"] < 1_000 * 120


def test_a_source_alone_has_the_log() -> None:
    """Nobody waits for its events but itself: the bound of the log is its bound."""
    site = Site(pace=1_000)
    site.run(60, noisy=5_000)
    assert not site.refused


def test_nobody_is_slowed_after_an_outage() -> None:
    """Senders slower than the pipeline may send while it catches up, and while it stands still."""
    site = Site(pace=0.0)
    site.run(120, first=400, second=100)
    assert not site.refused
    site.pace = 2_000
    site.run(60, first=400, second=100)
    assert not site.refused
    assert site.waiting == pytest.approx(0, abs=100)


def test_the_flood_is_free_again_once_nothing_waits() -> None:
    site = Site(pace=1_000)
    site.run(60, noisy=5_000, quiet=50)
    site.pace = 50_000
    site.run(20, noisy=5_000, quiet=50)
    site.run(20, noisy=5_000, quiet=50)
    assert not site.refused


def test_a_pipeline_that_goes_back_is_watched_anew() -> None:
    """Whoever took a partition over starts at the last commit."""
    site = Site(pace=1_000)
    site.run(60, noisy=5_000, quiet=50)
    assert site.refused["noisy"]
    site.applied -= 5_000
    site.run(0.5, noisy=5_000, quiet=50)  # until it is looked at again
    site.run(1, noisy=5_000, quiet=50)
    assert not site.refused
