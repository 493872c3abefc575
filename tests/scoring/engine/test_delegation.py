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

HOUR_MS = 3_600_000


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


def test_chains_peers_and_principals_make_edges(kit: Any, event: Any) -> None:
    """The chain is read from its end: whoever comes later in it delegated to whoever comes before."""
    (found,) = seen(
        kit,
        [
            event("pay", delegation=["pay", "plan", "front"], principal={"id": "ann"}),
            event("plan", peer="ledger"),
        ],
    )

    assert found == {
        ("delegated", "plan", "pay"),
        ("delegated", "front", "plan"),
        ("acts_for", "pay", "ann"),
        ("called", "plan", "ledger"),
    }


def test_a_chain_without_the_current_actor_is_read_alike(kit: Any, event: Any) -> None:
    """Some write only the actors before it."""
    assert seen(kit, [event("pay", delegation=["plan"])]) == [{("delegated", "plan", "pay")}]


def test_a_pair_that_goes_on_is_written_once_an_hour(kit: Any, event: Any) -> None:
    """Also when events come late, or in one batch."""
    batches = [[event("a", minute, peer="b")] for minute in (1, 30, 59, 61, 2, 119, 121)]

    assert [bool(found) for found in seen(kit, *batches)] == [True, False, False, True, False, False, True]
    assert seen(kit, [event("a", minute, peer="b") for minute in (1, 30, 59)]) == [{("called", "a", "b")}]


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


def test_an_edge_says_when(kit: Any, event: Any, make: Any) -> None:
    """In event time: its first event, the first of its last hour, and the first at its highest risk."""
    collector = EdgeCollector()
    collector.collect(
        kit.columns([event("a", minute, peer="b") for minute in (70, 80, 200, 205, 190, 10)]),
        np.array([0.31, 0.87, 0.0, 0.88, 0.2, 0.1]),
    )

    (edge,) = collector.drain()

    start = make.START_MS
    assert edge == AgentEdge(
        "acme", edge.issuer, "called", "a", "b", start + 10 * 60_000, start + 190 * 60_000, 0.85, start + 205 * 60_000
    )
    assert collector.drain() == []


def test_nobody_is_drawn_in_by_a_claim(kit: Any, event: Any) -> None:
    """Not by an agent that no token vouches for, nor by what we refused."""
    claimed = event("thief", delegation=["thief", "boss"], peer="victim")
    claimed["agent"]["self_asserted"] = True
    refused = event("thief", peer="victim", outcome="denied", error="ext_authz_denied")

    assert seen(kit, [claimed, refused]) == [set()]


def test_nobody_has_to_do_with_itself(kit: Any, event: Any) -> None:
    """An agent that acts for itself is no news."""
    assert seen(kit, [event("a", peer="a", principal={"id": "a"}, delegation=["a"])]) == [set()]


def test_a_chain_without_end_makes_few_edges(kit: Any, event: Any) -> None:
    """Its length is a feature of its own; the table of edges must not be flooded by one event."""
    (found,) = seen(kit, [event("a0", delegation=[f"a{number}" for number in range(200)])])

    assert len(found) == 7


def test_the_risk_of_a_pair_is_written_when_it_rises(kit: Any, event: Any) -> None:
    """At once, not at the next hour; less than a step is not worth a row, and a quiet pair has no risk."""
    collector = EdgeCollector()
    told = []
    for minute, risk in ((1, 0.1), (2, 0.25), (3, 0.5), (4, 0.52), (5, 0.9), (6, 0.4)):
        collector.collect(kit.columns([event("a", minute, peer="b")]), np.array([risk]))
        told.append([edge.risk for edge in collector.drain()])

    assert told == [[0.0], [], [0.5], [], [0.9], []]


def test_risk_belongs_to_the_pair_in_whose_events_it_was(kit: Any, event: Any) -> None:
    """What an agent does for one principal is not held against another."""
    collector = EdgeCollector()
    batch = [event("a", 1, principal={"id": "ann"}), event("a", 2, principal={"id": "bob"})]
    collector.collect(kit.columns(batch), np.array([0.1, 0.8]))

    assert {edge.target: edge.risk for edge in collector.drain()} == {"ann": 0.0, "bob": 0.8}


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


def test_most_batches_write_nothing(kit: Any, event: Any) -> None:
    """A pair that continues for ten hours at one risk is written once an hour."""
    collector, written = EdgeCollector(), 0
    for minute in range(0, 600, 2):
        collector.collect(kit.columns([event("a", minute, peer="b")]), np.array([0.7]))
        written += len(collector.drain())

    assert written == 10
