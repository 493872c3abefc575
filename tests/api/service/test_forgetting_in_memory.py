"""What the process that answers forgets of an erased agent, and of one that acts again under its name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from trustwatch.api.service.assembly import forget_in_memory
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

FULL = ("acme", "https://as.example", "agent-3")
ORDERED_MS = 1_764_000_000_000
SUBJECT = ErasureSubject("agent", *FULL, "erased~1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(sqlite_url(tmp_path / "store.db"))
    yield made
    made.close()


class Workflow:
    def __init__(self) -> None:
        self.active_interventions = SimpleNamespace(remove_agent=lambda _full: None)

    async def load_open(self) -> None:
        """Nothing is open."""


def seen(first_ms: int) -> AgentSummary:
    name = AgentName(7, *FULL)
    return AgentSummary(name, "payer", 1, 0.1, 0.9, 0.5, first_ms, first_ms, first_ms, 0, 1, "", b"[]", "")


def forget(store: SqlStore, view: RiskView) -> None:
    point: Any = SimpleNamespace(approval_workflow=Workflow())
    asyncio.run(forget_in_memory(SUBJECT, ORDERED_MS, store, view, point))


def test_who_was_erased_is_forgotten(store: SqlStore) -> None:
    view = RiskView()
    view.apply([seen(ORDERED_MS - 1000)])
    forget(store, view)
    assert view.get(*FULL) is None


def test_who_acts_again_stays_though_its_row_is_not_stored_yet(store: SqlStore) -> None:
    view, newcomer = RiskView(), seen(ORDERED_MS + 1000)
    view.apply([newcomer])
    forget(store, view)
    entry = view.get(*FULL)
    assert entry is not None and entry.summary == msgspec.structs.replace(newcomer)
