"""Reads for a caller: what is not restricted to what the caller may see is refused before the database is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, or_, select, text

from trustwatch.scoring.store.read_scope import (
    NOBODY,
    OF_CALLER,
    OF_DEPLOYMENT,
    PART_OF,
    WHOLE_DEPLOYMENT,
    ReadScope,
    UnscopedRead,
    check_statement,
    current_read_scope,
    reads_of,
    restrict_reads,
)
from trustwatch.scoring.store.sql_schema import (
    AGENTS,
    DEAD_LETTERS,
    DECISIONS,
    DELIVERIES,
    EVENT_STREAMS,
    FEEDBACK,
    FEEDBACK_STEPS,
    META,
    METADATA,
    OUTBOX,
)
from trustwatch.scoring.store.sql_store import SqlStore

ACME = ReadScope(("acme", "acme-eu"), "gateway")
MINE = AGENTS.c.tenant == "acme"
OWN_FEEDBACK = select(FEEDBACK.c.feedback_id).where(FEEDBACK.c.tenant == "acme")


@pytest.mark.parametrize(
    "statement",
    [
        select(AGENTS).where(MINE),
        select(AGENTS).where(AGENTS.c.level > 2, MINE),
        select(AGENTS).where(AGENTS.c.tenant.in_(["acme", "acme-eu"])),
        select(AGENTS).where(AGENTS.c.tenant.in_([])),
        select(func.count()).select_from(AGENTS).where(MINE),
        select(DEAD_LETTERS).where(DEAD_LETTERS.c.source.in_(["gateway"])),
        select(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == "gateway"),
        select(DELIVERIES).where(DELIVERIES.c.seq == OUTBOX.c.seq, OUTBOX.c.tenant == "acme"),
        select(FEEDBACK_STEPS).where(FEEDBACK_STEPS.c.feedback_id.in_(OWN_FEEDBACK)),
        select(META),
    ],
    ids=str,
)
def test_what_is_restricted_passes(statement: Any) -> None:
    """Conditions on the tenant, on the sender of what has none, and on the row that a row belongs to."""
    check_statement(statement, ACME)


@pytest.mark.parametrize(
    "statement",
    [
        select(AGENTS),
        select(AGENTS.c.agent_id),
        select(func.count()).select_from(AGENTS),
        select(AGENTS).where(AGENTS.c.tenant == "globex"),
        select(AGENTS).where(AGENTS.c.tenant.in_(["acme", "globex"])),
        select(AGENTS).where(AGENTS.c.tenant != "globex"),
        select(AGENTS).where(or_(MINE, AGENTS.c.level > 2)),
        select(AGENTS).where(~MINE),
        select(AGENTS).where(AGENTS.c.agent_id == "acme"),
        select(AGENTS).where(AGENTS.c.tenant == DECISIONS.c.tenant, DECISIONS.c.tenant == "acme"),
        select(AGENTS, DECISIONS).where(MINE),
        select(AGENTS).where(MINE, AGENTS.c.agent_id.in_(select(DECISIONS.c.agent_id))),
        select(AGENTS.alias("other")),
        select(DEAD_LETTERS).where(DEAD_LETTERS.c.source == "somebody"),
        select(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == "somebody"),
        select(DELIVERIES),
        select(DELIVERIES).where(DELIVERIES.c.seq == OUTBOX.c.seq),
        select(FEEDBACK_STEPS).where(FEEDBACK_STEPS.c.feedback_id == "f"),
        select(FEEDBACK_STEPS).where(FEEDBACK_STEPS.c.feedback_id.in_(select(FEEDBACK.c.feedback_id))),
        select(AGENTS).where(MINE).union(select(AGENTS)),
        text("SELECT * FROM agents"),
    ],
    ids=str,
)
def test_what_is_not_is_refused(statement: Any) -> None:
    """No condition, one that lets others through, one on another table or on one branch alone, and plain text."""
    with pytest.raises(UnscopedRead):
        check_statement(statement, ACME)


def test_every_table_says_to_whom_its_rows_belong() -> None:
    """A new table is refused to every caller until it has a tenant, is part of one that has, or is the deployment's."""
    for table in METADATA.sorted_tables:
        known = "tenant" in table.c, table.name in OF_CALLER, table.name in PART_OF, table.name in OF_DEPLOYMENT
        assert sum(known) == 1, f"{table.name}: say in scoring/store/read_scope.py whose its rows are"


def test_the_store_holds_every_read_to_the_scope_of_its_context(store: SqlStore) -> None:
    """Also in threads and tasks that were started in it; what was before holds again after it."""
    assert store.agents.find("bot") == []
    with reads_of(NOBODY), pytest.raises(UnscopedRead):
        store.agents.find("bot", ("acme",))
    with reads_of(ACME):
        assert store.agents.find("bot", ("acme",)) == []
        for tenants in (None, ("globex",)):
            with pytest.raises(UnscopedRead, match="agents"):
                store.agents.find("bot", tenants)
            with pytest.raises(UnscopedRead, match="agents"):
                asyncio.run(asyncio.to_thread(store.agents.find, "bot", tenants))
        with reads_of(WHOLE_DEPLOYMENT):
            assert store.agents.find("bot") == []
    assert current_read_scope() == WHOLE_DEPLOYMENT


def test_a_scope_lasts_as_long_as_its_task(store: SqlStore) -> None:
    """What one request says of itself holds for no other."""

    async def request() -> None:
        restrict_reads(ACME)
        with pytest.raises(UnscopedRead):
            await asyncio.to_thread(store.decisions.page)

    async def both() -> None:
        await asyncio.create_task(request())
        await asyncio.to_thread(store.decisions.page)

    asyncio.run(both())
