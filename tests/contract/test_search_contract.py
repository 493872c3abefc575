"""Look-ups of the search, on each kind of store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.search_store import CaseNames, SeenPrincipal
from trustwatch.scoring.store.sql_store import SqlStore

from ..support.stored_rows import NOW, commit, decision

AS = "https://as.example"


def name(agent_id: str, tenant: str = "acme") -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, AS, agent_id), tenant, AS, agent_id)


def edge(source: str, target: str, last_ms: int = NOW, tenant: str = "acme", kind: str = "acts_for") -> AgentEdge:
    return AgentEdge(tenant, AS, kind, source, target, NOW - 1000, last_ms)  # type: ignore[arg-type]


def test_principals_are_found_by_parts_of_their_name(store: SqlStore) -> None:
    """In whatever case, last seen first, with how many agents act for each; `%` and `_` stand for themselves."""
    people = [edge("a", "Ann@acme.example"), edge("b", "Ann@acme.example", NOW + 5), edge("a", "bob_1@acme.example")]
    others = [edge("a", "ann@globex.example", tenant="globex"), edge("a", "ann-bot", kind="called")]
    commit(store, edges=[*people, *others])
    find = store.search.principals

    assert find(["acme"], [("ann",)]) == [SeenPrincipal("acme", AS, "Ann@acme.example", 2, NOW + 5)]
    assert [one.principal_id for one in find(["acme"], [])] == ["Ann@acme.example", "bob_1@acme.example"]
    assert [one.principal_id for one in find(None, [("b_1",), ("none", "ACME")])] == ["bob_1@acme.example"]
    assert find(["acme"], [("ann",), ("bob",)]) == find(["acme"], [("%",)]) == find([], [("ann",)]) == []
    assert len(find(None, [("ann",)])) == 2
    assert [one.principal_id for one in find(None, [], NOW + 1)] == ["Ann@acme.example"]
    assert "Ann@acme.example" not in [one.principal_id for one in find(None, [], 0, NOW + 1)]
    assert len(find(None, [], limit=1)) == 1


def test_names_of_cases_and_cases_of_decisions(store: SqlStore) -> None:
    """Agents and what was new to them; nothing of cases that may not be seen."""
    shown = [{"kind": "network", "value": "AS65537", "status": "new", "at": "2025-11-24T16:00:00Z"}]
    made = [
        msgspec.structs.replace(decision(1, name("a")), evidence={"indicators": shown}),
        decision(2, name("theirs", "globex")),
    ]
    commit(store, decisions=made, outbox=[build_alert_row(one, {}, "https://trust.example") for one in made])
    while store.outbox.route([DeliveryRoute("soc", "alert", frozenset(range(5)), 0)], NOW):
        pass
    ids = ["case-D1", "case-D2", "case-none"]

    nothing = CaseNames(frozenset(), frozenset())
    assert store.search.case_names(ids, ["acme"]) == {
        "case-D1": CaseNames(frozenset({"a"}), frozenset({("network", "AS65537")})),
        "case-D2": nothing,
        "case-none": nothing,
    }
    assert store.search.case_names(ids)["case-D2"].agents == {"theirs"}
    assert store.search.cases_of(["D1", "D2", "D3"], ["acme"]) == {"D1": "case-D1"}
    assert store.search.cases_of([]) == {}


def test_decisions_are_found_by_the_record_they_follow(store: SqlStore) -> None:
    """By partition and offset; of several the gravest; none of another tenant."""
    graver = msgspec.structs.replace(decision(3, name("a")), offset=1, level=4)
    commit(store, decisions=[decision(1, name("a")), graver, decision(2, name("theirs", "globex"))])

    assert store.search.decisions_at({0: [1, 2, 9], 1: [1]}, ["acme"]) == {(0, 1): graver}
    assert store.search.decisions_at({0: [1, 2]}).keys() == {(0, 1), (0, 2)}
    assert store.search.decisions_at({}) == {}


def test_names_in_decisions_are_bytes_in_lower_case(store: SqlStore) -> None:
    """Newest first, page by page, narrowed by what columns know; what they say is what the decision says."""
    shown = [{"kind": "software", "value": "Curl/8", "status": "new", "at": "2025-11-24T16:00:00Z"}]
    made = [
        msgspec.structs.replace(decision(1, name("Bot")), evidence={"indicators": shown}, event_id="E-9"),
        msgspec.structs.replace(decision(2, name("b")), level=4),
        decision(3, name("theirs", "globex")),
    ]
    commit(store, decisions=made)
    read = store.search.decision_texts

    first = read(["acme"], limit=1)
    assert [one.decision_id for one in first.items] == ["D2"]
    assert first.next_cursor is not None
    (second,) = read(["acme"], limit=1, cursor=first.next_cursor).items
    assert second.decision_id == "D1"
    for part in (b"d1", b"bot", b"e-9", b"curl/8"):
        assert part in second.text
    assert [(one.decision_id, one.level) for one in read(None).items] == [("D3", 3), ("D2", 4), ("D1", 3)]
    assert [one.decision_id for one in read(None, agent=name("Bot")).items] == ["D1"]
    assert [one.decision_id for one in read(None, since_ms=NOW + 3).items] == ["D3"]
    assert [one.decision_id for one in read(None, until_ms=NOW + 2).items] == ["D1"]


def test_decisions_of_an_agent_are_read_by_its_index(store: SqlStore) -> None:
    """Not by its tenant's, which would look through all decisions of the tenant."""
    commit(store, decisions=[decision(1, name("a"))])
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    engine = store.database.engine
    event.listen(engine, "before_cursor_execute", note)
    store.decisions.page(["acme"], name("a"))
    store.search.decision_texts(["acme"], name("a"))
    store.agents.list_ahead(agent=name("a"), tenants=["acme"])
    store.agents.list_ahead(tenants=["acme"])
    store.decisions.page(["acme", "globex"])
    store.acts.page(["acme", "globex"])
    event.remove(engine, "before_cursor_execute", note)
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL chooses by statistics")
    with engine.connect() as connection:
        plans = [
            " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values))
            for sql, values in asked
            if "FROM decisions" in sql
        ]
    assert ["ix_decisions_agent (agent_key=?" in plan for plan in plans] == [True, True, True, False, False, False]
    assert "ix_decisions_offset (partition=? AND offset>?)" in plans[3]
    assert "ix_decisions_tenant (tenant=?" in plans[4]
    assert "ix_decisions_release" in plans[5]
