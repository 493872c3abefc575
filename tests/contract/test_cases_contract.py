"""Cases on every kind of store: which rises belong together, what people do, what is told of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.cases import Case, CaseEntry
from trustwatch.scoring.records.commits import CASE_KEY_PREFIX, OutboxRow
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store import case_assignment
from trustwatch.scoring.store.case_store import CaseFilters, CaseUpdate, new_case
from trustwatch.scoring.store.outbox_store import DeliveryRoute, DeliverySettlement
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

from ..support.stored_rows import NOW, commit, decision, name
from ..support.stored_rows import agent as row_of_agent

ALERTS = [DeliveryRoute("pager", "alert", frozenset(range(5)), 900_000)]
MINUTE = 60_000
A, B, C = name("a"), name("b"), name("c")


def rise(number: int, agent: AgentName, level: int = 3, before: int = 1, at_ms: int = 0, **indicators: str) -> Decision:
    """A change of an agent's level; *indicators* are new to it."""
    shown = [
        {"kind": kind, "value": value, "status": "new", "at": "2026-01-01T00:00:00Z"}
        for kind, value in indicators.items()
    ]
    return msgspec.structs.replace(
        decision(number, agent),
        decided_ms=NOW + at_ms,
        level=level,
        previous_level=before,
        evidence={"indicators": shown},
    )


def route(store: SqlStore, *decisions: Decision, now_ms: int = NOW) -> None:
    """Commit decisions with their alerts, and route these."""
    rows = [build_alert_row(one, {}, "https://trust.example") for one in decisions]
    commit(store, decisions=list(decisions), outbox=rows)
    store.outbox.route(ALERTS, now_ms)


def test_cases_that_wait_are_counted(store: SqlStore) -> None:
    """By status and level, with the first opening of each; of those tenants that may be seen."""
    theirs = name("theirs", "globex")
    route(store, rise(1, A), rise(2, B, at_ms=MINUTE), rise(3, C, level=4))
    route(store, rise(4, theirs))
    first = min(case.opened_ms for case in open_cases(store))
    counted = [(one.status, one.level, one.count) for one in store.cases.waiting()]
    assert counted == [("open", 3, 3), ("open", 4, 1)]
    assert store.cases.waiting()[0].oldest_ms == first
    assert [one.count for one in store.cases.waiting(("globex",))] == [1]
    assert store.cases.waiting(()) == []


def open_cases(store: SqlStore) -> list[Case]:
    """Cases that are not closed, the first opened first."""
    page = store.cases.page(filters=CaseFilters(statuses=("open", "acknowledged", "contained")))
    return sorted(page.items, key=lambda case: (case.opened_ms, case.case_id))


def agents_of(store: SqlStore, case: Case) -> list[str]:
    """Ids of its agents, as they joined."""
    return [one.agent.agent_id for one in store.cases.agents(case.case_id)]


def change(case: Case, action: Any, by: str = "ann", **values: Any) -> CaseUpdate:
    """What a person does to a case."""
    entry = CaseEntry(case.case_id, 0, NOW, by, action, "because")
    return CaseUpdate(msgspec.structs.replace(case, **values), entry)


def told(store: SqlStore, key: str) -> dict[str, Any]:
    """The case in the payload of an alert, and how its delivery stands."""
    (delivery,) = store.outbox.page(key=key).items
    data = msgspec.json.decode(delivery.payload)["data"]
    return {"delivery": delivery.status, "why": delivery.last_error, **data.get("case", {})}


def test_a_rise_opens_a_case_and_what_follows_joins_it(store: SqlStore) -> None:
    """Rises and falls of one agent are one case until it is closed, however long it takes."""
    route(store, rise(1, A, level=2, target="api.evil.example"))
    route(store, rise(2, A, level=4, before=2, at_ms=40 * 86_400_000))
    route(store, rise(3, A, level=1, before=4, at_ms=41 * 86_400_000))
    (case,) = open_cases(store)
    assert (case.level, case.lead_decision_id, case.agents, case.decisions) == (4, "D2", 1, 3)
    (agent,) = store.cases.agents(case.case_id)
    assert (agent.level, agent.peak, agent.decision_id) == (1, 4, "D2")
    assert [entry.action for entry in store.cases.entries(case.case_id)] == ["opened", "rose"]
    assert store.cases.decision_ids(case.case_id) == ["D3", "D2", "D1"]
    assert told(store, "alert-D3")["agents_above_low"] == 0
    assert told(store, "alert-D1")["is_new"]
    assert not told(store, "alert-D2")["is_new"]


