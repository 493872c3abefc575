"""What every store promises. A new implementation adds its way of being opened to `opener` and nothing else."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from trustwatch.ingest.errors import ConfigError, Fenced
from trustwatch.scoring.records.agents import AgentName, AgentRow, AgentSummary, DueAgent, RiskLevel
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.agent_store import AgentQuery
from trustwatch.scoring.store.database import BadCursor, iterate_pages
from trustwatch.scoring.store.outbox_store import DeliveryRoute, DeliverySettlement
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ..support import stored_rows

Opener = Callable[[Path, int], SqlStore]


MAX_LETTERS = 5
NOW = 1_764_000_000_000
ALL = frozenset(map(int, RiskLevel))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "sqlite":
        return lambda folder, letters: open_store(sqlite_url(folder / "store.db"), letters)
    url = str(request.getfixturevalue("postgres_store_url"))
    return lambda _folder, letters: open_store(url, letters)


@pytest.fixture
def store(opener: Opener, tmp_path: Path) -> Iterator[SqlStore]:
    store = opener(tmp_path, MAX_LETTERS)
    yield store
    store.close()


def agent(agent_id: str, tenant: str = "acme", **values: object) -> AgentRow:
    whole: dict[str, object] = {
        "features": b"\x00\xff state",
        "concern": "overreach",
        "announced_paths": b"\x00\xff path",
        "capabilities": b'["pay"]',
    }
    return msgspec.structs.replace(stored_rows.agent(stored_rows.name(agent_id, tenant), 1), **(whole | values))


def decision(number: int, name: AgentName, **values: object) -> Decision:
    reason = RiskReason("first_seen_resource", "resource_rarity", "acct-9", "42 known", 0.4, "first use of acct-9")
    whole: dict[str, object] = {
        "decision_id": f"D{number:04}",
        "event_id": f"evt-{number}",
        "reasons": (reason,),
        "counterfactual": "medium if …",
        "feature_vector": {"pace": 1.5, "rarity": 0.1},
        "evidence": {"statistic": 3.25, "window": [1, 2]},
    }
    return msgspec.structs.replace(stored_rows.decision(number, name), **(whole | values))


def alert(number: int, **values: object) -> OutboxRow:
    row = OutboxRow(f"alert-{number}", "alert", "", b"{}", NOW + number, 7, "burst", 3, "acme")
    return msgspec.structs.replace(row, **values)


def letter(number: int, source: str = "gw", room: str = "acme") -> DeadLetter:
    raw = b"\xfe\x00raw"
    return DeadLetter(f"L{number:04}", NOW + number, source, "not JSON", "$", raw, 0, number, room=room)


def write(store: SqlStore, partition: int = 0, **parts: object) -> int:
    """Commit *parts* one offset further, `offset` among them says how far; returns the number of dropped letters."""
    at = store.partitions.position(partition)
    at = store.partitions.claim(partition) if at.epoch == 0 else at
    empty: dict[str, object] = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    new = Position(partition, at.epoch, parts.pop("offset", at.offset + 1))  # type: ignore[arg-type]
    return store.commit(Commit(expected=at, position=new, **(empty | parts)))  # type: ignore[arg-type]


# Positions and commits


def test_unclaimed_partition(store: SqlStore) -> None:
    """A partition nobody claimed is at epoch 0, offset 0, and cannot be committed to."""
    assert store.partitions.position(4) == Position(4, 0, 0)

    with pytest.raises(Fenced):
        store.commit(Commit(Position(4, 0, 0), Position(4, 0, 1), [], [], [], []))


def test_claim_raises_epoch(store: SqlStore) -> None:
    """Each claim raises the epoch by one and keeps the offset; other partitions are not touched."""
    assert store.partitions.claim(0) == Position(0, 1, 0)
    write(store)

    assert store.partitions.claim(0) == Position(0, 2, 1)
    assert store.partitions.position(1) == Position(1, 0, 0)


@pytest.mark.parametrize("wrong", [Position(0, 1, 1), Position(0, 2, 0), Position(0, 2, 2), Position(0, 3, 1)])
def test_fenced_commit_writes_nothing(store: SqlStore, wrong: Position) -> None:
    """A commit that expects another epoch or offset is refused whole."""
    write(store)
    store.partitions.claim(0)  # the position is now (epoch 2, offset 1)
    row = agent("a")
    new = Position(0, wrong.epoch, 9)
    late = Commit(wrong, new, [row], [decision(1, row.name)], [alert(1)], [letter(1)], published=wrong.offset)

    with pytest.raises(Fenced, match="partition 0"):
        store.commit(late)

    assert (store.partitions.position(0), store.partitions.published_offset(0)) == (Position(0, 2, 1), 0)
    assert store.agents.load([row.name.key]) == {}
    assert store.decisions.page().items == []
    assert store.outbox.route([DeliveryRoute("t", "alert", ALL, 0)], NOW) == 0
    assert store.dead_letters.count() == (0, 0)


def test_commits_of_several_partitions(store: SqlStore) -> None:
    """In one transaction, each by its own position: what is refused is not written, and holds nobody up."""
    places = [store.partitions.claim(partition) for partition in (0, 1, 2)]
    names = "abc"
    commits = []
    for at, name in zip(places, names, strict=True):
        number, row = at.partition, agent(name)
        new = Position(number, at.epoch, 5 + number)
        commits.append(Commit(at, new, [row], [decision(number, row.name)], [alert(number)], [letter(number)]))
    store.partitions.claim(1)
    results = store.commit_all([commits[2], commits[1], commits[0]])
    assert [type(result) for result in results] == [int, Fenced, int]
    assert store.partitions.list_positions() == [Position(0, 1, 5), Position(1, 2, 0), Position(2, 1, 7)]
    assert set(store.agents.load([agent(name).name.key for name in names])) == {agent(name).name.key for name in "ac"}
    assert len(store.decisions.page().items) == 2
    assert store.dead_letters.count() == (2, 0)
    versions = [
        (one.epoch, one.offset) for partition in (0, 2) for one in store.agents.iterate_unpublished(partition, 0)
    ]
    assert len(versions) == 2

    bad = Commit(store.partitions.position(2), Position(2, 1, 9), [agent("d", risk_score=None)], [], [], [])
    good = Commit(store.partitions.position(0), Position(0, 1, 9), [agent("e")], [], [], [])
    with pytest.raises(Exception, match=r"(?i)null"):
        store.commit_all([good, bad])
    assert store.partitions.position(0) == Position(0, 1, 5)
    assert store.agents.load([agent("e").name.key]) == {}


@pytest.mark.parametrize("new", [Position(1, 1, 5), Position(0, 2, 5), Position(0, 1, 0)])
def test_commit_moves_forward_only(store: SqlStore, new: Position) -> None:
    """A commit may not change partition or epoch, nor go back."""
    write(store)

    with pytest.raises(ValueError, match="moves the offset"):
        store.commit(Commit(store.partitions.position(0), new, [], [], [], []))


def test_commit_is_all_or_nothing(store: SqlStore) -> None:
    """An error in the middle of a commit leaves neither rows nor the position behind."""
    good, bad = agent("good"), agent("bad", risk_score=None)

    with pytest.raises(Exception, match=r"(?i)null"):
        write(store, agents=[good, bad])

    assert store.partitions.position(0) == Position(0, 1, 0)
    assert store.agents.load([good.name.key]) == {}


def test_racing_commits(store: SqlStore) -> None:
    """Of many threads that commit on the same expectation, exactly one wins."""
    at = store.partitions.claim(0)
    barrier = threading.Barrier(6)

    def race(number: int) -> bool:
        barrier.wait()
        try:
            store.commit(Commit(at, Position(0, at.epoch, 1), [agent("a", events=number)], [], [], []))
        except Fenced:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(race, range(6)))

    assert won.count(True) == 1
    assert next(iter(store.agents.load([agent("a").name.key]).values())).events == won.index(True)


# Agents


@pytest.mark.parametrize("key", [1, 2**63 - 1, 2**63, 2**64 - 1])
def test_unsigned_keys(store: SqlStore, key: int) -> None:
    """Every unsigned 64-bit key comes back as it was."""
    row = agent("a", name=AgentName(key, "acme", "i", "a"))

    write(store, agents=[row])

    assert store.agents.load([key]) == {key: row}
    assert [found.name.key for found in store.agents.iterate()] == [key]


def test_upsert_replaces_all_but_name(store: SqlStore) -> None:
    """The last commit of an agent is what is stored, and only once."""
    write(store, agents=[agent("a")])
    newer = agent("a", level=4, risk_score=0.99, features=b"", due_ms=7, decision_id="D", reasons=b'[{"code":"x"}]')

    write(store, agents=[newer])

    assert list(store.agents.load([newer.name.key]).values()) == [newer]
    assert len(list(store.agents.iterate())) == 1


def test_agents_in_batches(store: SqlStore) -> None:
    """More keys than fit into one statement are looked up; unknown ones are left out."""
    rows = [agent(f"a{number}") for number in range(1_203)]
    write(store, agents=rows)
    wanted = [row.name.key for row in rows] + [12345]

    assert store.agents.load(wanted) == {row.name.key: row for row in rows}
    assert store.agents.load([]) == {}


def test_agents_of_a_partition_in_pages(store: SqlStore) -> None:
    """In the order of their keys as signed numbers, whatever their names are; of no other partition, and no other's."""
    keys = (2**63, 2**64 - 2, 2**64 - 1, 5, 6, 2**63 - 1)
    rows = [agent(f"a\0{key}\1", name=AgentName(key, "acme", "https://as.example", f"a\0{key}\1")) for key in keys]
    write(store, agents=rows)
    write(store, 1, agents=[agent("elsewhere")])
    mine = store.partitions.position(0)
    pages, after = [], None
    while page := store.agents.states_of_partition(mine, after, 2).rows:
        pages.append(page)
        after = page[-1].name.key
    assert [row for page in pages for row in page] == rows
    assert [len(page) for page in pages] == [2, 2, 2]
    store.partitions.claim(0)
    with pytest.raises(Fenced):
        store.agents.states_of_partition(mine, None, 2)


