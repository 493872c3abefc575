"""Descendants of critical agents: to whom they delegated, directly or over others, as the policy wants to know.

Calls do not count here: whoever is called by a hijacked agent is a victim, not its accomplice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..ingest.hashing import agent_key
from .blast_radius import DELEGATED, find_blast_radius
from .records import AgentName, RiskLevel
from .store.base import MAX_PAGE, AgentQuery, Store

AgentIdentity = tuple[str, str, str]
DELEGATION_WINDOW_MS = 7 * 86_400_000
"""A delegation that was not seen for so long makes nobody a descendant."""


class CriticalDescendants:
    """Finds them, and says what changed. For one thread at a time; blocks on the store.

    Args:
        store: of agents and edges.
        now_ms: UTC milliseconds.
    """

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.critical_ancestors: dict[AgentIdentity, str] = {}
        """Descendant to the critical agent above it."""

    def find(self, pinned: Mapping[AgentIdentity, RiskLevel]) -> tuple[dict[AgentIdentity, str], set[AgentIdentity]]:
        """Descendants now, with the critical ancestor of each, and those whose standing changed. Raises Unavailable.

        Args:
            pinned: agents that are pinned, with the level that is acted on.
        """
        found: dict[AgentIdentity, str] = {}
        since_ms = self._now_ms() - DELEGATION_WINDOW_MS
        for name in self._critical_agents(pinned):
            radius = find_blast_radius(
                self._store, name, lambda _: None, since_ms=since_ms, kinds=(DELEGATED,), people=False
            )
            for one in radius.agents:
                found.setdefault((one.name.tenant, one.name.issuer, one.name.agent_id), name.agent_id)
        changed = {
            full
            for full in found.keys() | self.critical_ancestors.keys()
            if (full in found) != (full in self.critical_ancestors)
        }
        return found, changed

    def _critical_agents(self, pinned: Mapping[AgentIdentity, RiskLevel]) -> Iterable[AgentName]:
        """Agents that are acted on as critical."""
        for full, level in pinned.items():
            if level == RiskLevel.CRITICAL:
                yield AgentName(agent_key(*full), *full)
        cursor = None
        while True:
            page = self._store.list_agents(AgentQuery(levels=(int(RiskLevel.CRITICAL),), limit=MAX_PAGE, cursor=cursor))
            for agent in page.items:
                if (agent.name.tenant, agent.name.issuer, agent.name.agent_id) not in pinned:
                    yield agent.name
            cursor = page.next_cursor
            if cursor is None:
                return
