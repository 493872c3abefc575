"""Shares of tenants that request approvals through one caller, and what keeping the requests costs."""

from __future__ import annotations

import pytest

from trustwatch.api.access import approval_workflow
from trustwatch.api.access.approval_workflow import LOOK_AT_ALL_EVERY_MS, RequestedApprovals


def test_decided_requests_make_room_and_all_are_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_CALLER", 40)
    monkeypatch.setattr(approval_workflow, "MIN_PENDING_PER_TENANT", 2)
    looked: list[str] = []
    decided: set[str] = set()

    def is_pending(intervention_id: str) -> bool:
        looked.append(intervention_id)
        return intervention_id not in decided

    requested, now = RequestedApprovals(is_pending), 36_000_000
    for tenant in range(18):
        for number in range(2):
            requested.add(str(tenant), f"{tenant}-{number}")
    assert not requested.has_room("0", now)
    assert len(looked) == 2 + 36  # its own, then all
    looked.clear()
    assert not requested.has_room("0", now + LOOK_AT_ALL_EVERY_MS - 1)
    assert len(looked) == 2
    decided |= {f"{tenant}-{number}" for tenant in range(5, 18) for number in range(2)}
    assert requested.has_room("0", now + LOOK_AT_ALL_EVERY_MS)
