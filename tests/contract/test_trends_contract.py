"""What every store promises about counts over days: of changes of level, closed cases, and judged agents."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import insert

from tests.support.stored_rows import NOW, commit, decision, name
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.records.models import PeerGroupDay
from trustwatch.scoring.store.decision_store import CountedChanges
from trustwatch.scoring.store.sql_schema import CASES
from trustwatch.scoring.store.sql_store import SqlStore

DAY_MS = 86_400_000
TODAY = NOW // DAY_MS


def changed(number: int, before: int, level: int, *codes: str, tenant: str = "acme", **values: Any) -> Any:
    """A decision that was led by the first of the codes."""
    reasons = tuple(RiskReason(code, "f", 'a "quoted" \\ \0 text', "u", 1.0, "t") for code in codes)
    made = decision(number, name("bot", tenant))
    given = {"previous_level": before, "level": level, "reasons": reasons, **values}
    return msgspec.structs.replace(made, decided_ms=NOW + number, **given)


def test_changes_are_counted_by_levels_and_leading_reason(store: SqlStore) -> None:
    """From the beginning on, before the end, of the tenants alone; without a reason under none."""
    commit(
        store,
        decisions=[
            changed(0, 1, 2, "new_network", "rate"),
            changed(1, 1, 2, "new_network"),
            changed(2, 1, 2, "rate"),
            changed(3, 2, 1),
            changed(4, 1, 4, "rate", tenant="globex"),
            changed(5, 1, 3, "rate"),
        ],
    )
    count = store.decisions.count_changes

    assert sorted(count(NOW, NOW + 5, ("acme",))) == [
        CountedChanges(1, 2, "new_network", 2),
        CountedChanges(1, 2, "rate", 1),
        CountedChanges(2, 1, "", 1),
    ]
    assert count(NOW + 4, NOW + 5) == [CountedChanges(1, 4, "rate", 1)]
    assert count(NOW + 6, NOW + 60) == []
    assert store.decisions.last_before(NOW + 5) == NOW + 4
    assert store.decisions.last_before(NOW + 5, ("acme",)) == NOW + 3
    assert store.decisions.last_before(NOW) == 0


def test_closed_cases_are_counted_by_the_day_on_which_they_were(store: SqlStore) -> None:
    """Not those that went into others, nor those that somebody reopened."""
    plain = {column.name: 0 if column.type.python_type is int else "" for column in CASES.columns}
    rows = [
        {"case_id": "a", "tenant": "acme", "status": "closed", "closed_ms": NOW},
        {"case_id": "b", "tenant": "acme", "status": "closed", "closed_ms": NOW - 2 * DAY_MS},
        {"case_id": "c", "tenant": "acme", "status": "closed", "closed_ms": NOW, "merged_into": "a"},
        {"case_id": "d", "tenant": "acme", "status": "open", "closed_ms": 0},
        {"case_id": "e", "tenant": "globex", "status": "closed", "closed_ms": NOW},
    ]
    with store.database.write() as connection:
        connection.execute(insert(CASES), [plain | row for row in rows])

    assert store.cases.closed_by_day(NOW - DAY_MS, ("acme",)) == {TODAY: 1}
    assert store.cases.closed_by_day(NOW - 9 * DAY_MS) == {TODAY: 2, TODAY - 2: 1}


def test_agents_of_a_day_count_once_whatever_versions_counted_them(store: SqlStore) -> None:
    """A champion and its challenger see the same agents."""

    def day(version: str, at: int, tenant: str, agents: int) -> PeerGroupDay:
        return PeerGroupDay(version, at, tenant, "Clerk", 9, agents, (0, 0, 0), (), {})

    store.models.save_days(
        [
            day("m1", TODAY, "acme", 5),
            day("m2", TODAY, "acme", 4),
            day("m1", TODAY, "globex", 7),
            day("m1", TODAY - 3, "acme", 2),
        ]
    )

    assert store.models.agent_days(TODAY - 1, ("acme",)) == {TODAY: 5}
    assert store.models.agent_days(TODAY - 3) == {TODAY: 12, TODAY - 3: 2}
