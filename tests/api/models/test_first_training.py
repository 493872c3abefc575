"""When a service that learns trains its first model, and when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from trustwatch.api.models.first_training import (
    LAST_TRAINING_KEY,
    LOOK_EVERY_S,
    MOST_REQUESTS,
    QUIET_LOOKS,
    FirstTraining,
)
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.records.commits import Commit
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support.stored_rows import NOW, agent, commit, name


class Site:
    """A store, a clock, and the decision when to train."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.now_ms, self.monotonic = store, NOW, 0.0
        self.there = True
        registry: Any = SimpleNamespace(find_directory=self._find)
        self.training = FirstTraining(store, registry, lambda: self.now_ms, lambda: self.monotonic)

    def _find(self, version: str, _digest: str) -> Path:
        if not self.there:
            raise ModelError(f"{version} is gone")
        return Path(version)

    def shows(self, agent_id: str, events: int, first_ms: int, last_ms: int) -> None:
        """An agent has shown so many events."""
        times = {"first_seen_ms": first_ms, "last_seen_ms": last_ms, "evaluated_ms": last_ms}
        commit(self.store, events, agents=[agent(name(agent_id), 0, events=events, **times)])

    def look(self, after_s: float = LOOK_EVERY_S) -> bool:
        self.monotonic += after_s
        self.now_ms += int(after_s * 1000)
        return self.training.is_due()

    def watch(self, after_s: float = 0.0) -> bool:
        """Look until the history counts as whole."""
        return any([self.look(after_s + LOOK_EVERY_S), *(self.look() for _ in range(QUIET_LOOKS))])

    def restart(self, budget: AlertBudget = AlertBudget()) -> None:  # noqa: B008
        """Another keeper goes on, perhaps under another alert budget."""
        registry = self.training.registry
        clocks = (lambda: self.now_ms), (lambda: self.monotonic)
        self.training = FirstTraining(self.store, registry, *clocks, budget=budget)

    def challenger(self, *, over: bool = False, ours: bool = True, budget: AlertBudget | None = None) -> None:
        """The training has brought a version, judged by a budget; or somebody put one there."""
        trained: dict[str, Any] = {"over_budget": ["high"] if over else []} if ours else {}
        if budget is not None:
            levels = [{"level": level, "budget": accepted} for level, accepted in budget.by_level().items()]
            trained["promise"] = {"levels": levels}
        made = ModelVersion("first", "challenger", "d", NOW, NOW, NOW, 0, NOW, 0, trained)
        self.store.models.add(made, ModelHistoryEntry("h1", NOW, "first", "trained", "schedule", ""))
        self.store.metadata.put(LAST_TRAINING_KEY, str(self.now_ms))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(open_store(sqlite_url(tmp_path / "s.db"))) as store:
        yield Site(store)


def test_events_and_days_are_both_needed(site: Site) -> None:
    """And it is looked now and then, not in each step."""
    assert not site.watch()
    site.shows("a", 5_000, NOW - DAY_MS, NOW)
    assert not site.watch()
    site.shows("a", 5_010, NOW - 4 * DAY_MS, NOW)
    assert not site.look(1.0)
    assert site.watch()


def test_one_old_event_makes_no_long_history(site: Site) -> None:
    """A twentieth at each end does not count."""
    site.shows("new", 1_999, NOW - HOUR_MS, NOW)
    site.shows("old", 1, NOW - 300 * DAY_MS, NOW - 300 * DAY_MS)
    assert not site.watch()
    site.shows("older", 200, NOW - 300 * DAY_MS, NOW - 299 * DAY_MS)
    assert site.watch()


def test_an_old_history_is_learned_once_it_is_whole(site: Site) -> None:
    """While much more of it comes, it waits, whatever else acts now, and over a short pause, too."""
    old, events = NOW - 30 * DAY_MS, 2_000
    site.shows("live", 1, NOW, NOW)
    for _ in range(8):
        events += events // 10
        site.shows("a", events, old, old + 3 * DAY_MS)
        assert not site.look()
        assert not site.look()
    assert site.watch()


def test_a_version_over_budget_does_not_come_into_force(site: Site) -> None:
    """People decide about it; the next training wants more history, and time; a restart changes nothing."""
    site.shows("a", 2_000, NOW - 4 * DAY_MS, NOW)
    assert site.watch() and site.training.ready_version() is None
    site.challenger(over=True)
    assert site.training.ready_version() is None
    site.restart()
    site.shows("a", 2_499, NOW - 4 * DAY_MS, NOW + 2 * HOUR_MS)
    assert not site.watch(2 * 3600)
    site.shows("a", 2_500, NOW - 4 * DAY_MS, NOW + 2 * HOUR_MS)
    assert site.watch()


@pytest.mark.parametrize("over", [True, False])
def test_a_version_is_judged_by_the_budget_in_force(site: Site, over: bool) -> None:
    """One that was judged by another says nothing: the next training comes without more history, once a start."""
    site.shows("a", 2_000, NOW - 4 * DAY_MS, NOW)
    assert site.watch()
    site.challenger(over=over, budget=AlertBudget())
    assert site.training.ready_version() == (None if over else "first")
    site.restart(AlertBudget(40.0, 10.0, 2.0))
    assert site.training.ready_version() is None
    assert site.watch()
    assert not site.watch()
    site.restart()
    assert site.training.ready_version() == (None if over else "first")


def test_a_version_within_budget_is_brought_into_force_and_no_other_trained(site: Site) -> None:
    """After it was, nothing happens by itself: who goes back to learning has a reason."""
    site.shows("a", 2_000, NOW - 4 * DAY_MS, NOW)
    assert site.watch()
    site.challenger()
    site.shows("a", 3_000, NOW - 4 * DAY_MS, NOW)
    assert site.training.ready_version() == "first" and not site.watch(2 * 3600)
    at = site.store.partitions.position(0)
    switches = [ModelSwitch(0, at.epoch, n, version, "d", "d", NOW) for n, version in ((1, "learning"), (2, "first"))]
    position = msgspec.structs.replace(at, offset=at.offset + 1)
    site.store.commit(Commit(at, position, [], [], [], [], switches=switches))
    assert site.training.ready_version() is None
    site.shows("a", 9_000, NOW - 4 * DAY_MS, NOW + 4 * HOUR_MS)
    assert not site.watch(2 * 3600)


@pytest.mark.parametrize("why", ["gone", "asked for in vain", "of somebody else"])
def test_a_version_that_can_not_be_used_stands_in_nobodys_way(site: Site, why: str) -> None:
    """The next one is trained when there is more."""
    site.shows("a", 2_000, NOW - 4 * DAY_MS, NOW)
    assert site.watch()
    site.challenger(ours=why != "of somebody else")
    site.there = why != "gone"
    for _ in range(MOST_REQUESTS if why == "asked for in vain" else 0):
        site.training.requests["first"] += 1
    assert site.training.ready_version() is None
    site.shows("a", 2_500, NOW - 4 * DAY_MS, NOW + 2 * HOUR_MS)
    assert site.watch(2 * 3600)
