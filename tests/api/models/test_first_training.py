"""When a service that learns trains its first model, and when it does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from trustwatch.api.composition import open_model_registry, open_service_store
from trustwatch.api.models.first_training import LOOK_EVERY_S, FirstTraining, begin_learning, is_learning
from trustwatch.api.models.training_state import LAST_TRAINING_KEY
from trustwatch.api.settings.learning_settings import LifecycleSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

NOW = 1_764_000_000_000


class Site:
    """A store, a clock, and the decision when to train."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.now_ms, self.monotonic = store, NOW, 0.0
        settings = LifecycleSettings(learn_days=2.0, learn_events=1_000)
        self.training = FirstTraining(settings, store, lambda: self.now_ms, lambda: self.monotonic)

    def shows(self, agent_id: str, events: int, first_ms: int, last_ms: int) -> None:
        """An agent has shown so many events."""
        who = AgentName(IdentityHasher().agent_key("acme", "i", agent_id), "acme", "i", agent_id)
        row = AgentRow(
            who, "X", 0, 0.0, 0.5, 0.0, first_ms, last_ms, last_ms, 0, events, "", b"[]", "", b"f", b"r", "v"
        )
        at = self.store.partitions.position(0)
        at = self.store.partitions.claim(0) if at.epoch == 0 else at
        self.store.commit(Commit(at, Position(0, at.epoch, at.offset + events), [row], [], [], []))

    def look(self, after_s: float = LOOK_EVERY_S) -> bool:
        """Ask again later."""
        self.monotonic += after_s
        self.now_ms += int(after_s * 1000)
        return self.training.is_due()

    def challenger(self, *, over: bool = False) -> None:
        """The training has brought a version."""
        trained = {"over_budget": ["high"] if over else []}
        made = ModelVersion("first", "challenger", "d", NOW, NOW, NOW, 0, NOW, 0, trained)
        self.store.models.add(made, ModelHistoryEntry("h1", NOW, "first", "trained", "schedule", ""))
        self.store.metadata.put(LAST_TRAINING_KEY, str(self.now_ms))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(open_store(sqlite_url(tmp_path / "s.db"))) as store:
        yield Site(store)


def test_events_and_days_are_both_needed(site: Site) -> None:
    """And it is looked now and then, not in each step."""
    assert not site.look()
    site.shows("a", 5_000, NOW - DAY_MS, NOW)
    assert not site.look()
    site.shows("b", 10, NOW - 3 * DAY_MS, NOW - DAY_MS)
    assert not site.look(1.0)
    assert site.look()


def test_an_old_history_is_learned_once_it_is_whole(site: Site) -> None:
    """While more of it comes, it waits; what happens now is always whole."""
    old = NOW - 30 * DAY_MS
    site.shows("a", 2_000, old, old + 3 * DAY_MS)
    assert not site.look()
    site.shows("a", 2_500, old, old + 4 * DAY_MS)
    assert not site.look()
    assert site.look()


def test_a_version_over_budget_does_not_come_into_force(site: Site) -> None:
    """People decide about it; the next training wants more history, and time."""
    site.shows("a", 2_000, NOW - 3 * DAY_MS, NOW)
    assert site.look() and site.training.ready_version() is None
    site.challenger(over=True)
    assert site.training.ready_version() is None
    site.shows("a", 2_499, NOW - 3 * DAY_MS, NOW + 2 * HOUR_MS)
    assert not site.look(2 * 3600)
    site.shows("a", 2_500, NOW - 3 * DAY_MS, NOW + 2 * HOUR_MS)
    assert site.look()


def test_a_version_within_budget_is_brought_into_force_and_no_other_trained(site: Site) -> None:
    """After it was, nothing happens by itself: who goes back to learning has a reason."""
    site.shows("a", 2_000, NOW - 3 * DAY_MS, NOW)
    assert site.look()
    site.challenger()
    assert site.training.ready_version() == "first" and not site.look(2 * 3600)
    at = site.store.partitions.position(0)
    switches = [ModelSwitch(0, at.epoch, n, version, "d", "d", NOW) for n, version in ((1, "learning"), (2, "first"))]
    position = msgspec.structs.replace(at, offset=at.offset + 1)
    site.store.commit(Commit(at, position, [], [], [], [], switches=switches))
    assert site.training.ready_version() is None
    site.shows("a", 9_000, NOW - 3 * DAY_MS, NOW + 4 * HOUR_MS)
    assert not site.look(2 * 3600)


def test_a_service_without_a_model_begins_to_learn(tmp_path: Path) -> None:
    """Once: a model that is there stays, and one that was lost is not replaced in silence."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")
    begin_learning(settings)
    salt = load_trained_model(settings.model_dir).salt
    begin_learning(settings)
    assert load_trained_model(settings.model_dir).salt == salt
    with closing(open_service_store(settings)) as store:
        installed = open_model_registry(settings).installed_model()
        assert is_learning(installed, store)
        at = store.partitions.claim(0)
        switch = ModelSwitch(0, at.epoch, 0, "first", "d", installed.digest, NOW)
        store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [], [], switches=[switch]))
        assert not is_learning(installed, store)
    shutil.rmtree(settings.model_dir)
    with pytest.raises(ModelError, match="agents were judged by 'first' before: put it back"):
        begin_learning(settings)


def test_other_files_are_no_place_for_a_model(tmp_path: Path) -> None:
    """Loading says what is wrong with them."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")
    settings.model_dir.mkdir()
    (settings.model_dir / "notes.txt").write_text("mine")
    begin_learning(settings)
    with pytest.raises(ModelError):
        load_trained_model(settings.model_dir)