def test_due(store: SqlStore) -> None:
    """Due agents come in order of time, at most *limit*, and the next call goes on behind the last one."""
    rows = [agent(f"a{number}", due_ms=due) for number, due in enumerate([0, 30, 10, 20, 20, 20, 99])]
    write(store, agents=rows)

    first = store.agents.due(30, 2)
    rest = store.agents.due(30, 10, after=first[-1])

    assert [item.due_ms for item in first + rest] == [10, 20, 20, 20, 30]
    assert {item.key for item in first + rest} == {row.name.key for row in rows[1:6]}
    assert store.agents.due(9, 10) == []
    assert store.agents.due(10, 10) == [DueAgent(10, rows[2].name.key)]


def test_summaries_in_chunks(store: SqlStore) -> None:
    """The iterator gives every agent once, whatever the chunk, and no state blobs."""
    rows = [agent(f"a{number}") for number in range(25)]
    write(store, agents=rows)

    found = list(store.agents.iterate(chunk=4))

    assert sorted(one.name.agent_id for one in found) == sorted(row.name.agent_id for row in rows)
    assert all(isinstance(one, AgentSummary) for one in found)
    assert not hasattr(found[0], "features")


def test_agent_by_name(store: SqlStore) -> None:
    """An agent is found by tenant, issuer and id; a caller of another tenant finds nothing."""
    row = agent("spiffe://x/y z")
    write(store, agents=[row])

    assert store.agents.get("acme", "https://as", "spiffe://x/y z") == row
    assert store.agents.get("acme", "https://as", "spiffe://x/y z", tenants={"acme"}) == row
    assert store.agents.get("acme", "https://as", "spiffe://x/y z", tenants={"other"}) is None
    assert store.agents.get("acme", "https://as", "nobody") is None


