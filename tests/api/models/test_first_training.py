"""When a service that learns trains its first model, and when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trustwatch.api.models.first_training import (
    LAST_TRAINING_KEY,
    LOOK_EVERY_S,
    MOST_ASKS,
    QUIET_LOOKS,
    FirstTraining,
)
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelVersion
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support.console_records import row_of

NOW = 1_764_000_000_000


class Site:
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
        row = row_of(agent_id, level=0, first_seen_ms=first_ms, last_seen_ms=last_ms, events=events)
        at = self.store.partitions.position(0)
        at = self.store.partitions.claim(0) if at.epoch == 0 else at
        self.store.commit(Commit(at, Position(0, at.epoch, at.offset + events), [row], [], [], []))

    def look(self, after_s: float = LOOK_EVERY_S) -> bool:
        self.monotonic += after_s
        self.now_ms += int(after_s * 1000)
        return self.training.is_due()

    def watch(self, after_s: float = 0.0) -> bool:
        return any([self.look(after_s + LOOK_EVERY_S), *(self.look() for _ in range(QUIET_LOOKS))])

    def restart(self, budget: AlertBudget = AlertBudget()) -> None:  # noqa: B008
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


def test_an_old_history_is_learned_once_it_is_whole(site: Site) -> None:
    old, events = NOW - 30 * DAY_MS, 2_000
    site.shows("live", 1, NOW, NOW)
    for _ in range(8):
        events += events // 10
        site.shows("a", events, old, old + 3 * DAY_MS)
        assert not site.look()
        assert not site.look()
    assert site.watch()


def test_a_version_over_budget_does_not_come_into_force(site: Site) -> None:
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


@pytest.mark.parametrize("why", ["gone", "asked for in vain", "of somebody else"])
def test_a_version_that_can_not_be_used_stands_in_nobodys_way(site: Site, why: str) -> None:
    site.shows("a", 2_000, NOW - 4 * DAY_MS, NOW)
    assert site.watch()
    site.challenger(ours=why != "of somebody else")
    site.there = why != "gone"
    for _ in range(MOST_ASKS if why == "asked for in vain" else 0):
        site.training.note_asked("first")
    assert site.training.ready_version() is None
    site.shows("a", 2_500, NOW - 4 * DAY_MS, NOW + 2 * HOUR_MS)
    assert site.watch(2 * 3600)
