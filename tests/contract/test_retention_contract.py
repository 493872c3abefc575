"""Retention by table, on every store: each kind of row goes by its own time, and what is not finished stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from trustwatch.api.service.assembly import label_retention_days
from trustwatch.api.service.serve import retention_cutoff
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.storage_settings import ArchiveSettings, RetentionSettings
from trustwatch.ingest.hashing import agent_key
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.outbox_store import DeliveryRoute, DeliverySettlement
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

NOW = 1_764_000_000_000
LATE = NOW + 10 * DAY_MS
BOT = AgentName(agent_key("acme", "https://as", "bot"), "acme", "https://as", "bot")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    on_file = request.param == "sqlite"
    url = sqlite_url(tmp_path / "s.db") if on_file else str(request.getfixturevalue("postgres_url"))
    with closing(open_store(url)) as store:
        yield store


def test_outbox_and_dead_letters_have_their_own_times(store: SqlStore) -> None:
    """By default as decisions; letters that wait go only where that is asked for."""
    alert = OutboxRow("a1", "alert", "", b"{}", NOW, BOT.key, "x", 3, "acme")
    letters = [DeadLetter(f"L{number}", NOW, "gw", "bad", "$", b"x", 0, number) for number in range(2)]
    at = store.partitions.claim(0)
    store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [alert], letters))
    store.outbox.route([DeliveryRoute("hook", "alert", frozenset({3}), 0)], NOW)
    (out,) = store.outbox.lease("hook", NOW, 10, 1_000)
    store.outbox.settle([DeliverySettlement(out.seq, "hook", out.attempt, "delivered", 0, "", NOW)])
    store.dead_letters.mark_replayed(["L0"], NOW)

    kept = store.retention.purge(LATE, outbox_before_ms=NOW, letters_before_ms=NOW)
    assert (kept.outbox, kept.dead_letters) == (0, 0)
    gone = store.retention.purge(NOW, outbox_before_ms=LATE, letters_before_ms=LATE)
    assert (gone.outbox, gone.dead_letters) == (1, 1)
    assert store.retention.purge(LATE).dead_letters == 0
    assert store.retention.purge(NOW, waiting_letters_before_ms=LATE).dead_letters == 1


def test_containment_has_its_own_times(store: SqlStore) -> None:
    """Interventions, actuations and edges; what is lowered at a server stays."""
    ended = Intervention("I1", "pin", "ended", BOT, 1, (), "x", "y", NOW, "z", NOW, "w", NOW, NOW)
    store.interventions.add(ended)
    store.actuations.request(Actuation("kc", BOT, 1, b"{}", b"", "restored", NOW, NOW, NOW, NOW, ""))
    at = store.partitions.claim(0)
    edge = AgentEdge("acme", "https://as", "called", "bot", "other", NOW, NOW)
    store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [], [], edges=[edge]))

    assert store.retention.purge_containment(NOW, actuations_before_ms=NOW, edges_before_ms=NOW) == 0
    assert store.retention.purge_containment(NOW, actuations_before_ms=LATE, edges_before_ms=NOW) == 1
    assert store.retention.purge_containment(NOW, edges_before_ms=LATE) == 1
    assert store.retention.purge_containment(LATE) == 1


def test_what_is_not_said_is_retention_days() -> None:
    """Defaults keep what was so before there were settings by table."""
    before = retention_cutoff(Settings(retention_days=30), LATE)

    assert before(None) == LATE - 30 * DAY_MS
    assert before(7) == LATE - 7 * DAY_MS


def test_labels_are_kept_as_long_as_what_they_speak_of() -> None:
    """Training reads the archive where there is one; whoever sets days means them."""
    archive = ArchiveSettings(directory=Path("archive"), retention_days=400)

    assert label_retention_days(Settings(retention_days=30)) == 30
    assert label_retention_days(Settings(retention_days=30, archive=archive)) == 400
    assert label_retention_days(Settings(retention_days=500, archive=archive)) == 500
    assert label_retention_days(Settings(archive=archive, retention=RetentionSettings(labels=7))) == 7