def test_find_agents(store: SqlStore) -> None:
    """The same id at several tenants is found once each, as far as the caller may see."""
    write(store, agents=[agent("same", "a"), agent("same", "b"), agent("else", "a")])

    assert [found.name.tenant for found in store.agents.find("same")] == ["a", "b"]
    assert [found.name.tenant for found in store.agents.find("same", tenants={"b", "c"})] == ["b"]
    assert store.agents.find("same", tenants=set()) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (AgentQuery(), "a/p-1 a/p-2 a/q-1 b/P-9 b/p-1 b/p_1"),
        (AgentQuery(tenants={"b"}), "b/P-9 b/p-1 b/p_1"),
        (AgentQuery(tenants=set()), ""),
        (AgentQuery(levels={3, 4}), "a/p-2 b/p-1"),
        (AgentQuery(levels=set()), ""),
        (AgentQuery(agent_type="Clerk"), "a/q-1"),
        (AgentQuery(prefix="p-"), "a/p-1 a/p-2 b/p-1"),
        (AgentQuery(prefix="p_"), "b/p_1"),
        (AgentQuery(prefix="%"), ""),
        (AgentQuery(tenants={"a", "b"}, levels={3}, prefix="p"), "a/p-2"),
    ],
)
def test_list_agents(store: SqlStore, query: AgentQuery, expected: str) -> None:
    """Filters combine; a prefix is plain text and keeps upper and lower case apart; pages of any size give the same."""
    rows = [
        agent("p-1", "a"),
        agent("p-2", "a", level=3),
        agent("q-1", "a", agent_type="Clerk"),
        agent("P-9", "b"),
        agent("p-1", "b", level=4),
        agent("p_1", "b"),
    ]
    write(store, agents=rows)
    found: list[str] = []
    cursor = None
    while True:
        page = store.agents.page(msgspec.structs.replace(query, limit=2, cursor=cursor))
        found += [f"{one.name.tenant}/{one.name.agent_id}" for one in page.items]
        assert len(page.items) <= 2
        if (cursor := page.next_cursor) is None:
            break

    assert found == expected.split()


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_agents_by_risk(store: SqlStore, limit: int) -> None:
    """Level by level; above low by score, else by name. Pages of any size give the same."""
    risks = {"a": (1, 0.2), "b": (0, 0.0), "c": (4, 0.9), "d": (4, 0.97), "e": (2, 0.5), "f": (1, 0.25), "g": (3, 0.5)}
    rows = [
        agent(one, "x" if one in "dg" else "y", level=level, risk_score=score) for one, (level, score) in risks.items()
    ]
    write(store, agents=[*rows, agent("c", "x", level=4, risk_score=0.9)])

    def listed(query: AgentQuery) -> str:
        pages = iterate_pages(lambda cursor: store.agents.page(msgspec.structs.replace(query, cursor=cursor)))
        return " ".join(f"{one.name.tenant}{one.name.agent_id}" for one in pages)

    by_risk = AgentQuery(order="risk", limit=limit)
    assert listed(by_risk) == "xd xc yc xg ye ya yf yb"
    assert listed(msgspec.structs.replace(by_risk, tenants={"x"})) == "xd xc xg"
    assert listed(msgspec.structs.replace(by_risk, levels={1, 4})) == "xd xc yc ya yf"
    assert len(store.agents.page(by_risk).items) == min(limit, 8)
    with pytest.raises(BadCursor):
        store.agents.page(msgspec.structs.replace(by_risk, cursor=store.agents.page(AgentQuery(limit=1)).next_cursor))


@pytest.mark.parametrize("cursor", ["", "!", "bm90IGpzb24", "WzFd", "WyJhIiwiYiIsM10", "é"])
def test_bad_cursor(store: SqlStore, cursor: str) -> None:
    """A cursor that the store did not give out is refused, not guessed at."""
    with pytest.raises(BadCursor):
        store.agents.page(AgentQuery(cursor=cursor))
    with pytest.raises(BadCursor):
        store.decisions.page(cursor=cursor)


# Decisions


def test_decision_comes_back_whole(store: SqlStore) -> None:
    """A decision is read as it was written, by a caller of its tenant only."""
    row = decision(1, agent("a").name)
    write(store, decisions=[row])

    assert store.decisions.get("D0001") == row
    assert store.decisions.get("D0001", tenants={"acme"}) == row
    assert store.decisions.get("D0001", tenants={"x"}) is None
    assert store.decisions.get("D0002") is None


def test_decisions_newest_first(store: SqlStore) -> None:
    """Lists are newest first, by agent and by tenant, and pages join without gap or repetition."""
    a, b = agent("a").name, agent("b", "beta").name
    write(store, decisions=[decision(number, a if number % 2 else b) for number in range(9)])

    first = store.decisions.page(limit=4)
    second = store.decisions.page(limit=4, cursor=first.next_cursor)
    third = store.decisions.page(limit=4, cursor=second.next_cursor)

    assert [one.offset for page in (first, second, third) for one in page.items] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert third.next_cursor is None
    assert [one.offset for one in store.decisions.page(agent=a).items] == [7, 5, 3, 1]
    assert [one.offset for one in store.decisions.page(tenants={"beta"}).items] == [8, 6, 4, 2, 0]
    assert store.decisions.page(tenants={"beta"}, agent=a).items == []


def test_repeated_ids_are_written_once(store: SqlStore) -> None:
    """The same decision, outbox key or dead letter in a second commit changes nothing: the first one stands."""
    name = agent("a").name
    write(store, decisions=[decision(1, name)], outbox=[alert(1)], dead_letters=[letter(1)])

    write(store, decisions=[decision(1, name, level=4)], outbox=[alert(1, payload=b"x")], dead_letters=[letter(1)])

    assert [one.level for one in store.decisions.page().items] == [3]
    assert store.dead_letters.count() == (1, 0)
    assert store.outbox.route([DeliveryRoute("t", "alert", ALL, 0)], NOW) == 1
    assert [one.row.payload for one in store.outbox.lease("t", NOW, 9, 1)] == [b"{}"]


