"""Shares of a way that tenants share, and what keeping them costs."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from trustwatch.api.access import approval_workflow
from trustwatch.api.access.approval_workflow import LOOK_AT_ALL_EVERY_MS, AskedApprovals

HOUR = 3_600_000


def test_what_ended_is_forgotten_as_more_is_asked_for() -> None:
    """Nothing needs to be full for that: a way over which thousands of tenants ask keeps what can still wait."""
    asked = AskedApprovals(set)
    for number in range(5):
        asked.add("gateway", f"a-{number}", "a", number, HOUR + number)
    assert len(asked) == 5
    asked.add("gateway", "a-later", "a", HOUR + 2, 2 * HOUR)
    assert len(asked) == 3


def test_what_was_decided_makes_room_and_all_is_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused question costs a look at its own tenant's; a look at everybody's is for a second's worth of them."""
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_CALLER", 40)
    monkeypatch.setattr(approval_workflow, "MIN_PENDING_PER_TENANT", 2)
    looked: list[int] = []
    decided: set[str] = set()

    def waiting(ids: Collection[str]) -> set[str]:
        looked.append(len(ids))
        return set(ids) - decided

    asked, now = AskedApprovals(waiting), 10 * HOUR
    for tenant in range(18):
        for number in range(2):
            asked.add("gateway", f"{tenant}-{number}", str(tenant), now, now + HOUR)
    assert not asked.has_room("gateway", "0", now)
    assert len(looked) == 19  # its own, then everybody's
    looked.clear()
    assert not asked.has_room("gateway", "0", now + LOOK_AT_ALL_EVERY_MS - 1)
    assert looked == [2]
    decided |= {f"{tenant}-{number}" for tenant in range(5, 18) for number in range(2)}
    assert asked.has_room("gateway", "0", now + LOOK_AT_ALL_EVERY_MS)
    assert len(asked) == 10
    assert asked.has_room("another", "0", now)
