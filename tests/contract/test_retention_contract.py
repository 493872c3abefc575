"""Retention by table, on every store: each kind of row goes by its own time, and what is not finished stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.composition import retention_cutoffs
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings, StoreSettings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.security_events import POLL_METHOD, EventStream, SecurityEvent
from trustwatch.scoring.store.outbox_store import DeliveryRoute, DeliverySettlement
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_store import SqlStore

NOW = 1_764_000_000_000
LATE = NOW + 10 * DAY_MS
BOT = AgentName(IdentityHasher().agent_key("acme", "https://as", "bot"), "acme", "https://as", "bot")


def test_outbox_and_dead_letters_have_their_own_times(store: SqlStore) -> None:
    """Letters that wait go only where that is asked for."""
    alert = OutboxRow("a1", "alert", "", b"{}", NOW, BOT.key, "x", 3, "acme")
    letters = [DeadLetter(f"L{number}", NOW, "gw", "bad", "$", b"x", 0, number) for number in range(2)]
    at = store.partitions.claim(0)
    store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [alert], letters))
    store.outbox.route([DeliveryRoute("hook", "alert", frozenset({3}), 0)], NOW)
    (out,) = store.outbox.lease("hook", NOW, 10, 1_000)
    store.outbox.settle([DeliverySettlement(out.seq, "hook", out.attempt, "delivered", 0, "", NOW)])
    store.dead_letters.mark_replayed(["L0"], NOW)

    kept = store.retention.purge(RetentionCutoffs(decisions_ms=LATE, others_ms=NOW))
    assert (kept.outbox, kept.dead_letters) == (0, 0)
    gone = store.retention.purge(RetentionCutoffs(decisions_ms=NOW, others_ms=LATE))
    assert (gone.outbox, gone.dead_letters) == (1, 1)
    assert store.retention.purge(RetentionCutoffs(others_ms=LATE)).dead_letters == 0
    assert store.retention.purge(RetentionCutoffs(waiting_dead_letters_ms=LATE)).dead_letters == 1


def test_what_waits_for_a_receiver_goes_with_decisions(store: SqlStore) -> None:
    """One that never comes keeps nothing for ever; its stream stays."""
    stream = EventStream("s1", "gateway", "aud", NOW, NOW, (), POLL_METHOD, "", "", "")
    assert store.security_events.add_stream(stream, 10)
    assert store.security_events.add_verification(SecurityEvent("s1", "j1", b"{}", NOW), 100)
    assert store.retention.purge(RetentionCutoffs(decisions_ms=NOW, others_ms=LATE)).outbox == 0
    assert store.retention.purge(RetentionCutoffs(decisions_ms=LATE)).outbox == 1
    assert store.security_events.waiting(stream, 10) == []
    assert store.security_events.list_all_streams() != []


def test_old_containment_is_deleted(store: SqlStore) -> None:
    """An ended intervention, an actuation that restricts nothing, and an edge."""
    ended = Intervention("I1", "pin", "ended", BOT, 1, (), "x", "y", NOW, "z", NOW, "w", NOW, NOW)
    store.interventions.add(ended)
    store.actuations.request(Actuation("kc", BOT, 1, b"{}", b"", "restored", NOW, NOW, NOW, NOW, ""))
    at = store.partitions.claim(0)
    edge = AgentEdge("acme", "https://as", "called", "bot", "other", NOW, NOW)
    store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [], [], edges=[edge]))

    assert store.retention.purge(RetentionCutoffs(others_ms=NOW)).containment == 0
    assert store.retention.purge(RetentionCutoffs(others_ms=LATE)).containment == 3


def test_what_is_not_said_is_retention_days() -> None:
    """Defaults keep what was so before there were settings by table."""
    cutoffs = retention_cutoffs(Settings(retention_days=30, retention={"cases": 7}), LATE)

    assert set(cutoffs._replace(agents_ms=0, waiting_dead_letters_ms=0, cases_ms=0)) == {0, LATE - 30 * DAY_MS}
    assert cutoffs.cases_ms == LATE - 7 * DAY_MS


OWN_DAYS = ("agents", "decisions", "waiting_dead_letters", "labels", "cases")


@pytest.mark.parametrize("member", OWN_DAYS)
def test_kinds_of_row_that_have_days_of_their_own(member: str) -> None:
    """No setting stands for another; dead letters that wait are kept if no days are given."""
    settings = Settings(store=StoreSettings(agents_days=3))
    if member != "agents":
        settings = Settings(retention={member: 3})
    usual = retention_cutoffs(Settings(), LATE)

    assert retention_cutoffs(settings, LATE) == usual._replace(**{f"{member}_ms": LATE - 3 * DAY_MS})
    assert (usual.waiting_dead_letters_ms, usual.agents_ms) == (0, LATE - 365 * DAY_MS)


def test_labels_are_kept_as_long_as_what_they_speak_of() -> None:
    """Training reads the archive where there is one; whoever sets days means them."""
    archive = ArchiveSettings(directory=Path("archive"), retention_days=400)

    def days(settings: Settings) -> float:
        return (LATE - retention_cutoffs(settings, LATE).labels_ms) / DAY_MS

    assert days(Settings(retention_days=30)) == 30
    assert days(Settings(retention_days=30, archive=archive)) == 400
    assert days(Settings(retention_days=500, archive=archive)) == 500
    assert days(Settings(archive=archive, retention={"labels": 7})) == 7