def test_not_finite_features_are_refused(store: SqlStore) -> None:
    """A feature that is no number cannot be written as JSON, so the commit fails rather than lose it."""
    with pytest.raises(ValueError, match="'pace' is nan"):
        write(store, decisions=[decision(1, agent("a").name, feature_vector={"pace": float("nan")})])


# Dead letters


def test_dead_letters(store: SqlStore) -> None:
    """Dead letters keep their bytes, are listed newest first by source, and are marked once."""
    write(store, dead_letters=[letter(1), letter(2, "other"), letter(3)])

    assert [one.offset for one in store.dead_letters.page().items] == [3, 2, 1]
    assert [one.offset for one in store.dead_letters.page(sources={"gw"}).items] == [3, 1]
    assert store.dead_letters.mark_replayed(["L0003", "nobody"], NOW) == 1
    assert store.dead_letters.mark_replayed(["L0003"], NOW + 9) == 0
    found = store.dead_letters.get("L0003")
    assert found is not None
    assert found == msgspec.structs.replace(letter(3), replayed_ms=NOW)
    assert store.dead_letters.get("L0003", sources={"other"}) is None
    assert [one.offset for one in store.dead_letters.page(replayed=False).items] == [2, 1]
    assert [one.offset for one in store.dead_letters.page(replayed=True).items] == [3]


def test_each_tenant_has_its_own_room_for_dead_letters(store: SqlStore) -> None:
    store.max_dead_letters = 3
    write(store, dead_letters=[letter(number) for number in range(3)])
    store.dead_letters.mark_replayed(["L0000"], NOW)
    mixed = [letter(10, room="globex"), letter(11), letter(12, room="globex"), letter(13), letter(14, room="")]

    assert write(store, dead_letters=mixed) == 1
    assert sorted(one.offset for one in store.dead_letters.page().items) == [1, 2, 10, 11, 12, 14]


def test_full_dead_letters_are_counted(store: SqlStore) -> None:
    """When there is no room the old ones stay, the new ones are counted, and the caller is told how many."""
    assert write(store, dead_letters=[letter(number) for number in range(4)]) == 0
    assert write(store, dead_letters=[letter(number) for number in range(4, 8)]) == 3
    assert write(store, dead_letters=[letter(4), letter(9)]) == 1

    assert store.dead_letters.count() == (5, 4)
    assert [one.offset for one in store.dead_letters.page().items] == [4, 3, 2, 1, 0]


def test_replayed_letters_make_way(store: SqlStore) -> None:
    """A full store gives up letters that were replayed before it drops a new one."""
    write(store, dead_letters=[letter(number) for number in range(5)])
    store.dead_letters.mark_replayed(["L0000", "L0001"], NOW)

    assert write(store, dead_letters=[letter(7), letter(8), letter(9)]) == 1
    assert [one.offset for one in store.dead_letters.page().items] == [8, 7, 4, 3, 2]


# Outbox


def route(target: str = "t", levels: frozenset[int] = ALL, cooldown_ms: int = 0) -> DeliveryRoute:
    return DeliveryRoute(target, "alert", levels, cooldown_ms)


def states(store: SqlStore, target: str | None = None) -> list[tuple[str, str, int]]:
    found = store.outbox.page(target=target).items
    return [(one.key, one.status, one.suppressed_before) for one in reversed(found)]


def test_routing(store: SqlStore) -> None:
    """A row goes to every target that takes its kind and level, or to the one that it names."""
    rows = [alert(1), alert(2, level=1), alert(3, kind="actuator"), alert(4, target="b"), alert(5, target="gone")]
    write(store, outbox=rows)

    assert store.outbox.route([route("a", frozenset({3})), route("b")], NOW) == 5
    assert store.outbox.route([route("a"), route("b"), route("c")], NOW) == 0
    assert states(store, "a") == [("alert-1", "pending", 0)]
    assert states(store, "b") == [("alert-1", "pending", 0), ("alert-2", "pending", 0), ("alert-4", "pending", 0)]
    assert states(store, "gone") == [("alert-5", "dead", 0)]
    counts = Counter((item.target, item.status) for item in store.outbox.page().items)
    assert counts == {("a", "pending"): 1, ("b", "pending"): 3, ("gone", "dead"): 1}


def test_lease_is_exclusive_until_it_runs_out(store: SqlStore) -> None:
    """A leased row is nobody else's; when the lease runs out it is handed out again as the next attempt."""
    write(store, outbox=[alert(1), alert(2), alert(3)])
    store.outbox.route([route()], NOW)

    first = store.outbox.lease("t", NOW, 2, 1_000)
    second = store.outbox.lease("t", NOW, 2, 1_000)
    again = store.outbox.lease("t", NOW + 1_000, 9, 1_000)

    assert [one.row.key for one in first + second] == ["alert-1", "alert-2", "alert-3"]
    assert first[0].row == alert(1)
    assert [(one.row.key, one.attempt) for one in again] == [("alert-1", 2), ("alert-2", 2), ("alert-3", 2)]
    assert store.outbox.lease("other", NOW, 9, 1_000) == []


def test_racing_leases(store: SqlStore) -> None:
    """Several dispatchers at once never get the same row."""
    write(store, outbox=[alert(number) for number in range(40)])
    store.outbox.route([route()], NOW)

    with ThreadPoolExecutor(4) as pool:
        taken = [
            one.seq for rows in pool.map(lambda _: store.outbox.lease("t", NOW, 5, 1_000), range(8)) for one in rows
        ]

    assert len(taken) == 40
    assert len(set(taken)) == 40


