"""The identity key of a database: a store of 0.1 gets one, every row is found under it, and no other key is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from tests.support.stored_rows import NOW, agent, commit, decision, said, step
from trustwatch.ingest.errors import ConfigError, Fenced
from trustwatch.ingest.identities import AgentHash, IdentityHasher, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.security_events import POLL_METHOD, EventStream, SecurityEvent
from trustwatch.scoring.store import identity_keys
from trustwatch.scoring.store.decision_store import verify_chains
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_schema import ACTUATIONS, AGENTS, OUTBOX
from trustwatch.scoring.store.sql_store import SqlStore

KEY, OTHER = IdentityHasher(b"k" * 32), IdentityHasher(b"o" * 32)
TENANT, ISSUER = "acme", "https://as.example"
BOT, PEER = (TENANT, ISSUER, "bot"), (TENANT, ISSUER, "peer")


class IdentitiesOf01(IdentityHasher):
    """Identities as 0.1 had them."""

    def agent_hash(self, tenant: str, issuer: str, agent_id: str) -> AgentHash:
        """The unkeyed hash; there was no second half."""
        return AgentHash(unkeyed_agent_key(tenant, issuer, agent_id), 0)

    def agent_key(self, tenant: str, issuer: str, agent_id: str) -> int:
        return unkeyed_agent_key(tenant, issuer, agent_id)

    def principal_key(self, tenant: str, issuer: str, principal: str) -> int:
        """An agent's, with a mark before its name."""
        return unkeyed_agent_key(tenant, issuer, f"principal\x1f{principal}")


@pytest.fixture
def old(store: SqlStore) -> SqlStore:
    """A store with rows of each kind, as 0.1 left them."""
    store.database.identities = IdentitiesOf01()
    bot, peer = (AgentName(unkeyed_agent_key(*name), *name) for name in (BOT, PEER))
    wanted = {"tenant": TENANT, "issuer": ISSUER, "agent_id": "bot", "agent_key": bot.key, "level": "high"}
    commit(
        store,
        agents=[agent(bot, 3), agent(peer, 1)],
        decisions=[decision(1, bot), decision(2, peer)],
        outbox=[OutboxRow("a1", "action", "kc", json.dumps(wanted).encode(), NOW, bot.key, "x", 3, TENANT)],
        edges=[
            AgentEdge(TENANT, ISSUER, "called", "bot", "peer", NOW, NOW),
            AgentEdge(TENANT, ISSUER, "acts_for", "bot", "ann", NOW, NOW),
        ],
    )
    store.outbox.route([DeliveryRoute("kc", "action", frozenset({3}), 0)], NOW)
    store.interventions.add(Intervention("I1", "pin", "active", bot, 2, (), "", "x", NOW, "", NOW, "", NOW * 2, 1))
    store.actuations.request(Actuation("kc", bot, 1, json.dumps(wanted).encode(), b"", "wanted", NOW, NOW, 0, NOW, ""))
    assert store.security_events.add_stream(EventStream("S1", "soc", "x", 1, 1, (), POLL_METHOD, "", "", ""), 1)
    assert store.security_events.add_verification(SecurityEvent("S1", "J1", b"{}", NOW, bot.key, TENANT), 100)
    judgement = said(1, agent=bot)
    store.feedback.add(judgement, step(judgement))
    return store


def keys_in(store: SqlStore) -> set[int]:
    """Every agent's key that stands in a row."""
    found: set[int] = set()
    with store.database.read() as connection:
        for table in (*identity_keys._NAMED_TABLES, *identity_keys._UNNAMED_TABLES):
            column = table.c.key if table is AGENTS else table.c.agent_key
            found |= {key % 2**64 for key in connection.scalars(select(column))}
        for blob in (*connection.scalars(select(OUTBOX.c.payload)), *connection.scalars(select(ACTUATIONS.c.desired))):
            if blob == b"{}":
                continue
            found.add(int(json.loads(blob)["agent_key"]))
    return found


