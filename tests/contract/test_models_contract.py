"""What every store promises about models: versions, history, switches, days, and counts for the budget chart."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support import stored_rows
from trustwatch.ingest.errors import Fenced
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.models import (
    AgentLifespans,
    DailyAlertCount,
    ModelHistoryEntry,
    ModelSwitch,
    ModelVersion,
    PeerGroupDay,
)
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_store import SqlStore

DAY = 20_000
NOW = DAY * DAY_MS + 3_600_000


def version(number: int, **values: Any) -> ModelVersion:
    made = ModelVersion(f"v{number}", "challenger", "d" * 8, NOW - DAY_MS, NOW, NOW + number, trained={"events": 7})
    return msgspec.structs.replace(made, **values)


def entry(number: int, **values: Any) -> ModelHistoryEntry:
    made = ModelHistoryEntry(f"E{number:04}", NOW + number, f"v{number}", "trained", "keeper", "due", {"events": 7})
    return msgspec.structs.replace(made, **values)


def agent(name: str, tenant: str, first: int, last: int) -> AgentRow:
    """An agent seen from one day to another."""
    named = AgentName(IdentityHasher().agent_key(tenant, "https://as", name), tenant, "https://as", name)
    return AgentRow(
        named,
        "Payer",
        1,
        0.25,
        0.5,
        0.125,
        first * DAY_MS + 5,
        last * DAY_MS + 5,
        NOW,
        0,
        3,
        "",
        b"[]",
        "",
        features=b"",
        risk=b"",
        state_version="v1",
    )


def decision(number: int, tenant: str, at_ms: int, previous: int, level: int) -> Decision:
    of_payer = stored_rows.decision(number, stored_rows.name("a", tenant))
    return msgspec.structs.replace(
        of_payer,
        decision_id=f"D{number:04}",
        agent_type="Payer",
        decided_ms=at_ms,
        event_time_ms=at_ms,
        previous_level=previous,
        level=level,
    )


def commit(store: SqlStore, **parts: Any) -> Position:
    at = store.partitions.position(0)
    at = store.partitions.claim(0) if at.epoch == 0 else at
    new = Position(0, at.epoch, at.offset + 1)
    empty: dict[str, Any] = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    store.commit(Commit(expected=at, position=new, **(empty | parts)))
    return new


def test_a_version_is_written_once_with_its_line_of_history(store: SqlStore) -> None:
    """The same name changes nothing, and adds no line."""
    assert store.models.add(version(1), entry(1))
    assert not store.models.add(version(1, digest="other"), entry(2))

    assert store.models.get("v1") == version(1)
    assert store.models.get("v2") is None
    assert store.models.history().items == [entry(1)]


def test_versions_and_history_are_paged_newest_first(store: SqlStore) -> None:
    """Whatever the order they were written in."""
    for number in (2, 1, 3):
        store.models.add(version(number), entry(number))

    first = store.models.page(limit=2)
    assert [one.version for one in first.items] == ["v3", "v2"]
    assert [one.version for one in store.models.page(limit=2, cursor=first.next_cursor).items] == ["v1"]
    history = store.models.history(limit=1)
    assert [one.entry_id for one in history.items] == ["E0003"]
    assert [one.entry_id for one in store.models.history(cursor=history.next_cursor).items] == ["E0002", "E0001"]
    assert store.models.history("v2").items == [entry(2)]


def test_a_change_goes_with_history_and_alert(store: SqlStore) -> None:
    """Several versions change together; the history grows, and what has to leave is there once."""
    store.models.add(version(1, status="champion"), entry(1))
    store.models.add(version(2), entry(2))
    changed = [version(1, status="retired"), version(2, status="champion", promoted_ms=NOW)]
    row = OutboxRow("k", "alert", "", b"{}", NOW)
    for _ in range(2):
        store.models.update(changed, [entry(3, act="promoted")], [row])

    assert store.models.get("v1") == changed[0]
    assert store.models.page("champion").items == [changed[1]]
    assert len(store.models.history().items) == 3
    assert store.outbox.route([DeliveryRoute("t", "alert", frozenset(range(5)), 0)], NOW) == 1


def test_figures_change_nothing_else(store: SqlStore) -> None:
    """They are written while somebody promotes the version."""
    store.models.add(version(1), entry(1))
    store.models.update([version(1, status="champion")])
    store.models.save_shadow_metrics("v1", {"agent_days": 3, "by": {"medium": 0.5}}, NOW + 9)
    store.models.save_shadow_metrics("v9", {"agent_days": 3}, NOW + 9)

    expected = version(1, status="champion", figures={"agent_days": 3, "by": {"medium": 0.5}}, changed_ms=NOW + 9)
    assert store.models.get("v1") == expected


def test_a_switch_is_written_with_the_position_behind_it(store: SqlStore) -> None:
    """Who is fenced switches nothing; of several the newest holds, by epoch and then offset."""
    assert store.models.current_switch(0) is None
    at = commit(store, switches=[ModelSwitch(0, 1, 1, "v1", "d1", "d1", NOW)])
    stale = Commit(
        Position(0, 9, 9), Position(0, 9, 10), [], [], [], [], switches=[ModelSwitch(0, 9, 10, "x", "", "", NOW)]
    )
    with pytest.raises(Fenced):
        store.commit(stale)
    assert store.models.current_switch(0) == ModelSwitch(0, 1, 1, "v1", "d1", "d1", NOW)

    commit(store, switches=[ModelSwitch(0, at.epoch, 2, "v2", "d2", "d1", NOW + 1)])
    newest = store.models.current_switch(0)
    assert newest is not None
    assert newest.version == "v2"
    assert [one.version for one in store.models.list_switches()] == ["v2", "v1"]
    assert store.models.current_switch(1) is None


def test_days_are_overwritten_and_purged(store: SqlStore) -> None:
    """A tenant's reader sees its own groups alone."""
    acme = PeerGroupDay("v1", DAY, "acme", "Payer", 10, 2, (1, 0, 0), (0, 3, 7), {"features": {"pace": 0.1}})
    other = PeerGroupDay("v1", DAY + 1, "globex", "", 5, 1, (0, 0, 0), (0, 0, 5))
    store.models.save_days([acme, other])
    more = msgspec.structs.replace(acme, events=11)
    store.models.save_days([more], [OutboxRow("drift", "alert", "", b"{}", NOW)])

    assert store.models.list_days(DAY) == [more, other]
    assert store.models.list_days(DAY + 1) == [other]
    assert store.models.list_days(DAY, ["acme"]) == [more]
    assert store.models.list_days(DAY, version="v2") == []
    assert store.retention.purge_model_days(DAY + 1) == 1
    assert store.models.list_days(0) == [other]