def test_settling(store: SqlStore) -> None:
    """Delivered and failed rows are over, a retried one is due at its time; a lease that was lost has no say."""
    write(store, outbox=[alert(1), alert(2), alert(3)])
    store.outbox.route([route()], NOW)
    one, two, three = store.outbox.lease("t", NOW, 9, 100)
    store.outbox.lease("t", NOW + 100, 1, 100)  # alert-1 again: its first lease is lost

    store.outbox.settle(
        [
            DeliverySettlement(one.seq, "t", one.attempt, "failed", 0, "too late", NOW),
            DeliverySettlement(two.seq, "t", two.attempt, "delivered", 0, "", NOW + 50),
            DeliverySettlement(three.seq, "t", three.attempt, "pending", NOW + 500, "HTTP 503", NOW + 50),
        ]
    )
    settled = {item.key: item for item in store.outbox.page().items}

    assert settled["alert-1"].status == "pending"
    assert (settled["alert-2"].status, settled["alert-2"].delivered_ms) == ("delivered", NOW + 50)
    assert (settled["alert-3"].status, settled["alert-3"].last_error) == ("pending", "HTTP 503")
    assert store.outbox.next_due_ms("t") == NOW + 200
    assert store.outbox.next_due_ms("other") is None
    assert [item.row.key for item in store.outbox.lease("t", NOW + 500, 9, 100)] == ["alert-1", "alert-3"]


def test_delivery_list(store: SqlStore) -> None:
    """Delivery states are listed newest first by tenant, status and target, in pages."""
    write(store, outbox=[alert(1), alert(2, tenant="beta"), alert(3)])
    store.outbox.route([route("a"), route("b")], NOW)

    first = store.outbox.page(limit=4)
    second = store.outbox.page(limit=4, cursor=first.next_cursor)
    listed = [(one.key[-1], one.target) for one in first.items + second.items]

    assert listed == [("3", "b"), ("3", "a"), ("2", "b"), ("2", "a"), ("1", "b"), ("1", "a")]
    assert [one.key for one in store.outbox.page(tenants={"beta"}, target="a").items] == ["alert-2"]
    assert store.outbox.page(status="delivered").items == []
    assert store.outbox.page(tenants={"nobody"}).items == []


def test_deliveries_of_one_agent_or_row(store: SqlStore) -> None:
    """Found by the agent that they are about, with a key beyond the signed numbers, and by their own key."""
    write(store, outbox=[alert(1), alert(2, agent_key=2**64 - 5), alert(3, agent_key=2**64 - 5)])
    store.outbox.route([route("a"), route("b")], NOW)
    mine = AgentName(2**64 - 5, "acme", "i", "a")

    assert [one.key for one in store.outbox.page(agent=mine, target="a").items] == ["alert-3", "alert-2"]
    assert [(one.target, one.payload) for one in store.outbox.page(key="alert-1").items] == [
        ("b", b"{}"),
        ("a", b"{}"),
    ]
    assert store.outbox.page(agent=msgspec.structs.replace(mine, key=7), key="alert-2").items == []


def test_enqueued_rows(store: SqlStore) -> None:
    """They are routed like those of commits; a key that is there already is left out."""
    store.outbox.enqueue([])
    store.outbox.enqueue([alert(1), alert(2)])
    store.outbox.enqueue([alert(2, payload=b"new"), alert(3)])
    store.outbox.route([route("a")], NOW)

    assert states(store) == [("alert-1", "pending", 0), ("alert-2", "pending", 0), ("alert-3", "pending", 0)]
    assert {one.payload for one in store.outbox.page().items} == {b"{}"}


def test_overtaken_deliveries(store: SqlStore) -> None:
    """By a delivered one about the same agent at the same target, of any reason; requests of people stand outside."""
    rows = [alert(1), alert(2, group="drift"), alert(3, group=""), alert(4, agent_key=8), alert(5), alert(6, group="")]
    write(store, outbox=rows)
    store.outbox.route([route("a"), route("b")], NOW)
    leased = {target: store.outbox.lease(target, NOW, 9, 1000) for target in "ab"}
    seqs = [one.seq for one in leased["a"]]
    assert store.outbox.superseded("a", seqs) == store.outbox.superseded("a", []) == set()

    ended = [DeliverySettlement(seqs[place], "a", 1, "delivered", 0, "", NOW) for place in (4, 5)]
    store.outbox.settle([*ended, DeliverySettlement(seqs[5], "b", 1, "delivered", 0, "", NOW)])
    assert store.outbox.superseded("a", seqs) == {seqs[0], seqs[1]}
    assert store.outbox.superseded("a", seqs[1:]) == {seqs[1]}
    assert store.outbox.superseded("b", seqs) == set()


def test_suppressed_deliveries_say_why(store: SqlStore) -> None:
    """By cool-down from the start, or settled so with a reason of the notifier."""
    write(store, outbox=[alert(1), alert(2)])
    store.outbox.route([route("a", cooldown_ms=60_000)], NOW)
    (leased,) = store.outbox.lease("a", NOW, 9, 1000)
    store.outbox.settle([DeliverySettlement(leased.seq, "a", leased.attempt, "suppressed", 0, "no use for it", NOW)])

    found = {one.key: (one.status, one.last_error[:9]) for one in store.outbox.page().items}
    assert found == {"alert-1": ("suppressed", "no use fo"), "alert-2": ("suppressed", "cool-down")}
    assert store.outbox.lease("a", NOW + 10**9, 9, 1000) == []


def test_cooldown(store: SqlStore) -> None:
    """Within the cool-down of agent and reason alerts are suppressed and counted; the next one says how many."""
    minute = 60_000
    times = [0, 10, 59, 60, 61, 200]
    write(store, outbox=[alert(n, created_ms=NOW + at * 1000) for n, at in enumerate(times)])
    store.outbox.route([route(cooldown_ms=minute)], NOW)

    sent = [(key, before) for key, status, before in states(store) if status == "pending"]
    assert (sent, len(states(store))) == ([("alert-0", 0), ("alert-3", 2), ("alert-5", 1)], 6)


def test_cooldown_keys_and_escalation(store: SqlStore) -> None:
    """Another agent, another reason, no reason or a higher level is never suppressed; the same level again is."""
    others = [alert(2, agent_key=8), alert(3, group="drift"), alert(7, group=""), alert(8, group="")]
    levels = [alert(4, level=4), alert(5, level=4), alert(6, level=1)]
    write(store, outbox=[alert(1), *others, *levels])
    store.outbox.route([route(cooldown_ms=1_000_000)], NOW)

    suppressed = [key for key, status, _ in states(store) if status == "suppressed"]
    assert (suppressed, len(states(store))) == (["alert-5", "alert-6"], 8)


