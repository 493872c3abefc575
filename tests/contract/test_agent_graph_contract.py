"""What every store promises of the graph around an agent: both directions, layers, a time, and bounds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.stored_rows import NOW, commit, name
from trustwatch.scoring.records.agents import AgentEdge, RiskLevel
from trustwatch.scoring.store import blast_radius
from trustwatch.scoring.store.blast_radius import AgentGraph, find_agent_graph
from trustwatch.scoring.store.sql_store import SqlStore

HOUR_MS = 3_600_000
TIES = (
    ("delegated", "boss", "lead"),
    ("delegated", "lead", "bot"),
    ("called", "peer", "bot"),
    ("delegated", "bot", "child"),
    ("called", "bot", "tool"),
    ("called", "child", "tool"),
    ("delegated", "child", "grandchild"),
    ("called", "grandchild", "bot"),
    ("called", "bot", "bot"),
    ("acts_for", "bot", "ann"),
)


def tie(kind: Any, source: str, target: str, tenant: str = "acme", first: int = NOW, last: int = NOW) -> AgentEdge:
    return AgentEdge(tenant, "https://as", kind, source, target, first, last, 0.4, last)


def around(store: SqlStore, agent: str = "bot", **more: Any) -> AgentGraph:
    """The graph around an agent of acme; everybody is calm."""
    return find_agent_graph(store.edges, name(agent), lambda _: RiskLevel.LOW, **more)


def layers(graph: AgentGraph) -> dict[str, int]:
    return {agent.name.agent_id: agent.layer for agent in graph.agents}


@pytest.fixture
def store(store: SqlStore) -> SqlStore:
    """With ties of acme, and of another tenant by the same names."""
    commit(store, edges=[*(tie(*one) for one in TIES), tie("called", "stranger", "bot", "globex")])
    return store


def test_both_directions_are_walked_and_each_agent_is_where_it_is_nearer(store: SqlStore) -> None:
    """One that calls back stands before it, one step away, not behind it; principals and others are no part of it."""
    graph = around(store)

    assert layers(graph) == {"boss": -2, "lead": -1, "peer": -1, "grandchild": -1, "bot": 0, "child": 1, "tool": 1}
    assert {(edge.kind, edge.source, edge.target) for edge in graph.edges} == set(TIES[:-1])
    assert graph.complete
    assert {agent.name.tenant for agent in graph.agents} == {"acme"}


def test_the_graph_is_of_a_time(store: SqlStore) -> None:
    """Ties that were seen since, and first seen before."""
    commit(store, edges=[tie("called", "old", "bot", first=NOW - 9 * HOUR_MS, last=NOW - 5 * HOUR_MS)])

    assert "old" in layers(around(store))
    assert "old" not in layers(around(store, since_ms=NOW - 4 * HOUR_MS))
    assert layers(around(store, until_ms=NOW - HOUR_MS)) == {"bot": 0, "old": -1}
    assert layers(around(store, "nobody")) == {"nobody": 0}


def test_newer_ties_do_not_hide_those_of_the_time(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked about is found, however much has happened since."""
    monkeypatch.setattr(blast_radius, "MAX_GRAPH_AGENTS", 3)
    commit(store, edges=[tie("called", "hub", f"new-{number}") for number in range(9)])
    commit(store, edges=[tie("called", "hub", "old-1", first=NOW - 9 * HOUR_MS, last=NOW - 8 * HOUR_MS)])

    graph = around(store, "hub", until_ms=NOW - HOUR_MS)
    assert layers(graph) == {"hub": 0, "old-1": 1}
    assert graph.complete


def test_bounds_are_told(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many layers, so many agents: what is left out is said to be."""
    assert not around(store, layers=1).complete
    assert set(layers(around(store, layers=1)).values()) == {-1, 0, 1}
    monkeypatch.setattr(blast_radius, "MAX_GRAPH_AGENTS", 2)
    graph = around(store)
    assert not graph.complete
    assert len(graph.agents) <= 5
