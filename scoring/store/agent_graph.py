"""The agents around an agent: who delegated to it or called it, and whom it reached, in layers.

Walks the stored edges breadth first in both directions at once, so that an agent that stands on both sides is put where
it is nearer. Edges between any two agents that were found are kept, not those of the shortest ways alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ..records.agents import AgentEdge, AgentName, RiskLevel
from .blast_radius import CALLED, DELEGATED, EdgeKinds
from .containment_store import EdgeStore

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
    """Agents by layer, and edges among them, last seen first. `complete` is false where there are more than these."""

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
