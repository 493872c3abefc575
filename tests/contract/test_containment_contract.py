"""What every store promises about containment: interventions, actuations, edges."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import msgspec

from tests.support.stored_rows import NOW, name
from trustwatch.scoring.records.agents import AgentEdge, merge_edges
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_store import SqlStore

HOUR = 3_600_000
LONG = "https://agents.example/" + "é" * 1000


def approval(number: int, **values: Any) -> Intervention:
    asked = ("step_up_required", "hydra", NOW + number)
    what = (name("bot"), 2, ("pay:write", "*"), *asked, "", 0, "", NOW + 10_000, NOW + number)
    made = Intervention(f"I{number:04}", "approval", "pending", *what)
    return msgspec.structs.replace(made, **values)


def alert(key: str) -> OutboxRow:
    return OutboxRow(key, "alert", "", b"{}", NOW)


def waiting(store: SqlStore) -> int:
    return store.outbox.route([DeliveryRoute("t", "alert", frozenset(range(5)), 0)], NOW)


def test_an_intervention_is_written_once_with_what_leaves(store: SqlStore) -> None:
    """The same id changes nothing, and sends nothing."""
    assert store.interventions.add(approval(1), [alert("a")])
    assert not store.interventions.add(approval(1, asked_why="other"), [alert("b")])

    assert store.interventions.get("I0001") == approval(1)
    assert waiting(store) == 1


def test_of_two_that_decide_one_wins(store: SqlStore) -> None:
    """The second finds another status, and nothing of it is written."""
    store.interventions.add(approval(1))
    yes = approval(1, status="approved", decided_by="ann", decided_ms=NOW + 9, why="known job", updated_ms=NOW + 9)
    no = approval(1, status="rejected", decided_by="bob", decided_ms=NOW + 10, updated_ms=NOW + 10)

    assert store.interventions.update(yes, "pending", [alert("yes")])
    assert not store.interventions.update(no, "pending", [alert("no")])

    assert store.interventions.get("I0001") == yes
    assert waiting(store) == 1


def test_of_many_that_spend_an_approval_for_one_use_one_does(store: SqlStore) -> None:
    """At the same time, from several connections; it is open until then, and not afterwards."""
    store.interventions.add(approval(1, status="approved_once"))
    assert [one.intervention_id for one in store.interventions.list_open()] == ["I0001"]
    used = approval(1, status="used", updated_ms=NOW + 9)

    with ThreadPoolExecutor(8) as threads:
        spent = list(threads.map(lambda _: store.interventions.update(used, "approved_once"), range(16)))

    assert sorted(spent) == [False] * 15 + [True]
    assert store.interventions.list_open() == []


def test_interventions_are_listed_newest_first_and_by_what_is_asked(store: SqlStore) -> None:
    """Tenants, kind, status and agent; pages follow each other."""
    made = [approval(number) for number in range(5)]
    made.append(approval(9, agent=name("other", "corp"), kind="pin", status="active"))
    for one in made:
        store.interventions.add(one)

    first = store.interventions.page(tenants={"acme"}, limit=3)
    rest = store.interventions.page(tenants={"acme"}, limit=3, cursor=first.next_cursor)

    assert [one.intervention_id for one in first.items + rest.items] == ["I0004", "I0003", "I0002", "I0001", "I0000"]
    assert rest.next_cursor is None
    assert store.interventions.page(kind="pin").items == [made[-1]]
    assert store.interventions.page(status="approved").items == []
    assert store.interventions.page(agent=name("other", "corp")).items == [made[-1]]
    assert store.interventions.get("I0009", {"acme"}) is None


def test_open_and_changed_interventions_are_found(store: SqlStore) -> None:
    """What has no effect any more is not open; a follower sees every change."""
    for number, status in enumerate(("pending", "approved", "rejected", "expired")):
        store.interventions.add(approval(number, status=status))
    store.interventions.add(approval(7, kind="pin", status="active"))

    assert {one.intervention_id for one in store.interventions.list_open()} == {"I0000", "I0001", "I0007"}
    assert [one.intervention_id for one in store.interventions.changed_since(NOW + 3)] == ["I0003", "I0007"]


def actuation(version: int, **values: Any) -> Actuation:
    made = Actuation("hydra", name(LONG), version, b'{"level":"high"}', b"", "wanted", NOW - 5, NOW, 0, NOW, "")
    return msgspec.structs.replace(made, **values)


def test_the_newest_wish_counts(store: SqlStore) -> None:
    """An older one is refused; the same one may come again."""
    assert store.actuations.request(actuation(5)) == actuation(5)
    assert store.actuations.request(actuation(4)) is None
    assert store.actuations.request(actuation(5)) is not None
    assert store.actuations.request(actuation(6, desired=b"{}")) == actuation(6, desired=b"{}")
    assert store.actuations.get("hydra", name(LONG)) == actuation(6, desired=b"{}")
    assert store.actuations.get("other", name(LONG)) is None


def test_what_was_there_first_is_kept_until_it_is_restored(store: SqlStore) -> None:
    """Neither a second reading nor a newer wish replaces it."""
    store.actuations.request(actuation(1))
    assert store.actuations.keep_original("hydra", name(LONG), b"first") == b"first"
    assert store.actuations.keep_original("hydra", name(LONG), b"second") == b"first"

    again = store.actuations.request(actuation(2, original=b"third"))
    assert again is not None
    assert again.original == b"first"

    assert store.actuations.settle(
        msgspec.structs.replace(again, status="restored", original=b"", confirmed_ms=NOW + 1)
    )
    done = store.actuations.get("hydra", name(LONG))
    assert done is not None
    assert (done.original, done.status, done.confirmed_ms) == (b"", "restored", NOW + 1)


def test_who_is_overtaken_settles_nothing(store: SqlStore) -> None:
    """It has to look again at what is wanted."""
    old = store.actuations.request(actuation(1))
    store.actuations.request(actuation(2))

    assert old is not None
    assert not store.actuations.settle(msgspec.structs.replace(old, status="confirmed"))
    assert [one.status for one in store.actuations.page(tenants={"acme"}).items] == ["wanted"]
    assert store.actuations.page(tenants={"corp"}).items == []


def edge(kind: str, source: str, target: str, last_ms: int = NOW) -> AgentEdge:
    """An edge among agents of one issuer."""
    return AgentEdge("acme", "https://as", kind, source, target, last_ms, last_ms)  # type: ignore[arg-type]


def test_edges_keep_their_first_and_last_time(store: SqlStore) -> None:
    """In the transaction of the state; found from both ends, at any length of names."""
    place = store.partitions.claim(0)
    first = [edge("delegated", "boss", LONG), edge("called", "boss", "ledger"), edge("acts_for", "boss", "ledger")]
    second = [edge("delegated", "boss", LONG, NOW + HOUR)]
    for offset, edges in ((1, first), (2, second)):
        store.commit(Commit(place, next_place := Position(0, place.epoch, offset), [], [], [], [], edges=edges))
        place = next_place

    (delegated,) = store.edges.find([name("boss").identity], outgoing=True, kinds={"delegated"})
    (back,) = store.edges.find([name(LONG).identity], outgoing=False, kinds={"delegated", "called"})
    called = store.edges.find([name("ledger").identity], outgoing=False, kinds={"called", "acts_for"})

    assert delegated == back == AgentEdge("acme", "https://as", "delegated", "boss", LONG, NOW, NOW + HOUR)
    assert [one.kind for one in called] == ["called"], "a principal is not the agent of the same name"
    assert store.edges.find([name("boss").identity], outgoing=True, kinds={"called"}, since_ms=NOW + 1) == []


def test_the_risk_of_an_edge_is_the_highest_of_a_day(store: SqlStore) -> None:
    """A lower one counts once the higher is a day old."""
    place, day = store.partitions.claim(0), 86_400_000
    seen = []
    for offset, (risk, at_ms) in enumerate(((0.2, NOW), (0.8, NOW + 1), (0.5, NOW + 2), (0.3, NOW + 2 * day)), 1):
        made = msgspec.structs.replace(edge("called", "boss", "ledger", at_ms), risk=risk, risk_ms=at_ms)
        store.commit(Commit(place, next_place := Position(0, place.epoch, offset), [], [], [], [], edges=[made]))
        place = next_place
        (found,) = store.edges.find([name("boss").identity], outgoing=True, kinds={"called"})
        seen.append((found.risk, found.risk_ms - NOW))

    assert seen == [(0.2, 0), (0.8, 1), (0.8, 1), (0.3, 2 * day)]


def test_partitions_that_commit_together_may_bring_the_same_edge(store: SqlStore) -> None:
    """It counts as if one had come after the other; names may hold what PostgreSQL keeps in no text, or JSON quotes."""
    odd = 'nul \0 mark \1 quote " slash \\ \u2028'
    commits = []
    for partition, (risk, at_ms) in enumerate(((0.2, NOW + 7), (0.8, NOW + 1), (0.5, NOW + 9))):
        place = store.partitions.claim(partition)
        made = msgspec.structs.replace(edge("called", "boss", odd, at_ms), risk=risk, risk_ms=at_ms)
        edges = [made, edge("called", "boss", f"own-{partition}")]
        commits.append(Commit(place, Position(partition, place.epoch, 1), [], [], [], [], edges=edges))
    store.commit_all(commits)

    (found,) = store.edges.find([name(odd).identity], outgoing=False, kinds={"called"})
    all_of_boss = store.edges.find([name("boss").identity], outgoing=True, kinds={"called"})

    assert found == AgentEdge("acme", "https://as", "called", "boss", odd, NOW + 1, NOW + 1, 0.8, NOW + 1)
    assert {one.target for one in all_of_boss} == {odd, "own-0", "own-1", "own-2"}


def test_an_edge_does_not_depend_on_the_order_of_commits(store: SqlStore) -> None:
    """Nor on how often it is written: the row is what `merge_edges` makes of all."""
    dice, place, offset = random.Random(5), store.partitions.claim(0), 0
    for number in range(60):
        target = f"bot-{number}"
        seen = [
            msgspec.structs.replace(
                edge("called", "boss", target, NOW + dice.randrange(30) * HOUR // 7),
                risk=dice.randrange(21) / 20,
                risk_ms=NOW + dice.randrange(60) * HOUR // 7,
            )
            for _ in range(6)
        ]
        merged = reduce(merge_edges, seen)
        assert merged == reduce(merge_edges, dice.sample(seen, 6))
        for edges in (dice.sample(seen, 4), seen, dice.sample(seen, 3)):
            offset += 1
            next_place = Position(0, place.epoch, offset)
            store.commit(Commit(place, next_place, [], [], [], [], edges=edges))
            place = next_place
        assert store.edges.find([name(target).identity], outgoing=False, kinds={"called"}) == [merged]


def test_a_risk_keeps_every_bit_and_there_may_be_thousands_of_edges(store: SqlStore) -> None:
    """More than one statement takes."""
    place = store.partitions.claim(0)
    risks = [(number + 1) / 7_919 for number in range(5_003)]
    edges = [
        msgspec.structs.replace(edge("called", "hub", f"bot-{at}"), risk=risk, risk_ms=2**53 + at)
        for at, risk in enumerate(risks)
    ]
    store.commit(Commit(place, Position(0, place.epoch, 1), [], [], [], [], edges=edges))

    found = store.edges.find([name("hub").identity], outgoing=True, kinds={"called"}, limit=10_000)

    assert {one.target: (one.risk, one.risk_ms) for one in found} == {
        one.target: (one.risk, one.risk_ms) for one in edges
    }


def test_what_is_finished_goes_and_what_is_lowered_stays(store: SqlStore) -> None:
    """Otherwise nobody could restore it."""
    store.interventions.add(approval(1, status="rejected"))
    store.interventions.add(approval(2))
    store.actuations.request(actuation(1))
    store.actuations.request(actuation(1, agent=name("lowered")))
    store.actuations.keep_original("hydra", name("lowered"), b"x")

    assert store.retention.purge(RetentionCutoffs(others_ms=NOW + 1_000)).containment == 2

    assert store.interventions.get("I0002") is not None
    assert [one.agent.agent_id for one in store.actuations.page().items] == ["lowered"]
