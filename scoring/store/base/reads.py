"""What the edge reads: agents, decisions, dead letters, deliveries."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import msgspec

from ...records import AgentRow, AgentSummary, DeadLetter, Decision, Delivery
from .paging import Page, Tenants


class AgentQuery(msgspec.Struct, frozen=True):
    """Filters of a list of agents; the order is tenant, agent id, issuer."""

    tenants: Tenants = None
    levels: Collection[int] | None = None
    agent_type: str | None = None
    prefix: str = ""  # of the agent id
    limit: int = 50
    cursor: str | None = None


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter and what became of it."""

    letter: DeadLetter
    replayed_ms: int  # 0 = waits


class DeadLetterCounts(NamedTuple):
    """Dead letters that are kept, and those that found no room since the store exists."""

    stored: int
    dropped: int


class ReadStore(Protocol):
    """What the edge reads."""

    def summaries(self, after_key: int | None = None, limit: int = 10_000) -> list[AgentSummary]:
        """Agents behind *after_key* in a fixed order (of keys as signed numbers), without their state."""

    def all_summaries(self, chunk: int = 10_000) -> Iterator[AgentSummary]:
        """Every agent, read in chunks of their own transactions."""

    def list_agents(self, query: AgentQuery) -> Page[AgentSummary]:
        """One page of agents. Raises BadCursor."""

    def agent(self, tenant: str, issuer: str, agent_id: str, tenants: Tenants = None) -> AgentRow | None:
        """One agent by its full name."""

    def find_agents(self, agent_id: str, tenants: Tenants = None, limit: int = 50) -> list[AgentSummary]:
        """Agents of that id at any issuer of the tenants."""

    def list_decisions(
        self, tenants: Tenants = None, agent_key: int | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Decision]:
        """Decisions, newest first. Raises BadCursor."""

    def decision(self, decision_id: str, tenants: Tenants = None) -> Decision | None:
        """One decision."""

    def list_dead_letters(
        self,
        sources: Collection[str] | None = None,
        replayed: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[StoredDeadLetter]:
        """Dead letters, newest first. Raises BadCursor.

        What could not be decoded has no tenant; *sources* limits what a caller sees (None = all).
        """

    def dead_letter(self, letter_id: str, sources: Collection[str] | None = None) -> StoredDeadLetter | None:
        """One dead letter."""

    def mark_replayed(self, letter_ids: Collection[str], at_ms: int) -> int:
        """Note that those letters were sent in again; how many had not been."""

    def letter_counts(self) -> DeadLetterCounts:
        """How many dead letters are kept and how many were dropped."""

    def list_deliveries(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_key: int | None = None,
        key: str | None = None,
    ) -> Page[Delivery]:
        """State of what leaves, newest first; rows that no target took are not among them. Raises BadCursor.

        *agent_key*: about that agent alone; *key*: of that outbox row alone.
        """