def test_a_fall_of_an_agent_without_a_case_opens_none(store: SqlStore) -> None:
    """Nobody has to look at what is over."""
    route(store, rise(1, A, level=1, before=3))
    assert open_cases(store) == []
    assert told(store, "alert-D1") == {"delivery": "pending", "why": ""}


@pytest.mark.parametrize("kind", ["target", "network", "key"])
def test_agents_with_the_same_new_thing_are_one_case(store: SqlStore, kind: str) -> None:
    """Within the window; what is shared by chance, such as software, ties nobody."""
    route(store, rise(1, A, **{kind: "the same"}), rise(2, B, at_ms=MINUTE, **{kind: "the same"}))
    route(store, rise(3, C, at_ms=2 * MINUTE, software="curl"), rise(4, name("d"), at_ms=2 * MINUTE, software="curl"))
    first, *others = open_cases(store)
    assert agents_of(store, first) == ["a", "b"]
    assert [agents_of(store, case) for case in others] == [["c"], ["d"]]
    joined = store.cases.agents(first.case_id)[1]
    assert (joined.tie, joined.tied_by) == (kind, "the same")
    assert [(one.kind, one.value, one.agents) for one in store.cases.shared_indicators(first.case_id)] == [
        (kind, "the same", 2)
    ]


def test_ten_agents_that_turn_to_one_target_are_one_page(store: SqlStore) -> None:
    """The first is told; the others are kept back, and counted, as long as none is higher."""
    agents = [name(f"agent-{number}") for number in range(10)]
    route(store, *(rise(n, agent, at_ms=n * 1000, target="x.example") for n, agent in enumerate(agents)))
    (case,) = open_cases(store)
    assert case.agents == 10
    states = [told(store, f"alert-D{number}")["delivery"] for number in range(10)]
    assert states == ["pending", *["suppressed"] * 9]
    assert "about this case" in told(store, "alert-D9")["why"]
    route(store, rise(20, agents[4], level=4, before=3, at_ms=MINUTE))
    assert told(store, "alert-D20")["delivery"] == "pending"