def test_cooldown_counts_from_what_arrived(store: SqlStore) -> None:
    """After an alert that failed for good the next one is sent, not suppressed."""
    write(store, outbox=[alert(1)])
    store.outbox.route([route(cooldown_ms=1_000_000)], NOW)
    (one,) = store.outbox.lease("t", NOW, 1, 1)
    store.outbox.settle([DeliverySettlement(one.seq, "t", one.attempt, "failed", 0, "HTTP 400", NOW)])

    write(store, outbox=[alert(2)])
    store.outbox.route([route(cooldown_ms=1_000_000)], NOW)

    assert states(store)[-1] == ("alert-2", "pending", 0)


def test_expiry(store: SqlStore) -> None:
    """Pending rows beyond the maximum age are given up, with their last error; one under way is left alone."""
    write(store, outbox=[alert(1), alert(2)])
    store.outbox.route([route()], NOW)
    one, _two = store.outbox.lease("t", NOW, 2, 5_000)
    store.outbox.settle([DeliverySettlement(one.seq, "t", 1, "pending", NOW + 10, "HTTP 500", NOW)])

    assert store.outbox.expire(NOW, NOW + 100) == 0
    assert store.outbox.expire(NOW + 1, NOW + 100) == 1
    found = {item.key: item for item in store.outbox.page().items}
    assert found["alert-1"].status == "dead"
    assert found["alert-1"].last_error.endswith("last error: HTTP 500")
    assert found["alert-2"].status == "pending"


def test_stopped_targets(store: SqlStore) -> None:
    """A stop is remembered with the configuration it was for."""
    store.outbox.stop_target("t", "f1", NOW, "HTTP 410")
    store.outbox.stop_target("t", "f2", NOW, "HTTP 410")

    assert store.outbox.stopped_targets() == {"t": "f2"}


def silence(heard_ms: int) -> OutboxRow:
    return alert(0, key=f"silent-gw-{heard_ms}")


def test_a_silence_is_told_once(store: SqlStore) -> None:
    """However often it is noticed; a new one after the source was heard is another."""
    store.outbox.record_last_heard("gw", NOW)
    assert [store.outbox.enqueue_silence("gw", NOW + 5, silence) for _ in range(3)] == [True, True, True]
    store.outbox.record_last_heard("gw", NOW + 20)
    assert not store.outbox.enqueue_silence("gw", NOW + 19, silence)
    assert store.outbox.enqueue_silence("gw", NOW + 20, silence)
    assert store.outbox.enqueue_silence("never", NOW, lambda heard_ms: alert(0, key=f"silent-never-{heard_ms}"))

    assert store.outbox.route([route("t")], NOW) == 3
    told = {one.row.key for one in store.outbox.lease("t", NOW, 9, 1)}
    assert told == {f"silent-gw-{NOW}", f"silent-gw-{NOW + 20}", "silent-never-0"}
    assert store.dead_letters.count() == (0, 0)


def test_a_source_that_another_process_hears_is_not_silent(store: SqlStore) -> None:
    """The latest time counts, whoever notes it and in whatever order."""
    store.outbox.record_last_heard("gw", NOW + 20)
    store.outbox.record_last_heard("gw", NOW)

    assert not store.outbox.enqueue_silence("gw", NOW + 10, silence)
    assert store.outbox.enqueue_silence("other", NOW + 10, lambda _: alert(1))
    assert store.outbox.route([route("t")], NOW) == 1


def test_racing_tellers_of_a_silence(store: SqlStore) -> None:
    """Of processes that notice it at the same moment one enqueues it."""
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: store.outbox.enqueue_silence("gw", NOW, silence), range(16)))

    assert store.outbox.route([route("t")], NOW) == 1


# Several partitions


def test_due_of_one_partition(store: SqlStore) -> None:
    """Each partition is asked for its own agents; where an agent belongs is where it was committed last."""
    write(store, agents=[agent("a", due_ms=5), agent("b", due_ms=6)])
    write(store, 3, agents=[agent("b", due_ms=7), agent("c", due_ms=4)])

    a, b, c = (agent(name).name.key for name in "abc")
    assert store.agents.due(9, 10) == [DueAgent(5, a)]
    assert store.agents.due(9, 10, partition=3) == [DueAgent(4, c), DueAgent(7, b)]
    assert store.agents.due(9, 10, DueAgent(4, c), partition=3) == [DueAgent(7, b)]
    assert store.agents.due(9, 10, partition=1) == []


def test_published_never_goes_back(store: SqlStore) -> None:
    """What a commit says is published is kept per partition; a lower number changes nothing, a later claim neither."""
    assert store.partitions.published_offset(0) == 0
    write(store, offset=10)
    write(store, offset=20, published=10)
    write(store, offset=30, published=4)
    write(store, offset=40)

    assert store.partitions.published_offset(0) == 10
    store.partitions.claim(0)
    assert store.partitions.published_offset(0) == 10
    assert store.partitions.published_offset(1) == 0


def test_a_publication_is_noted_by_its_owner_alone(store: SqlStore) -> None:
    """It never goes back, and who lost the partition notes nothing."""
    write(store, offset=10)
    write(store, offset=20, partition=1)
    store.partitions.note_published([Position(1, 1, 20), Position(0, 1, 10)])
    store.partitions.note_published([Position(0, 1, 9), Position(1, 0, 30), Position(2, 0, 5)])
    assert [store.partitions.published_offset(partition) for partition in range(3)] == [10, 20, 0]

    store.partitions.claim(0)
    store.partitions.note_published([Position(0, 1, 15)])
    assert store.partitions.published_offset(0) == 10


