"""What every store promises of agents whose decisions are later than their rows."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.console_records import AS, NOW_MS, decision_of, row_of
from trustwatch.scoring.records.agents import AgentEdge, AgentName, RiskLevel
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store.agent_store import AgentQuery
from trustwatch.scoring.store.blast_radius import CriticalDescendants
from trustwatch.scoring.store.sql_store import SqlStore

CRITICAL = (int(RiskLevel.CRITICAL),)
RISING, CALMED, CHILD = row_of("rising", level=1), row_of("calmed", level=4), row_of("child", level=1)
OTHERS = row_of("others", "globex", level=1)


@pytest.fixture
def ahead(store: SqlStore) -> Position:
    """Four agents whose states are stored up to offset 10; decisions at 12 to 15 are committed by themselves."""
    claimed = store.partitions.claim(0)
    at = Position(0, claimed.epoch, 10)
    store.commit(Commit(claimed, at, [RISING, CALMED, CHILD, OTHERS], [], [], []))
    raised = msgspec.structs.replace(RISING, level=4)
    calm = msgspec.structs.replace(CALMED, level=1)
    theirs = msgspec.structs.replace(OTHERS, level=4)
    passing = msgspec.structs.replace(RISING, level=3)
    decisions = [
        decision_of(passing, 12),
        decision_of(raised, 13, 3),
        decision_of(calm, 14, 4),
        decision_of(theirs, 15),
    ]
    edges = [AgentEdge("acme", AS, "delegated", "rising", "child", NOW_MS, NOW_MS, 0.5, NOW_MS)]
    store.commit(Commit(at, at, [], decisions, [], [], edges=edges))
    return at


def names(agents: object) -> set[str]:
    return {agent.name.agent_id for agent in agents}  # type: ignore[attr-defined]


def test_the_newest_of_row_and_decision_counts(store: SqlStore, ahead: Position) -> None:
    """Of one agent and of all at a level; the list of rows is as of the states. Other tenants stay out."""
    newest = store.agents.find_newest(RISING.name)
    assert newest is not None and (newest.level, newest.decision_id, newest.events) == (4, "d-13", RISING.events)
    assert store.agents.find_newest(AgentName(1, "acme", AS, "nobody")) is None
    assert names(store.agents.page(AgentQuery(levels=CRITICAL)).items) == {"calmed"}
    assert names(store.agents.iterate_newest(CRITICAL)) == {"rising", "others"}
    assert names(store.agents.iterate_newest(CRITICAL, ("acme",))) == {"rising"}
    assert [(one.epoch, one.offset) for one in store.agents.list_ahead(agent=CALMED.name)] == [(ahead.epoch, 15)]
    assert store.agents.list_ahead(partition=1) == []


def test_descendants_of_an_agent_are_found_before_its_row_says_that_it_is_critical(
    store: SqlStore, ahead: Position
) -> None:
    """Those of one that is no more critical are not."""
    descendants, changed = CriticalDescendants(store, lambda: NOW_MS).find({})
    assert descendants == {CHILD.name.identity: "rising"}
    assert changed == {CHILD.name.identity}


def test_states_catch_up(store: SqlStore, ahead: Position) -> None:
    """Then no agent is ahead, and rows say it themselves."""
    rows = [msgspec.structs.replace(RISING, level=4), msgspec.structs.replace(CALMED, level=1)]
    store.commit(Commit(ahead, Position(0, ahead.epoch, 16), rows, [], [], []))
    assert store.agents.list_ahead() == []
    assert names(store.agents.iterate_newest(CRITICAL)) == {"rising"}


def test_going_on_from_the_same_place_keeps_what_is_ahead(store: SqlStore, ahead: Position) -> None:
    """A database that was put back goes on where it was, and its decisions keep the records that brought them."""
    store.partitions.set_position(0, ahead.offset, above=90)

    assert sorted(one.offset for one in store.decisions.iterate_unpublished(0, 0)) == [12, 13, 14, 15]
    assert names(one.agent for one in store.agents.list_ahead()) == {"rising", "calmed", "others"}

    store.partitions.set_position(0, 9)
    assert list(store.decisions.iterate_unpublished(0, 0)) == [] == store.agents.list_ahead()


def test_a_partition_without_states_keeps_what_is_ahead_too(store: SqlStore, ahead: Position) -> None:
    """A copy may have been made before its first commit of states."""
    owner = store.partitions.claim(1)
    (decision,) = [one for one in store.decisions.iterate_unpublished(0, 0) if one.offset == 12]
    store.commit(Commit(owner, owner, [], [msgspec.structs.replace(decision, decision_id="D-1", partition=1)], [], []))
    store.partitions.set_position(1, 0, above=90)
    assert [one.offset for one in store.decisions.iterate_unpublished(1, 0)] == [12]