def test_the_window_ends_what_a_shared_thing_ties(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins at the last rise with it."""
    monkeypatch.setattr(case_assignment, "CASE_WINDOW_MS", 60 * MINUTE)
    route(store, rise(1, A, target="x"), rise(2, B, at_ms=59 * MINUTE, target="x"))
    route(store, rise(3, C, at_ms=118 * MINUTE, target="x"), rise(4, name("d"), at_ms=179 * MINUTE, target="x"))
    assert [agents_of(store, case) for case in open_cases(store)] == [["a", "b", "c"], ["d"]]


def test_delegated_children_belong_to_the_case_of_their_parent(store: SqlStore) -> None:
    """In both directions; who only called each other, or is of another tenant, does not."""
    edges = [
        AgentEdge("acme", "https://as", "delegated", "a", "b", NOW, NOW),
        AgentEdge("acme", "https://as", "called", "a", "c", NOW, NOW),
    ]
    commit(store, edges=edges)
    route(store, rise(1, B), rise(2, A, at_ms=MINUTE), rise(3, C, at_ms=MINUTE))
    assert [agents_of(store, case) for case in open_cases(store)] == [["b", "a"], ["c"]]
    joined = store.cases.agents(open_cases(store)[0].case_id)[1]
    assert (joined.tie, joined.tied_by) == ("delegation", "b")


def test_tenants_never_meet(store: SqlStore) -> None:
    """The same target of agents of two tenants ties nobody, and nobody sees the other's."""
    other = name("a", "other")
    route(store, rise(1, A, target="x"), rise(2, other, target="x"))
    assert len(open_cases(store)) == 2
    assert [case.tenant for case in store.cases.page(("other",)).items] == ["other"]
    assert store.cases.get("case-D1", ("other",)) is None
    assert store.cases.agents("case-D1", ("other",)) == []
    assert store.cases.shared_indicators("case-D1", ("other",)) == []
    assert store.cases.entries("case-D1", ("other",)) == []
    assert store.cases.count_by_status(("other",)) == {"open": 1}


def test_a_case_takes_no_more_agents_than_it_may(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes many agents must not fill a case that people look at."""
    monkeypatch.setattr(case_assignment, "MAX_CASE_AGENTS", 2)
    route(store, *(rise(n, name(f"a{n}"), at_ms=n, target="x") for n in range(5)))
    assert [case.agents for case in open_cases(store)] == [2, 2, 1]


def test_of_very_many_entries_the_newest_are_read(store: SqlStore) -> None:
    """A flood of notes, or of rises, fills neither answers nor memory; each keeps its number."""
    route(store, rise(1, A))
    for person in ("ann", "ben", "cem", "dan"):
        (case,) = open_cases(store)
        assert store.cases.update(change(case, "noted", person))
    shown = store.cases.entries(case.case_id, ("acme",), 3)
    assert [(entry.sequence, entry.by) for entry in shown] == [(3, "ben"), (4, "cem"), (5, "dan")]
    assert len(store.cases.entries(case.case_id)) == 5


def test_a_closed_case_takes_nothing_more(store: SqlStore) -> None:
    """The next rise of its agent opens another one."""
    route(store, rise(1, A, target="x"))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "closed", status="closed", verdict="false", closed_ms=NOW))
    route(store, rise(2, A, at_ms=MINUTE, target="x"))
    (later,) = open_cases(store)
    assert later.case_id == "case-D2"
    assert store.cases.count_by_status() == {"open": 1}
    assert [entry.action for entry in store.cases.entries("case-D1")] == ["opened", "closed"]


def test_of_two_who_change_a_case_at_once_one_is_told(store: SqlStore) -> None:
    """Nothing that somebody did is overwritten unseen, alerts included."""
    route(store, rise(1, A))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "acknowledged", status="acknowledged", owner="ann"))
    assert not store.cases.update(change(case, "acknowledged", by="bob", status="acknowledged", owner="bob"))
    (after,) = open_cases(store)
    assert after.owner == "ann"
    route(store, rise(2, A, level=4, before=3))
    assert not store.cases.update(change(after, "closed", status="closed", verdict="true"))


def test_a_contained_case_that_grows_waits_for_a_person_again(store: SqlStore) -> None:
    """A further agent, or a higher level, is news."""
    route(store, rise(1, A, target="x"))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "contained", status="contained", contained_ms=NOW, owner="ann"))
    route(store, rise(2, A, level=2, before=1, at_ms=MINUTE))
    assert open_cases(store)[0].status == "contained"
    route(store, rise(3, B, at_ms=MINUTE, target="x"))
    (after,) = open_cases(store)
    assert (after.status, after.owner) == ("acknowledged", "ann")
    assert told(store, "alert-D3")["delivery"] == "pending"


def test_a_held_case_wakes_when_its_agent_rises_behind_the_hold(store: SqlStore) -> None:
    """While levels are fixed it stays contained; once that is over, a rise is news, though no higher than before."""
    route(store, rise(1, A))
    (case,) = open_cases(store)
    held = {"status": "contained", "contained_ms": NOW, "held_until_ms": NOW + 10 * MINUTE}
    assert store.cases.update(change(case, "contained", **held))
    route(store, rise(2, A, before=1, at_ms=9 * MINUTE))
    assert open_cases(store)[0].status == "contained"
    route(store, rise(3, A, before=1, at_ms=11 * MINUTE))
    assert open_cases(store)[0].status == "open"
    assert told(store, "alert-D3")["delivery"] == "pending"


def test_what_belongs_to_a_case_is_told_in_order(store: SqlStore) -> None:
    """A receiver that keeps an incident gets nothing before what was told of the same case earlier."""
    route(store, rise(1, A, target="x"), rise(2, B, level=4, at_ms=1, target="x"), rise(3, C, at_ms=2))

    def lease(now_ms: int = NOW) -> list[str]:
        return [one.row.key for one in store.outbox.lease("pager", now_ms, 10, 60_000, in_case_order=True)]

    assert lease() == ["alert-D1", "alert-D3"]
    assert lease() == []
    store.outbox.settle([DeliverySettlement(1, "pager", 1, "pending", NOW + MINUTE, "HTTP 503", NOW)])
    assert lease() == []
    assert lease(NOW + MINUTE)[:1] == ["alert-D1"]
    store.outbox.settle([DeliverySettlement(1, "pager", 2, "delivered", 0, "", NOW)])
    assert "alert-D2" in lease(NOW + MINUTE)


def test_a_reopened_case_has_the_levels_of_now(store: SqlStore) -> None:
    """What fell while it was closed is not shown as high."""
    route(store, rise(1, A, level=4))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "closed", status="closed", verdict="false"))
    commit(store, agents=[row_of_agent(A, 1)])
    closed = store.cases.get(case.case_id)
    assert closed is not None
    assert store.cases.update(change(closed, "reopened", status="open", verdict=""))
    (agent,) = store.cases.agents(case.case_id)
    assert (agent.level, agent.peak) == (1, 4)


def test_an_erasure_is_no_change_that_goes_unseen(store: SqlStore) -> None:
    """Whoever saw the case before it can not write it back; a name that is a tie's kind breaks nothing."""
    store.use_identities(IdentityHasher(b"k" * 32))
    a, b = store.edges.agent_name("acme", "https://as", "a"), store.edges.agent_name("acme", "https://as", "b")
    route(store, rise(1, a, network="ann@example.com"), rise(2, b, at_ms=1, network="ann@example.com"))
    (seen,) = open_cases(store)
    order = ErasureScope("E1", ErasureSubject("agent", "acme", "https://as", "a", "erased-1"), 10**9, NOW + MINUTE)
    store.subjects.erase(order)
    assert not store.cases.update(change(seen, "noted"))
    for name_of_principal in ("network", "ann@example.com", "joined"):
        subject = ErasureSubject("principal", "acme", "https://as", name_of_principal, "erased-2")
        store.subjects.erase(order._replace(subject=subject))
    (left,) = store.cases.agents(seen.case_id)
    assert (left.tie, left.tied_by) == ("network", "erased-2")
    assert store.cases.shared_indicators(seen.case_id) == []
    assert {entry.action for entry in store.cases.entries(seen.case_id)} == {"opened", "joined"}


def test_a_snoozed_case_is_told_of_at_a_higher_level_alone(store: SqlStore) -> None:
    """What is kept back says until when; the higher level ends the snooze."""
    route(store, rise(1, A, level=2))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "snoozed", snoozed_until_ms=NOW + 10 * MINUTE))
    route(store, rise(2, A, level=2, before=1, at_ms=MINUTE))
    assert told(store, "alert-D2")["why"].startswith("snoozed: ")
    route(store, rise(3, A, level=4, before=2, at_ms=2 * MINUTE))
    assert told(store, "alert-D3")["delivery"] == "pending"
    assert open_cases(store)[0].snoozed_until_ms == 0


