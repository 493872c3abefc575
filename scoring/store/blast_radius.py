"""Blast radius: agents that an agent reached by delegation and by calls, and the agents around an agent.

The stored edges are walked breadth first. Agents that are no longer reached drop out with the age of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
    """Agents that an agent reached. `complete` is false if there are more."""

    agents: Annotated[list[ReachedAgent], member("agents that were reached")]
    principals: Annotated[list[AgentEdge], member("principals on whose behalf the agent acted")]
    complete: Annotated[bool, member("false if more agents were found than shown")]


class _Walk:
    """Walks edges breadth first in one direction, a layer at a time, up to a number of agents."""

    def __init__(
        self, edge_store: EdgeStore, start: AgentName, kinds: EdgeKinds, most: int, *, downstream: bool = True
    ) -> None:
        self._edge_store, self._start, self._kinds, self._downstream = edge_store, start, kinds, downstream
        self._room = most
        self.frontier = [start.agent_id]
        self.complete = True

    def step(self, known: Collection[str], since_ms: int, until_ms: int = 0) -> list[AgentEdge]:
        """Return the edges of the next layer; those of its agents that are not *known* become the frontier."""
        if not self.frontier or not self.complete:
            self.frontier = []
            return []
        nodes = [(self._start.tenant, self._start.issuer, agent_id) for agent_id in self.frontier]
        edges = self._edge_store.find(
            nodes,
            outgoing=self._downstream,
            kinds=self._kinds,
            since_ms=since_ms,
            until_ms=until_ms,
            limit=self._room + 1,
        )
        self.complete = len(edges) <= self._room
        edges = edges[: self._room]
        ends = dict.fromkeys(edge.target if self._downstream else edge.source for edge in edges)
        self.frontier = [agent_id for agent_id in ends if agent_id not in known]
        self._room -= len(self.frontier)
        return edges


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
    """Find agents reached from *start* by edges seen since *since_ms*, and principals if *people*. Raises
    Unavailable."""
    kind_of = {start.agent_id: DELEGATED}
    agents: list[ReachedAgent] = []
    walk = _Walk(edge_store, start, kinds, MAX_NODES)
    for step in range(1, min(depth, MAX_DEPTH) + 1):
        reached: dict[str, tuple[AgentEdge, str]] = {}
        for edge in walk.step(kind_of, since_ms):
            if edge.target in kind_of:
                continue
            kind = DELEGATED if edge.kind == DELEGATED and kind_of[edge.source] == DELEGATED else CALLED
            # A path of delegations takes precedence over one with a call.
            if edge.target not in reached or (kind == DELEGATED and reached[edge.target][1] == CALLED):
                reached[edge.target] = edge, kind
        for edge, kind in reached.values():
            name = edge_store.agent_name(edge.tenant, edge.issuer, edge.target)
            times, risk = (edge.first_ms, edge.last_ms), (edge.risk, edge.risk_ms)
            agents.append(ReachedAgent(name, step, kind, edge.source, *times, level_of(name), *risk))
        kind_of |= {target: kind for target, (_, kind) in reached.items()}
        if not walk.frontier or not walk.complete:
            break
    own = [start.identity] if people else []
    principals = edge_store.find(own, outgoing=True, kinds=(ACTS_FOR,), since_ms=since_ms)
    agents.sort(key=lambda agent: (agent.depth, -(agent.level or 0), agent.name.agent_id))
    return BlastRadius(agents, principals, walk.complete)


DELEGATION_WINDOW_MS = WEEK_MS
"""Age after which a delegation that was not seen again no longer makes an agent a descendant."""


class CriticalDescendants:
    """Tracks the agents that critical agents delegated to, directly or through others, for the policy.

    Calls do not count: an agent that a hijacked agent calls is a victim, not an accomplice. For one thread at a time;
    blocks on the store.
    """

    def __init__(self, store: SqlStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.critical_ancestors: dict[AgentIdentity, str] = {}
        """Descendant to the critical agent above it."""

    def find(self, pinned: Mapping[AgentIdentity, RiskLevel]) -> tuple[dict[AgentIdentity, str], set[AgentIdentity]]:
        """Return descendants with the critical ancestor of each, and agents that became or ceased to be descendants.

        Raises Unavailable.
        """
        descendants: dict[AgentIdentity, str] = {}
        since_ms = self._now_ms() - DELEGATION_WINDOW_MS
        critical = [full for full, level in pinned.items() if level == RiskLevel.CRITICAL]
        names = [self._store.edges.agent_name(*full) for full in critical]
        measured = self._store.agents.iterate_newest((int(RiskLevel.CRITICAL),))
        for name in [*names, *(agent.name for agent in measured if agent.name.identity not in pinned)]:
            radius = find_blast_radius(
                self._store.edges, name, lambda _: None, since_ms=since_ms, kinds=(DELEGATED,), people=False
            )
            for agent in radius.agents:
                descendants.setdefault(agent.name.identity, name.agent_id)
        return descendants, descendants.keys() ^ self.critical_ancestors.keys()


MAX_LAYERS: Final = 4
"""Steps from the agent, in each direction."""
MAX_GRAPH_AGENTS: Final = 400
"""Agents of one direction, after which a walk ends."""


class GraphAgent(NamedTuple):
    """An agent in the graph.

    Attributes:
        layer: steps from the agent in the middle; negative towards agents that led to it.
        level: its own level; None = never seen.
    """

    name: AgentName
    layer: int
    level: RiskLevel | None


class AgentGraph(NamedTuple):
    """Agents by layer, and edges among them, last seen first. `complete` is false if there are more."""

    agents: list[GraphAgent]
    edges: list[AgentEdge]
    complete: bool


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
    """Find agents around *start* by edges that were last seen since *since_ms* and first seen before *until_ms* (0 = no
    bound).

    Both directions are walked at the same time, so an agent on both sides is placed where it is nearer. All edges
    between the agents that were found are kept. Raises Unavailable.
    """
    layer_of = {start.agent_id: 0}
    walks = {sign: _Walk(edge_store, start, kinds, MAX_GRAPH_AGENTS, downstream=sign > 0) for sign in (1, -1)}
    edges_by_ends: dict[tuple[str, str, str], AgentEdge] = {}
    for layer in range(1, layers + 1):
        for sign, walk in walks.items():
            for edge in walk.step(layer_of, since_ms, until_ms):
                edges_by_ends[edge.kind, edge.source, edge.target] = edge
            layer_of |= dict.fromkeys(walk.frontier, sign * layer)
    agents = []
    for agent_id, layer in layer_of.items():
        name = edge_store.agent_name(start.tenant, start.issuer, agent_id) if layer else start
        agents.append(GraphAgent(name, layer, level_of(name)))
    ordered = sorted(agents, key=lambda agent: (agent.layer, -(agent.level or 0), agent.name.agent_id))
    edges = sorted(edges_by_ends.values(), key=lambda edge: (-edge.last_ms, edge.source, edge.target, edge.kind))
    return AgentGraph(ordered, edges, all(walk.complete and not walk.frontier for walk in walks.values()))