def test_nothing_is_published_before_it_is_committed(store: SqlStore) -> None:
    """A commit cannot say that its own rows have left already."""
    write(store, offset=10)

    with pytest.raises(ValueError, match="cannot be published"):
        write(store, offset=20, published=11)

    assert store.partitions.position(0).offset == 10


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_unpublished_agents(store: SqlStore, chunk: int) -> None:
    """Agents come with the epoch and offset of the commit that wrote them, if that is above the offset asked for."""
    write(store, agents=[agent("old"), agent("kept", level=2)], offset=10)
    write(store, agents=[agent("new")], offset=20)
    store.partitions.claim(0)
    write(store, agents=[agent("old", level=4), agent("big")], offset=30)
    write(store, 1, agents=[agent("foreign")], offset=99)

    def versions(after: int) -> dict[str, tuple[int, int, int]]:
        found = list(store.agents.iterate_unpublished(0, after, chunk))
        assert len({one.agent.name for one in found}) == len(found)
        return {one.agent.name.agent_id: (one.agent.level, one.epoch, one.offset) for one in found}

    late = {"old": (4, 2, 30), "big": (1, 2, 30)}
    assert versions(30) == {}
    assert versions(29) == late
    assert versions(20) == late
    assert versions(10) == late | {"new": (1, 1, 20)}
    assert versions(0) == late | {"new": (1, 1, 20), "kept": (2, 1, 10)}


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_unpublished_decisions(store: SqlStore, chunk: int) -> None:
    """Decisions come in the order of their records, from those of the first commit above the offset asked for."""
    name = agent("a").name
    first = [decision(1, name, offset=3), decision(2, name, offset=9)]
    second = [decision(5, name, offset=12), decision(3, name, offset=12), decision(4, name, offset=10)]
    write(store, decisions=first, offset=10)
    write(store, decisions=second, offset=20)
    write(store, 1, decisions=[decision(9, name, partition=1, offset=50)], offset=99)

    assert list(store.decisions.iterate_unpublished(0, 20, chunk)) == []
    assert list(store.decisions.iterate_unpublished(0, 10, chunk)) == [second[2], second[1], second[0]]
    assert list(store.decisions.iterate_unpublished(0, 0, chunk)) == [*first, second[2], second[1], second[0]]


def test_positions(store: SqlStore) -> None:
    """Every claimed partition is listed by number."""
    assert store.partitions.list_positions() == []
    store.partitions.claim(11)
    write(store, 2, offset=7)

    assert store.partitions.list_positions() == [Position(2, 1, 7), Position(11, 1, 0)]


def test_set_position(store: SqlStore) -> None:
    """A position that is set fences the owner and has the highest epoch of all; nothing is published by it."""
    write(store, offset=10)
    write(store, offset=20, published=7)
    for _ in range(4):
        store.partitions.claim(1)
    late = Commit(store.partitions.position(0), Position(0, 1, 30), [], [], [], [])

    assert store.partitions.set_position(0, 9) == Position(0, 5, 9) == store.partitions.position(0)
    assert store.partitions.published_offset(0) == 7
    assert store.partitions.set_position(0, 5) == Position(0, 6, 5)
    assert store.partitions.published_offset(0) == 5
    with pytest.raises(Fenced):
        store.commit(late)
    assert store.partitions.set_position(7, 0) == Position(7, 7, 0) == store.partitions.position(7)
    assert store.partitions.claim(7) == Position(7, 8, 0)


def test_set_position_above_an_epoch(store: SqlStore) -> None:
    """For epochs that only the topics know: the one that is set lies above, be there positions or none."""
    assert (
        store.partitions.set_position(1, 0, above=10**12) == Position(1, 10**12 + 1, 0) == store.partitions.position(1)
    )
    assert store.partitions.set_position(0, 5, above=3) == Position(0, 10**12 + 2, 5)
    assert store.partitions.claim(1) == Position(1, 10**12 + 2, 0)