def test_two_cases_become_one(store: SqlStore) -> None:
    """Agents, ties, decisions and deliveries go along; what was one agent in both is one."""
    route(store, rise(1, A, level=2, target="x"))
    (early,) = open_cases(store)
    assert store.cases.update(change(early, "closed", status="closed", verdict="false"))
    route(store, rise(2, A, level=4, before=1, network="n"), rise(3, B, at_ms=MINUTE))
    first, second = open_cases(store)
    assert store.cases.merge(
        change(second, "merged", status="closed", merged_into=first.case_id), change(first, "merged")
    )
    assert not store.cases.merge(change(second, "merged"), change(first, "merged"))
    (case,) = open_cases(store)
    assert (agents_of(store, case), case.agents, case.decisions, case.level) == (["a", "b"], 2, 2, 4)
    gone = store.cases.get(second.case_id)
    assert gone is not None
    assert (gone.status, gone.merged_into, gone.agents) == ("closed", first.case_id, 0)
    assert {one.key for one in store.outbox.page(case_id=first.case_id).items} == {"alert-D2", "alert-D3"}


def test_an_agent_becomes_a_case_of_its_own(store: SqlStore) -> None:
    """With its decisions and ties; it stays there when it rises again."""
    route(store, rise(1, A, level=4, target="x"), rise(2, B, level=2, at_ms=MINUTE, target="x"))
    (case,) = open_cases(store)
    fresh = new_case("case-new", case, NOW + MINUTE)
    opened = CaseUpdate(fresh, CaseEntry(fresh.case_id, 0, NOW, "ann", "split", "another thing"))
    assert not store.cases.split(change(case, "split"), opened, [C])
    assert store.cases.split(change(case, "split"), opened, [A])
    left, apart = store.cases.get(case.case_id), store.cases.get("case-new")
    assert left is not None
    assert apart is not None
    assert (left.level, left.agents, left.decisions, left.lead_decision_id) == (2, 1, 1, "D2")
    assert (apart.level, apart.agents, apart.decisions, apart.lead_decision_id) == (4, 1, 1, "D1")
    assert [agent.ordinal for agent in store.cases.agents(case.case_id)] == [1]
    route(store, rise(3, A, level=3, before=1, at_ms=2 * MINUTE, target="x"))
    assert store.cases.case_of_decision("D3") == "case-new"


