"""An erased agent on the risk topic: its record ends, whatever crashes, and who acts again is somebody new."""

from __future__ import annotations

from typing import Any

from tests.support import stored_rows
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasedSubject, ErasureSubject
from trustwatch.ingest.topics.protocols import TopicNames
from trustwatch.scoring.pipeline.risk_topic_reader import RiskTopicReader
from trustwatch.scoring.pipeline.topic_publisher import ERASED_UP_TO_HEADER, TopicPublisher
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentRow, agent_summary
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.erasures import Erasure, PartitionErasure, erasure_pseudonym
from trustwatch.scoring.store.sql_store import SqlStore

AS, ID = "https://as", "01JERASURE0000000000000001"
BOT = ErasureSubject("agent", "acme", AS, "bot", erasure_pseudonym(ID))
NAME = AgentName(IdentityHasher().agent_key("acme", AS, "bot"), "acme", AS, "bot")
PARTITION = 3


class Writer:
    """A `TopicWriter` that keeps what is written to the risk topic."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send(
        self, topic: str, key: Any, value: Any, *, partition: Any = None, headers: Any = (), timestamp_ms: Any = 0
    ) -> None:
        self.sent.append((key, value, list(headers), partition))

    def flush(self, timeout_s: float) -> None:
        """All is written."""


def row(events: int) -> AgentRow:
    return stored_rows.agent(NAME, 1, events=events)


def publisher(store: SqlStore) -> tuple[TopicPublisher, Writer]:
    writer = Writer()
    made = TopicPublisher(writer, store, TopicNames(), LivePolicy(PolicyBook()), "https://service")  # type: ignore[arg-type]
    return made, writer


def commits(store: SqlStore, at: Position, offset: int, **more: Any) -> Commit:
    given = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []} | more
    made = Commit(at, Position(PARTITION, at.epoch, offset), **given)
    store.commit(made)
    return made


def follow(view: RiskView, follower: RiskTopicReader, writer: Writer) -> None:
    for key, value, headers, partition in writer.sent:
        follower.read_risk(key, value, headers, partition)
    for update in follower.drain_updates(with_freshness=False):
        for gone in update.forgotten:
            view.remove_up_to((gone.tenant, gone.issuer, gone.agent_id), gone.partition, gone.offset)
        view.apply(update.agents, update.partition, update.versions)


def test_replicas_forget_and_know_somebody_new(store: SqlStore) -> None:
    """One commit forgets and has the new agent: its record comes behind the tombstone."""
    sender, writer = publisher(store)
    first = commits(store, store.partitions.claim(PARTITION), 10, agents=[row(9)])
    sender.publish_risk(first.position, [agent_summary(row) for row in first.agents], ())
    met = PartitionErasure(ID, BOT, 12, 1000, True)
    second = commits(store, first.position, 20, agents=[row(1)], removed_agents=[NAME.key], erasures=[met])
    sender.publish_risk(second.position, [agent_summary(row) for row in second.agents], [met])
    view = RiskView()
    follow(view, RiskTopicReader(4), writer)

    assert [value is None for _, value, _, _ in writer.sent] == [False, True, False]
    assert writer.sent[1] == (BOT.partition_key, None, [(ERASED_UP_TO_HEADER, b"12")], PARTITION)
    entry = view.get("acme", AS, "bot")
    assert entry is not None and entry.summary.events == 1

    late = RiskTopicReader(4)
    late.read_risk(BOT.partition_key, None, [(ERASED_UP_TO_HEADER, b"12")], PARTITION)  # told again, after the new one
    follow(view, late, Writer())
    assert view.get("acme", AS, "bot") is not None
    late.read_risk(BOT.partition_key, None, [], PARTITION)  # anybody's
    late.read_risk(BOT.partition_key, None, [(ERASED_UP_TO_HEADER, b"20")], PARTITION)
    follow(view, late, Writer())
    assert view.get("acme", AS, "bot") is None


def test_a_crash_between_commit_and_topic(store: SqlStore) -> None:
    """Who takes over tells it; where the agent is another partition's, nobody does."""
    at = store.partitions.claim(PARTITION)
    store.erasures.add(Erasure(ID, "agent", "waiting", "acme", AS, "bot", "", "", "why", "who", 1))
    done = commits(store, at, 20, erasures=[PartitionErasure(ID, BOT, 12, 1000, True)])
    sender, writer = publisher(store)
    sender.republish(done.position, 10)
    assert [(key, value) for key, value, _, _ in writer.sent] == [(BOT.partition_key, None)]

    sender, writer = publisher(store)
    sender.republish(done.position, 13)
    assert writer.sent == []
    other = store.partitions.claim(1)
    store.commit(Commit(other, Position(1, 1, 5), [], [], [], [], erasures=[PartitionErasure(ID, BOT, 4, 1000, False)]))
    sender.republish(Position(1, 1, 5), 0)
    assert writer.sent == []
    assert store.erasures.erased_in_topic() == [ErasedSubject(BOT, {1: 4, PARTITION: 12})]
    assert {at: place.at_ms for at, place in store.erasures.forget_positions(ID).items()} == {1: 1000, PARTITION: 1000}


def test_an_order_that_the_database_does_not_know_begins_again(store: SqlStore) -> None:
    """A back-up was put back, and the topic has the order still."""
    commits(store, store.partitions.claim(PARTITION), 20, erasures=[PartitionErasure(ID, BOT, 12, 1000, True)])
    (found,) = store.erasures.list_open()

    assert (found.erasure_id, found.status, found.subject, found.at_ms) == (ID, "waiting", "bot", 1000)
    store.erasures.reset_topic()
    assert store.erasures.erased_in_topic() == []
    assert [one.status for one in store.erasures.list_open()] == ["queued"]
