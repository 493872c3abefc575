"""Blast radius: agents that an agent reached, by delegation and by calls, and their risk.

Walks the stored edges breadth first, a level at a time. What is not reached any more drops out by the age of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, NamedTuple

from trustwatch.ingest.described import RiskScore, member
from trustwatch.ingest.timestamps import WEEK_MS

from ..records.agents import AgentEdge, AgentIdentity, AgentName, RiskLevel
from .containment_store import EdgeStore
from .sql_store import SqlStore

DELEGATED, CALLED, ACTS_FOR = "delegated", "called", "acts_for"
MAX_DEPTH = 16
MAX_NODES = 2_000
EdgeKinds = tuple[str, ...]


class ReachedAgent(NamedTuple):
    """One agent in the blast radius."""

    name: AgentName
    depth: Annotated[int, member("steps from the agent in the request", 1)]
    kind: Annotated[str, member("`delegated` if every step to it was a delegation, else `called`", "delegated")]
    via: Annotated[str, member("previous agent on the shortest path", "agent-orchestrator")]
    first_ms: Annotated[int, member("when it was first reached")]
    last_ms: Annotated[int, member("when it was last reached, accurate to an hour")]
    level: Annotated[RiskLevel | None, member("its own level; null = never seen", "high", level=True)]
    risk: Annotated[RiskScore, member("risk of the agents that made the last step to it, decayed until now")]
    risk_ms: int


class BlastRadius(NamedTuple):
    """Agents that an agent reached. `complete` is false if there are more than these."""

    agents: Annotated[list[ReachedAgent], member("agents that were reached")]
    principals: Annotated[list[AgentEdge], member("principals on whose behalf the agent acted")]
    complete: Annotated[bool, member("false if more agents were found than shown")]


def find_blast_radius(
    edge_store: EdgeStore,
    start: AgentName,
    level_of: Callable[[AgentName], RiskLevel | None],
    *,
    since_ms: int = 0,
    kinds: EdgeKinds = (DELEGATED, CALLED),
    depth: int = MAX_DEPTH,
    people: bool = True,
) -> BlastRadius:
    """Agents reached from *start* by edges seen since *since_ms*, and principals if *people*. Raises Unavailable."""
    by_agent: dict[str, ReachedAgent] = {}
    frontier, complete = {start.agent_id: DELEGATED}, True
    for step in range(1, min(depth, MAX_DEPTH) + 1):
        nodes = [(start.tenant, start.issuer, agent_id) for agent_id in frontier]
        capacity = MAX_NODES - len(by_agent)
        edges = edge_store.find(nodes, outgoing=True, kinds=kinds, since_ms=since_ms, limit=capacity + 1)
        complete = complete and len(edges) <= capacity
        reached = _newly_reached(edges[:capacity], frontier, by_agent, start.agent_id)
        for edge, kind in reached.values():
            name = edge_store.agent_name(edge.tenant, edge.issuer, edge.target)
            by_agent[edge.target] = ReachedAgent(
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
    own = [start.identity] if people else []
    principals = edge_store.find(own, outgoing=True, kinds=(ACTS_FOR,), since_ms=since_ms)
    agents = sorted(by_agent.values(), key=lambda agent: (agent.depth, -(agent.level or 0), agent.name.agent_id))
    return BlastRadius(agents, principals, complete)


def _newly_reached(
    edges: list[AgentEdge], frontier: dict[str, str], by_agent: dict[str, ReachedAgent], start: str
) -> dict[str, tuple[AgentEdge, str]]:
    """Agents that are new at this step; a way by delegation alone comes before one with a call in it."""
    reached: dict[str, tuple[AgentEdge, str]] = {}
    for edge in edges:
        if edge.target in by_agent or edge.target == start:
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
    """Descendants of critical agents, and what changed since they were looked for last.

    For one thread at a time; blocks on the store.
    """

    def __init__(self, store: SqlStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.critical_ancestors: dict[AgentIdentity, str] = {}
        """Descendant to the critical agent above it."""

    def find(self, pinned: Mapping[AgentIdentity, RiskLevel]) -> tuple[dict[AgentIdentity, str], set[AgentIdentity]]:
        """Descendants now, with the critical ancestor of each, and those whose standing changed. Raises Unavailable."""
        descendants: dict[AgentIdentity, str] = {}
        since_ms = self._now_ms() - DELEGATION_WINDOW_MS
        for name in self._critical_agents(pinned):
            radius = find_blast_radius(
                self._store.edges, name, lambda _: None, since_ms=since_ms, kinds=(DELEGATED,), people=False
            )
            for agent in radius.agents:
                descendants.setdefault(agent.name.identity, name.agent_id)
        changed = {
            full
            for full in descendants.keys() | self.critical_ancestors.keys()
            if (full in descendants) != (full in self.critical_ancestors)
        }
        return descendants, changed

    def _critical_agents(self, pinned: Mapping[AgentIdentity, RiskLevel]) -> Iterable[AgentName]:
        """Agents that are acted on as critical."""
        for full, level in pinned.items():
            if level == RiskLevel.CRITICAL:
                yield self._store.edges.agent_name(*full)
        for agent in self._store.agents.iterate_newest((int(RiskLevel.CRITICAL),)):
            if agent.name.identity not in pinned:
                yield agent.name


# The agents around an agent: who delegated to it or called it, and whom it reached, in layers. The stored edges are
# walked breadth first in both directions at once, so that an agent on both sides is put where it is nearer. Edges
# between any two agents that were found are kept, not those of the shortest ways alone.


MAX_LAYERS: Final = 4
"""Steps from the agent, in each direction."""
MAX_GRAPH_AGENTS: Final = 400
"""Agents of one direction; a walk ends there."""


class GraphAgent(NamedTuple):
    """An agent of the graph.

    Attributes:
        layer: steps from the agent that was asked about; negative towards those that led to it, 0 = itself.
        level: its own level; None = never seen.
    """

    name: AgentName
    layer: int
    level: RiskLevel | None


class AgentGraph(NamedTuple):
    """Agents by layer, and edges among them, last seen first. `complete` is false if there are more than these."""

    agents: list[GraphAgent]
    edges: list[AgentEdge]
    complete: bool


class _Walk:
    """One direction of the walk, a layer at a time."""

    def __init__(self, edge_store: EdgeStore, start: AgentName, kinds: EdgeKinds, *, downstream: bool) -> None:
        self._edge_store, self._start, self._kinds, self._downstream = edge_store, start, kinds, downstream
        self._frontier = [start.agent_id]
        self._found = 0
        self.complete = True

    def step(self, layers: dict[str, int], layer: int, since_ms: int, until_ms: int) -> list[AgentEdge]:
        """Edges of the next layer; agents that are new in it are added to *layers*."""
        if not self._frontier or not self.complete:
            return []
        nodes = [(self._start.tenant, self._start.issuer, agent_id) for agent_id in self._frontier]
        room = MAX_GRAPH_AGENTS - self._found
        edges = self._edge_store.find(
            nodes,
            outgoing=self._downstream,
            kinds=self._kinds,
            since_ms=since_ms,
            until_ms=until_ms,
            limit=room + 1,
        )
        self.complete = len(edges) <= room
        edges = edges[:room]
        ends = dict.fromkeys(edge.target if self._downstream else edge.source for edge in edges)
        self._frontier = [agent_id for agent_id in ends if agent_id not in layers]
        self._found += len(self._frontier)
        layers |= dict.fromkeys(self._frontier, layer if self._downstream else -layer)
        return edges

    @property
    def goes_on(self) -> bool:
        """True if there may be agents further away."""
        return bool(self._frontier)


def find_agent_graph(
    edge_store: EdgeStore,
    start: AgentName,
    level_of: Callable[[AgentName], RiskLevel | None],
    *,
    since_ms: int = 0,
    until_ms: int = 0,
    layers: int = MAX_LAYERS,
    kinds: EdgeKinds = (DELEGATED, CALLED),
) -> AgentGraph:
    """Agents around *start* by edges that were seen since *since_ms*, and first before *until_ms* (0 = no bound).

    Raises Unavailable.
    """
    layer_of = {start.agent_id: 0}
    walks = [_Walk(edge_store, start, kinds, downstream=downstream) for downstream in (True, False)]
    edges_by_ends: dict[tuple[str, str, str], AgentEdge] = {}
    for layer in range(1, layers + 1):
        for walk in walks:
            for edge in walk.step(layer_of, layer, since_ms, until_ms):
                edges_by_ends[edge.kind, edge.source, edge.target] = edge
    agents = [_graph_agent(edge_store, start, agent_id, layer, level_of) for agent_id, layer in layer_of.items()]
    ordered = sorted(agents, key=lambda agent: (agent.layer, -(agent.level or 0), agent.name.agent_id))
    edges = sorted(edges_by_ends.values(), key=lambda edge: (-edge.last_ms, edge.source, edge.target, edge.kind))
    return AgentGraph(ordered, edges, all(walk.complete and not walk.goes_on for walk in walks))


def _graph_agent(
    edge_store: EdgeStore,
    start: AgentName,
    agent_id: str,
    layer: int,
    level_of: Callable[[AgentName], RiskLevel | None],
) -> GraphAgent:
    name = start if not layer else edge_store.agent_name(start.tenant, start.issuer, agent_id)
    return GraphAgent(name, layer, level_of(name))
