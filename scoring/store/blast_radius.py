"""Blast radius: whom an agent reached, by delegation and by calls, and what is known of their risk.

Walks the stored edges breadth first, a level at a time. What is not reached any more drops out by the age of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ...ingest.hashing import agent_key
from ...ingest.timestamps import WEEK_MS
from ..records.agents import AgentEdge, AgentIdentity, AgentName, RiskLevel
from .interface import MAX_PAGE, AgentQuery, ContainmentStore, Store

DELEGATED, CALLED, ACTS_FOR = "delegated", "called", "acts_for"
MAX_DEPTH = 16
MAX_NODES = 2_000
EdgeKinds = tuple[str, ...]


class ReachedAgent(NamedTuple):
    """One agent in the blast radius.

    Attributes:
        depth: steps from the agent that was asked about.
        kind: `delegated` where every step to it was a delegation, else `called`.
        via: the agent before it on the shortest way.
        level: its own level; None = never seen.
    """

    name: AgentName
    depth: int
    kind: str
    via: str
    first_ms: int
    last_ms: int
    level: RiskLevel | None
    risk: float  # of who acted over the last step to it, as of `risk_ms`
    risk_ms: int


class BlastRadius(NamedTuple):
    """Whom an agent reached. `complete` is false where more were found than are told."""

    agents: list[ReachedAgent]
    principals: list[AgentEdge]  # on whose behalf the agent acted
    complete: bool


def find_blast_radius(
    store: ContainmentStore,
    start: AgentName,
    level_of: Callable[[AgentName], RiskLevel | None],
    *,
    since_ms: int = 0,
    kinds: EdgeKinds = (DELEGATED, CALLED),
    depth: int = MAX_DEPTH,
    people: bool = True,
) -> BlastRadius:
    """Agents reached from *start* by edges seen since *since_ms*, and principals if *people*. Raises Unavailable."""
    found: dict[str, ReachedAgent] = {}
    frontier, complete = {start.agent_id: DELEGATED}, True
    for step in range(1, min(depth, MAX_DEPTH) + 1):
        keys = [agent_key(start.tenant, start.issuer, agent_id) for agent_id in frontier]
        room = MAX_NODES - len(found)
        edges = store.edges(keys, outgoing=True, kinds=kinds, since_ms=since_ms, limit=room + 1)
        complete = complete and len(edges) <= room
        reached = _newly_reached(edges[:room], frontier, found, start.agent_id)
        for edge, kind in reached.values():
            name = AgentName(agent_key(edge.tenant, edge.issuer, edge.target), edge.tenant, edge.issuer, edge.target)
            found[edge.target] = ReachedAgent(
                name,
                step,
                kind,
                edge.source,
                edge.first_ms,
                edge.last_ms,
                level_of(name),
                edge.risk,
                edge.risk_ms,
            )
        frontier = {target: kind for target, (_, kind) in reached.items()}
        if not frontier or not complete:
            break
    principals = store.edges([start.key], outgoing=True, kinds=(ACTS_FOR,), since_ms=since_ms) if people else []
    agents = sorted(found.values(), key=lambda one: (one.depth, -(one.level or 0), one.name.agent_id))
    return BlastRadius(agents, principals, complete)


def _newly_reached(
    edges: list[AgentEdge], frontier: dict[str, str], found: dict[str, ReachedAgent], start: str
) -> dict[str, tuple[AgentEdge, str]]:
    """Agents that are new at this step; a way by delegation alone is told before one with a call in it."""
    reached: dict[str, tuple[AgentEdge, str]] = {}
    for edge in edges:
        if edge.target in found or edge.target == start or edge.source not in frontier:  # keys are hashes
            continue
        kind = DELEGATED if edge.kind == DELEGATED and frontier[edge.source] == DELEGATED else CALLED
        if edge.target not in reached or (kind == DELEGATED and reached[edge.target][1] == CALLED):
            reached[edge.target] = edge, kind
    return reached


# Descendants of critical agents: to whom they delegated, directly or over others, as the policy wants to know.
#
# Calls do not count here: whoever is called by a hijacked agent is a victim, not its accomplice.


DELEGATION_WINDOW_MS = WEEK_MS
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
                found.setdefault(one.name.identity, name.agent_id)
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
                if agent.name.identity not in pinned:
                    yield agent.name
            cursor = page.next_cursor
            if cursor is None:
                return