def check_all(store: SqlStore, identities: IdentityHasher) -> None:
    """Everything is found by its agent's new key."""
    bot = AgentName(identities.agent_key(*BOT), *BOT)
    assert keys_in(store) == {identities.agent_key(*BOT), identities.agent_key(*PEER)}
    assert {row.name for row in store.agents.load([bot.key]).values()} == {bot}
    assert [one.decision_id for one in store.decisions.page(agent=bot).items] == ["D1"]
    assert [one.agent for one in store.interventions.list_open()] == [bot]
    found = store.actuations.get("kc", bot)
    assert found is not None and json.loads(found.desired)["agent_key"] == bot.key
    assert [one.agent for one in store.feedback.list_open()] == [bot]
    called = store.edges.find([BOT], outgoing=True, kinds={"called"})
    assert [edge.target for edge in called] == ["peer"]
    of_ann = store.edges.find([(TENANT, ISSUER, "ann")], outgoing=False, kinds={"acts_for"}, principals=True)
    assert [edge.source for edge in of_ann] == ["bot"]
    exported = {name for name, _ in store.subjects.export(ErasureSubject("agent", *BOT, "erased~1"))}
    assert exported == {
        "agents",
        "decisions",
        "outbox",
        "deliveries",
        "security_events",
        "interventions",
        "actuations",
        "feedback",
        "edges",
    }
    assert verify_chains(store.decisions, store.erasures).intact


def test_a_store_of_0_1_gets_a_key(old: SqlStore) -> None:
    """Every row is found under it, and the chain of decisions is as it was."""
    assert not old.has_identity_key()
    assert old.use_identities(KEY) > 0

    assert old.has_identity_key()
    check_all(old, KEY)
    assert old.use_identities(KEY) == 0


def test_another_key_is_refused_and_renewed_only_on_purpose(old: SqlStore) -> None:
    """Whoever has not the key of the database does not start; nothing has changed."""
    old.use_identities(KEY)
    with pytest.raises(ConfigError, match=r"not the identity key of this database.*identities renew"):
        old.use_identities(OTHER)
    check_all(old, KEY)

    assert old.use_identities(OTHER, renew=True) > 0
    check_all(old, OTHER)


def test_all_or_nothing(old: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that is killed half way leaves the store of 0.1."""
    before = keys_in(old)

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(identity_keys, "_change_edges", killed)
        with pytest.raises(KeyboardInterrupt):
            old.use_identities(KEY)
    assert keys_in(old) == before
    assert not old.has_identity_key()
    old.use_identities(KEY)
    check_all(old, KEY)


def test_edges_are_not_looked_for_without_the_key(old: SqlStore) -> None:
    """Who reads a database without its key is told, instead of finding nothing."""
    old.use_identities(KEY)
    old.database.identities = IdentityHasher()
    with pytest.raises(ConfigError, match="Copy the file `identity-key`"):
        old.edges.find([BOT], outgoing=True, kinds={"called"})


def test_agents_of_0_1_are_found_by_their_old_hash(old: SqlStore) -> None:
    """An order that 0.1 logged and did not apply names its agent so."""
    old.use_identities(KEY)

    assert old.agents.find_unkeyed(unkeyed_agent_key(*PEER)) == PEER
    assert old.agents.find_unkeyed(7) is None


def test_a_row_under_an_old_key_is_put_right(old: SqlStore) -> None:
    """A worker of 0.1 that was not stopped writes one after the migration: the next commit of the agent meets it."""
    old.use_identities(KEY)
    late = (TENANT, ISSUER, "late")
    commit(old, agents=[agent(AgentName(unkeyed_agent_key(*late), *late), 1)])
    commit(old, agents=[agent(AgentName(KEY.agent_key(*late), *late), 4)])

    found = old.agents.get(*late)
    assert found is not None
    assert (found.name.key, found.level) == (KEY.agent_key(*late), 4)


def test_an_old_worker_is_fenced(old: SqlStore) -> None:
    """Its commit is refused: the partition is another's."""
    at = old.partitions.position(0)
    old.use_identities(KEY)
    with pytest.raises(Fenced):
        old.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], [], [], []))


def test_names_of_ties_do_not_run_together(store: SqlStore) -> None:
    """A name may hold the mark that once stood between two names."""
    ties = [
        AgentEdge(TENANT, ISSUER, "delegated", "x\x1fy", "z", NOW, NOW),
        AgentEdge(TENANT, ISSUER, "delegated", "x", "y\x1fz", NOW, NOW),
    ]
    commit(store, edges=ties)

    for tie in ties:
        assert store.edges.find([(TENANT, ISSUER, tie.source)], outgoing=True, kinds={"delegated"}) == [tie]


def test_many_deliveries_are_no_matter(old: SqlStore) -> None:
    """Each row is looked at once, and changed by its primary key: alerts of one agent do not cost all others'."""
    bot = AgentName(unkeyed_agent_key(*BOT), *BOT)
    rows = [OutboxRow(f"m{n}", "alert", "", b"{}", NOW, bot.key, "x", 3, TENANT) for n in range(3_000)]
    old.outbox.enqueue(rows)
    while old.outbox.route([DeliveryRoute("soc", "alert", frozenset({3}), 0)], NOW):
        pass
    assert old.use_identities(KEY) > 6_000
    check_all(old, KEY)
