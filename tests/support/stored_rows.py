"""Rows of a store, filled in where a test does not care, and the commit that writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback, FeedbackStep
from trustwatch.scoring.store.sql_store import SqlStore

NOW = 1_764_000_000_000


def agent(name: AgentName, level: int, **values: Any) -> AgentRow:
    made = AgentRow(
        name, "X", level, 0.2, 0.5, 0.1, NOW, NOW, NOW, 0, 3, "", b"[]", "", features=b"f", risk=b"r", state_version="v"
    )
    return msgspec.structs.replace(made, **values)


def decision(number: int, name: AgentName, **values: Any) -> Decision:
    made = Decision(
        f"D{number}",
        name,
        "X",
        NOW + number,
        "",
        NOW,
        1,
        3,
        0.9,
        0.8,
        0.7,
        1e-9,
        (),
        "",
        {},
        {},
        "m",
        "b",
        "p",
        "enforce",
        "event",
        0,
        number,
    )
    return msgspec.structs.replace(made, **values)


def commit(store: SqlStore, records: int = 1, **parts: object) -> None:
    """Write the next commit of the one partition."""
    at = store.partitions.position(0)
    if not at.epoch:
        at = store.partitions.claim(0)
    empty = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    store.commit(Commit(at, Position(0, at.epoch, at.offset + records), **{**empty, **parts}))


def name(agent_id: str, tenant: str = "acme") -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, "https://as", agent_id), tenant, "https://as", agent_id)


def said(number: int, **values: Any) -> Feedback:
    made = Feedback(
        f"F{number:04}",
        "false_positive",
        "adopting",
        "D1",
        name("bot"),
        "Payer",
        "agent",
        ("target_surprise",),
        None,
        "a new supplier",
        "ann",
        NOW + number,
        NOW + 86_400_000,
        "P1",
        False,
        "evt-1",
        NOW - 5,
        3,
        NOW - 100,
        NOW,
        4.25,
        "",
        0,
        "",
        NOW + number,
    )
    return msgspec.structs.replace(made, **values)


def step(of: Feedback, action: Any = "adopted") -> FeedbackStep:
    return FeedbackStep(of.feedback_id, action, NOW, "ann", "because")