def test_a_message_that_can_not_be_read_holds_up_nobody(store: SqlStore) -> None:
    """One that a later version wrote is delivered, and belongs to no case; those behind it are routed, too."""
    keys = [f"{CASE_KEY_PREFIX}{number}" for number in range(3)]
    payloads = (b"no JSON", b'{"data": {"case_id": 7}}', b'{"data": {"case_id": "case-D1"}}')
    rows = [
        OutboxRow(key, "alert", "", payload, NOW, level=3, tenant="acme")
        for key, payload in zip(keys, payloads, strict=True)
    ]
    store.outbox.enqueue(rows)
    assert store.outbox.route(ALERTS, NOW) == 3
    assert {one.key for one in store.outbox.page().items} == set(keys)
    assert [one.key for one in store.outbox.page(case_id="case-D1").items] == [keys[2]]


def test_lists_are_narrowed(store: SqlStore) -> None:
    """By status, owner, level, agent and time."""
    route(store, rise(1, A, level=2), rise(2, B, level=4, at_ms=MINUTE))
    case = store.cases.get("case-D1")
    assert case is not None
    assert store.cases.update(change(case, "acknowledged", status="acknowledged", owner="ann"))

    def ids(**given: Any) -> list[str]:
        return [one.case_id for one in store.cases.page(("acme",), CaseFilters(**given)).items]

    assert ids() == ["case-D2", "case-D1"]
    assert ids(statuses=("acknowledged",)) == ids(owner="ann") == ids(agent=A) == ["case-D1"]
    assert ids(level=4) == ids(since_ms=NOW + MINUTE) == ["case-D2"]
    assert ids(until_ms=NOW + MINUTE) == ["case-D1"]
    assert [one.agent.agent_id for one in store.cases.first_agents(["case-D2"], ("acme",))["case-D2"]] == ["b"]


def test_retention_removes_old_cases(store: SqlStore) -> None:
    """With all that belongs to them, also where nobody closed them."""
    route(store, rise(1, A, target="x"), rise(2, B, at_ms=2 * MINUTE))
    assert store.retention.purge(RetentionCutoffs(cases_ms=NOW)).cases == 0
    assert store.retention.purge(RetentionCutoffs(cases_ms=NOW + MINUTE)).cases == 1
    assert [one.case_id for one in store.cases.page().items] == ["case-D2"]
    assert store.cases.agents("case-D1") == store.cases.entries("case-D1") == store.cases.decision_ids("case-D1") == []


def test_an_erased_agent_leaves_its_cases(store: SqlStore) -> None:
    """Its rows go; a case of others counts anew, and one of it alone goes with all that people wrote."""
    store.use_identities(IdentityHasher(b"k" * 32))
    a, b = store.edges.agent_name("acme", "https://as", "a"), store.edges.agent_name("acme", "https://as", "b")
    route(store, rise(1, a, level=4, target="x"), rise(2, b, level=2, at_ms=1, target="x"))
    (case,) = open_cases(store)
    assert store.cases.update(change(case, "noted", by="ann"))
    scope = ErasureScope("E1", ErasureSubject("agent", "acme", "https://as", "a", "erased-1"), 10**9, NOW + MINUTE)
    removed = store.subjects.erase(scope)
    assert removed["case_agents"] == removed["case_ties"] == removed["case_decisions"] == 1
    left = store.cases.get(case.case_id)
    assert left is not None
    assert (left.agents, left.level, left.lead_decision_id) == (1, 2, "D2")
    first, *_ = store.cases.entries(case.case_id)
    assert msgspec.json.decode(first.detail)["agent"] == "erased-1"
    store.subjects.erase(scope._replace(subject=ErasureSubject("agent", "acme", "https://as", "b", "erased-2")))
    assert store.cases.get(case.case_id) is None
    assert store.cases.entries(case.case_id) == []
    assert store.subjects.erase(scope, dry=True) == {}