def test_going_back_leaves_nothing_to_tell(store: SqlStore) -> None:
    """A lower position is that of another topic, at whose offsets nothing old is told again."""
    write(store, agents=[agent("a")], decisions=[decision(1, agent("a").name, offset=3)], offset=10)
    write(store, 1, agents=[agent("b")], decisions=[decision(2, agent("b").name, partition=1, offset=3)], offset=10)

    store.partitions.set_position(0, 2)

    assert list(store.decisions.iterate_unpublished(0, 0)) == []
    assert list(store.agents.iterate_unpublished(0, 2)) == []
    assert [one.agent.name.agent_id for one in store.agents.iterate_unpublished(0, -1)] == ["a"]
    assert (
        len(list(store.decisions.iterate_unpublished(1, 0))) == len(list(store.agents.iterate_unpublished(1, 2))) == 1
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_repartition(store: SqlStore, chunk: int) -> None:
    """Every agent goes where it is told to, once; what was published is not published again, and what was not is."""
    write(store, agents=[agent(name, due_ms=5) for name in "abcd"], offset=10)
    write(store, published=10, offset=20)
    write(store, agents=[agent("e")], offset=30)
    places = {"a": 0, "b": 1, "c": 2, "d": 1, "e": 2}

    assert store.partitions.repartition(lambda name: places[name.agent_id], chunk) == 4
    assert store.partitions.repartition(lambda name: places[name.agent_id], chunk) == 0

    counts = {partition: len(store.agents.due(9, 10, partition=partition)) for partition in range(4)}
    assert counts == {0: 1, 1: 2, 2: 1, 3: 0}
    assert [one.agent.name.agent_id for one in store.agents.iterate_unpublished(2, 0)] == ["e"]
    assert list(store.agents.iterate_unpublished(1, 0)) == []
    assert store.agents.load([agent("b").name.key]) == {agent("b").name.key: agent("b", due_ms=5)}


# The rest


def test_meta(store: SqlStore) -> None:
    """Values of the key/value table are set, overwritten, and defaulted once."""
    assert store.metadata.get("salt") is None
    assert store.metadata.put_default("salt", "one") == "one"
    assert store.metadata.put_default("salt", "two") == "one"
    store.metadata.put("salt", "three")

    assert store.metadata.get("salt") == "three"
    for key in ("ended/001/a", "ended/009/b", "ended/010/C", "ended/1", "endee"):
        store.metadata.put(key, "")
    store.metadata.delete_range("ended/", "ended/010")
    assert sorted(store.metadata.find("ende")) == ["ended/010/C", "ended/1", "endee"]


def test_purge(store: SqlStore) -> None:
    """Old and finished rows go in chunks of any size; current decisions and what is pending or waits stay."""
    name = agent("a").name
    write(
        store,
        agents=[agent("a", decision_id="D0002")],
        decisions=[decision(number, name) for number in range(7)],
        outbox=[alert(number) for number in range(3)],
        dead_letters=[letter(number) for number in range(3)],
    )
    store.outbox.route([route()], NOW)
    first, second, _third = store.outbox.lease("t", NOW, 3, 1)
    store.outbox.settle([DeliverySettlement(item.seq, "t", 1, "delivered", 0, "", NOW) for item in (first, second)])
    store.dead_letters.mark_replayed(["L0000", "L0002"], NOW)

    cutoffs = RetentionCutoffs(decisions_ms=NOW + 6, others_ms=NOW + 6)
    assert store.retention.purge(cutoffs, chunk=2) == (5, 2, 2, 0, 0, 0, 0, 0)
    assert [one.decision_id for one in store.decisions.page().items] == ["D0006", "D0002"]
    assert states(store) == [("alert-2", "pending", 0)]
    assert [one.letter_id for one in store.dead_letters.page().items] == ["L0001"]
    assert store.retention.purge(cutoffs) == (0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("chunk", [1, 2, 1_000])
def test_purge_of_agents(store: SqlStore, chunk: int) -> None:
    """Calm agents that were not seen for long go, with the decision that was their current one; all others stay."""
    old = {"last_seen_ms": NOW - 5, "evaluated_ms": NOW - 5}
    gone = [agent(f"gone-{number}", level=number % 2, decision_id=f"D{number:04}", **old) for number in range(3)]
    kept = [
        agent("high", level=2, **old),
        agent("due", due_ms=NOW, **old),
        agent("seen", **old | {"last_seen_ms": NOW}),
        agent("evaluated", **old | {"evaluated_ms": NOW}),
    ]
    write(store, agents=gone + kept, decisions=[decision(1, gone[1].name)])

    assert store.retention.purge(RetentionCutoffs(), chunk).agents == 0
    cutoffs = RetentionCutoffs(decisions_ms=NOW + 2, agents_ms=NOW)
    assert store.retention.purge(cutoffs, chunk) == (1, 0, 0, 3, 0, 0, 0, 0)
    assert {one.name.agent_id for one in store.agents.iterate()} == {"high", "due", "seen", "evaluated"}


def test_upkeep(store: SqlStore) -> None:
    """Decisions are found, listed and kept apart whether room was made for their time or not, before or after."""
    name = agent("a").name
    before, after = decision(1, name), decision(2, name)
    far = [decision(3, name, decided_ms=0), decision(4, name, decided_ms=NOW * 9)]
    write(store, decisions=[before, *far])
    store.retention.prepare_weeks(NOW)
    write(store, decisions=[before, after, *far])
    store.retention.prepare_weeks(NOW)

    assert [one.decision_id for one in store.decisions.page().items] == ["D0004", "D0002", "D0001", "D0003"]
    assert store.decisions.get("D0001") == before
    assert [one.decision_id for one in store.decisions.page(agent=name, limit=2).items] == ["D0004", "D0002"]


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\1b", "\1" + "0", "\x01" + "1", "\x010\0", "ü\U0010ffff\0"])
def test_any_character(store: SqlStore, text: str) -> None:
    """Text with control characters is kept as it is, finds its agent, and is no other agent's."""
    rows = [agent(text, tenant=text, agent_type=text, counterfactual=text), agent(text + "x"), agent("a0b"), agent("0")]
    many = [agent(f"{text}{number}") for number in range(100)]  # enough for another way of writing
    made = decision(1, rows[0].name, event_id=text, counterfactual=text)
    broken = msgspec.structs.replace(letter(1), source=text, reason=text, path=text)
    write(store, agents=rows + many, decisions=[made], dead_letters=[broken], outbox=[alert(1, group=text)])

    wanted = rows + many
    assert store.agents.load([row.name.key for row in wanted]) == {row.name.key: row for row in wanted}
    assert [one.name for one in store.agents.find(text)] == [rows[0].name]
    assert store.agents.get(text, "https://as", text) == rows[0]
    assert len(store.agents.page(AgentQuery(prefix=text, limit=500)).items) == 102
    ids = [one.name.agent_id for one in store.agents.page(AgentQuery(limit=500, tenants={"acme"})).items]
    assert ids == sorted(ids)
    assert store.decisions.page(tenants={text}).items == [made]
    assert [one for one in store.dead_letters.page(sources={text}).items] == [broken]


def test_reopened_store_has_everything(opener: Opener, tmp_path: Path) -> None:
    """What was committed is there after closing and opening again."""
    first = opener(tmp_path, MAX_LETTERS)
    write(first, agents=[agent("a")], outbox=[alert(1)])
    first.close()

    second = opener(tmp_path, MAX_LETTERS)
    try:
        assert second.partitions.position(0) == Position(0, 1, 1)
        assert second.agents.load([agent("a").name.key]) == {agent("a").name.key: agent("a")}
        assert second.outbox.route([route()], NOW) == 1
    finally:
        second.close()


def test_a_copy_is_one_moment_of_a_file_and_a_server_has_programs_of_its_own(store: SqlStore, tmp_path: Path) -> None:
    """The copy stands alone, while the original goes on."""
    if store.database.engine.dialect.name != "sqlite":
        with pytest.raises(ConfigError, match="pg_dump"):
            store.database.copy_to(tmp_path / "copy.db")
        return
    claimed = store.partitions.claim(0)
    store.database.copy_to(tmp_path / "copy.db")
    store.partitions.claim(0)
    assert sorted(path.name for path in tmp_path.glob("copy.db*")) == ["copy.db"]
    copy = open_store(sqlite_url(tmp_path / "copy.db"))
    try:
        assert copy.partitions.position(0) == claimed
    finally:
        copy.close()
