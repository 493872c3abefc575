"""Two agents with one key in the store: whoever has the row keeps it, and nothing of one is read as the other's."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.colliding_agents import COLLIDING_KEY, FIRST, ISSUER, SECOND, TENANT
from tests.support.stored_rows import NOW, agent, commit, decision
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

HOLDER, IMPOSTOR = (AgentName(COLLIDING_KEY, TENANT, ISSUER, agent_id) for agent_id in (FIRST, SECOND))
SUBJECT = ErasureSubject("agent", TENANT, ISSUER, SECOND, "erased~1")


@pytest.mark.parametrize("crowd", [0, 200])
def test_a_row_is_not_overwritten(store: SqlStore, crowd: int) -> None:
    """Written one by one or in bulk, by whichever worker: the row stays that of the agent it names."""
    others = [agent(AgentName(number, TENANT, ISSUER, f"o{number}"), 1) for number in range(1, crowd + 1)]
    commit(store, agents=[agent(HOLDER, 1), *others])
    commit(store, agents=[agent(IMPOSTOR, 4), *others])

    assert store.agents.load([COLLIDING_KEY])[COLLIDING_KEY] == agent(HOLDER, 1)
    assert store.agents.get(*HOLDER.identity) == agent(HOLDER, 1)
    assert store.agents.get(*IMPOSTOR.identity) is None


def test_what_is_read_is_the_agents_own(store: SqlStore) -> None:
    """Decisions, interventions, actuations and edges are found by the full name."""
    edges = [AgentEdge(TENANT, ISSUER, "called", name.agent_id, "ledger", NOW, NOW) for name in (HOLDER, IMPOSTOR)]
    commit(store, decisions=[decision(1, HOLDER), decision(2, IMPOSTOR)], edges=edges)
    for number, name in enumerate((HOLDER, IMPOSTOR)):
        store.interventions.add(
            Intervention(f"I{number}", "approval", "pending", name, 2, (), "", "x", NOW, "", NOW, "", NOW, 1)
        )
    store.actuations.request(Actuation("kc", HOLDER, 1, b"{}", b"", "confirmed", NOW, NOW, NOW, NOW, ""))

    for name, number in ((HOLDER, 1), (IMPOSTOR, 2)):
        assert [one.decision_id for one in store.decisions.page(agent=name).items] == [f"D{number}"]
        assert [one.intervention_id for one in store.interventions.page(agent=name).items] == [f"I{number - 1}"]
        assert [edge.source for edge in store.edges.find([name.identity], outgoing=True, kinds={"called"})] == [
            name.agent_id
        ]
    assert store.actuations.get("kc", HOLDER) is not None
    assert store.actuations.get("kc", IMPOSTOR) is None
    assert store.actuations.page(agent=IMPOSTOR).items == []


def test_a_name_like_a_principals_key_is_no_principal(store: SqlStore) -> None:
    """An agent may call itself what keys of principals are made from; its edges are not the principal's."""
    edges = [
        AgentEdge(TENANT, ISSUER, "acts_for", "bot", "ann", NOW, NOW),
        AgentEdge(TENANT, ISSUER, "called", "bot", "principal\x1fann", NOW, NOW),
    ]
    commit(store, edges=edges)
    kinds = {"called", "acts_for"}

    ann, lookalike = (TENANT, ISSUER, "ann"), (TENANT, ISSUER, "principal\x1fann")
    assert store.edges.find([ann], outgoing=False, kinds=kinds, principals=True) == edges[:1]
    assert store.edges.find([lookalike], outgoing=False, kinds=kinds) == edges[1:]


def test_export_and_erasure_of_the_one_leave_the_other(store: SqlStore) -> None:
    """Nothing of the agent that has the key is exported or removed with the one that has not."""
    outbox = [OutboxRow("a1", "alert", "", b"{}", NOW, COLLIDING_KEY, "x", 3, "other-tenant")]
    commit(store, agents=[agent(HOLDER, 1)], decisions=[decision(1, HOLDER)], outbox=outbox)
    store.actuations.request(Actuation("kc", HOLDER, 1, b"{}", b"x", "confirmed", NOW, NOW, NOW, NOW, ""))

    assert list(store.subjects.export(SUBJECT)) == []
    assert store.actuations.targets_with_original(SUBJECT) == []
    store.subjects.erase(ErasureScope("E1", SUBJECT, 99, NOW + 10))
    mine = msgspec.structs.replace(HOLDER)
    assert store.agents.get(*mine.identity) == agent(HOLDER, 1)
    assert [one.decision_id for one in store.decisions.page(agent=mine).items] == ["D1"]
    assert store.actuations.get("kc", mine) is not None
