"""Who had to do with whom, out of batches: new pairs, going ones once an hour, and nothing that is merely claimed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.scoring.engine import delegation
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.records.agents import AgentEdge, merge_edges


@pytest.fixture
def event(make: Any) -> Any:
    """An event of an agent at a minute after the start."""

    def build(agent: str, minute: float = 0.0, **members: Any) -> dict[str, Any]:
        return make.event(0, agent, make.START_MS + int(minute * 60_000), **members)  # type: ignore[no-any-return]

    return build


def seen(kit: Any, *batches: list[dict[str, Any]]) -> list[set[tuple[str, str, str]]]:
    """(kind, source, target) of the edges after each batch."""
    collector = EdgeCollector()
    found = []
    for batch in batches:
        collector.collect(kit.columns(batch), np.zeros(len(batch)))
        found.append({(edge.kind, edge.source, edge.target) for edge in collector.drain()})
    return found


def test_a_new_delegation_is_told_until_it_is_taken(kit: Any, event: Any) -> None:
    """A delegation that goes on, and other pairs, are no news for containment."""
    collector, told = EdgeCollector(), []
    for made in (
        event("a", 1, peer="b"),
        event("pay", 2, delegation=["pay", "plan"]),
        event("pay", 90, delegation=["pay", "plan"]),
    ):
        collector.collect(kit.columns([made]), np.zeros(1))
        told.append(collector.has_new_delegation)
        collector.drain()
        told.append(collector.has_new_delegation)
    assert told == [False, False, True, False, False, False]


def test_nobody_is_drawn_in_by_a_claim(kit: Any, event: Any) -> None:
    """Not by an agent that no token vouches for, nor by what we refused."""
    claimed = event("thief", delegation=["thief", "boss"], peer="victim")
    claimed["agent"]["self_asserted"] = True
    refused = event("thief", peer="victim", outcome="denied", error="ext_authz_denied")

    assert seen(kit, [claimed, refused]) == [set()]


def test_a_chain_without_end_makes_few_edges(kit: Any, event: Any) -> None:
    """Its length is a feature of its own; the table of edges must not be flooded by one event."""
    (found,) = seen(kit, [event("a0", delegation=[f"a{number}" for number in range(200)])])

    assert len(found) == 7


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_a_function_of_the_events(kit: Any, event: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever the batches, the order, how much a process remembers and how often it is restarted and applies again."""
    dice = random.Random(seed)
    minutes = [dice.choice([0, 200, 1_500]) + dice.uniform(0, 150) for _ in range(24)]
    events = [
        event(f"a{dice.randrange(2)}", at, peer="b", delegation=["x", "y"][: dice.randrange(3)]) for at in minutes
    ]
    risks = np.array([dice.choice([0.0, 0.1, 0.3, 0.34, 0.36, 0.6, 0.81, 0.84, 1.0]) for _ in events])

    def rows(order: list[int], restart: float) -> dict[Any, AgentEdge]:
        collector, found, applied, committed = EdgeCollector(), {}, 0, 0
        while applied < len(order):
            batch = order[applied : applied + dice.randrange(1, 9)]
            collector.collect(kit.columns([events[at] for at in batch]), risks[batch])
            applied += len(batch)
            if dice.random() < 0.5 or applied == len(order):
                for edge in collector.drain():
                    name = edge.kind, edge.source, edge.target
                    found[name] = merge_edges(found[name], edge) if name in found else edge
                committed = dice.choice([applied, committed])  # decisions alone are written before the position
            if dice.random() < restart:
                collector, applied = EdgeCollector(), committed
        return found

    in_order = list(range(len(events)))
    undisturbed = rows(in_order, 0.0)
    monkeypatch.setattr(delegation, "_LATELY_SEEN", dice.choice([1, 4, 1 << 16]))
    monkeypatch.setattr(delegation, "MAX_REMEMBERED_PAIRS", dice.choice([1, 500_000]))
    assert rows(in_order, 0.3) == undisturbed
    assert rows(dice.sample(in_order, len(in_order)), 0.3) == undisturbed