def test_rises_are_counted_by_group_and_day(store: SqlStore) -> None:
    """Up to or through a level counts for it, going down does not; days are those of UTC."""
    rows = [
        decision(1, "acme", NOW, 1, 4),
        decision(2, "acme", NOW + 1, 2, 3),
        decision(3, "acme", NOW + 2, 3, 2),
        decision(4, "globex", NOW, 0, 2),
        decision(5, "acme", NOW - 2 * DAY_MS, 1, 2),
        decision(6, "acme", NOW, 0, 1),
    ]
    store.retention.prepare_weeks(NOW)
    commit(store, decisions=rows)

    assert store.decisions.count_alerts(DAY) == [
        DailyAlertCount(DAY, "acme", "Payer", 1, 2, 1),
        DailyAlertCount(DAY, "globex", "Payer", 1, 0, 0),
    ]
    assert store.decisions.count_alerts(DAY - 2, ["acme"])[0] == DailyAlertCount(DAY - 2, "acme", "Payer", 1, 0, 0)


def test_alerts_are_counted_by_the_clock_of_agent_days(store: SqlStore) -> None:
    """That of events: what arrives the day after it happened is an alert of the day before, as its agent-day is."""
    late = msgspec.structs.replace(decision(1, "acme", NOW, 1, 2), event_time_ms=NOW - DAY_MS, decided_ms=NOW)
    store.retention.prepare_weeks(NOW)
    commit(store, decisions=[late])

    assert [(one.day, one.medium) for one in store.decisions.count_alerts(DAY - 3)] == [(DAY - 1, 1)]
    assert store.decisions.count_alerts(DAY) == []


def test_agents_are_known_from_first_to_last_sight(store: SqlStore) -> None:
    """Agents of one group with the same days are one row; those gone before are left out."""
    rows = [agent("a", "acme", DAY - 3, DAY), agent("b", "acme", DAY - 3, DAY), agent("c", "globex", DAY - 9, DAY - 8)]
    commit(store, agents=rows)

    assert store.agents.count_by_group(DAY - 1) == [AgentLifespans("acme", "Payer", DAY - 3, DAY, 2)]
    assert store.agents.count_by_group(DAY - 9, ["globex"]) == [AgentLifespans("globex", "Payer", DAY - 9, DAY - 8, 1)]
