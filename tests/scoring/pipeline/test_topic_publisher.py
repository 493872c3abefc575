"""What leaves by topics, and what followers make of it: a change once, again after a take-over; the newest wins."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support import stored_rows
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.topics.protocols import TopicNames
from trustwatch.scoring.pipeline.risk_topic_reader import RiskTopicReader, epoch_of_record
from trustwatch.scoring.pipeline.topic_publisher import ERASED_UP_TO_HEADER, Heartbeat, TopicPublisher, decision_event
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import (
    AgentName,
    AgentRow,
    Indicator,
    RiskLevel,
    RiskRecord,
    agent_summary,
    encode_indicators,
    risk_record,
    summary_from_record,
)
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.sql_store import SqlStore

from ...support.alert_receiver import DECISION

NOW = 1_764_000_000_000


class Sent(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None


class Topics:
    """A `TopicWriter` that keeps what is written."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.broken = self.full = False
        self.before_flush: Callable[[], None] = lambda: None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        if self.full:
            raise Unavailable("full")
        self.sent.append(Sent(topic, key, value, partition))

    def flush(self, timeout_s: float) -> None:
        """All is written, or some of it lost."""
        before, self.before_flush = self.before_flush, lambda: None
        before()
        if self.broken:
            raise Unavailable("broken")

    def partitions(self, topic: str) -> int:
        return 4

    def close(self) -> None:
        """Nothing is open."""

    def risk(self) -> list[tuple[str, str, int, int]]:
        """Agent, level, epoch and offset of the risk that was sent since the last call."""
        records = [msgspec.json.decode(one.value or b"", type=RiskRecord) for one in self.sent]
        self.sent = []
        return [(one.agent_id, one.risk_level, one.epoch, one.offset) for one in records]


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def publisher(store: SqlStore, topics: Topics) -> TopicPublisher:
    return TopicPublisher(topics, store, TopicNames(), LivePolicy(PolicyBook()), "https://tw")


def agent(number: int, level: int = RiskLevel.LOW, **more: Any) -> AgentRow:
    return stored_rows.agent(AgentName(number, "acme", "https://as", f"a{number}"), level, **more)


def commit(store: SqlStore, at: Position, offset: int, *rows: AgentRow) -> Commit:
    made = Commit(at, Position(at.partition, at.epoch, offset), list(rows), [], [], [])
    store.commit(made)
    return made


def publish(publisher: TopicPublisher, made: Commit) -> None:
    """Risk first, then the decisions."""
    publisher.publish_risk(made.position, [agent_summary(row) for row in made.agents], made.erasures)
    publisher.publish_commit(made)


def test_unchanged_risk_is_told_once_and_again_by_the_next_owner(
    store: SqlStore, topics: Topics, publisher: TopicPublisher
) -> None:
    """Also where the next owner is the one before: in between somebody else may have told something else."""
    first = commit(store, store.partitions.claim(2), 10, agent(1), agent(2))
    publisher.republish(first.expected, 0)
    publish(publisher, first)
    assert topics.risk() == [("a1", "low", 1, 10), ("a2", "low", 1, 10)]
    second = commit(store, first.position, 20, agent(1), agent(2, RiskLevel.HIGH))
    publish(publisher, second)
    assert topics.risk() == [("a2", "high", 1, 20)]
    assert publisher.unchanged == 1

    commit(store, store.partitions.claim(2), 30, agent(1, RiskLevel.HIGH))
    mine = store.partitions.claim(2)
    publisher.republish(mine, published=30)
    assert topics.risk() == []
    publish(publisher, commit(store, mine, 40, agent(1)))
    assert topics.risk() == [("a1", "low", 3, 40)]


def test_indicators_leave_with_the_risk_and_an_alert_links_to_the_console(store: SqlStore, topics: Topics) -> None:
    """Followers have them as the worker does; records of before had none. The alert is the outbox's, with a link."""
    publisher = TopicPublisher(
        topics, store, TopicNames(), LivePolicy(PolicyBook()), "https://tw", "https://tw/console"
    )
    told = encode_indicators([Indicator("network", "AS65537", "new", "2025-11-24T16:00:00.000Z")])
    row = agent(1, RiskLevel.HIGH, indicators=told)
    made = commit(store, store.partitions.claim(2), 10, row)
    publish(publisher, msgspec.structs.replace(made, decisions=[DECISION]))

    (risk,) = (one.value or b"" for one in topics.sent if one.topic == TopicNames().risk)
    assert summary_from_record(msgspec.json.decode(risk, type=RiskRecord), IdentityHasher()).indicators == told
    members = msgspec.json.decode(risk)
    del members["indicators"]
    older = msgspec.json.decode(msgspec.json.encode(members), type=RiskRecord)
    assert summary_from_record(older, IdentityHasher()).indicators == b"[]"
    (alert,) = (msgspec.json.decode(one.value or b"") for one in topics.sent if one.topic == TopicNames().alerts)
    assert alert["data"]["links"]["console"] == f"https://tw/console/decisions/{DECISION.decision_id}"
    assert alert["data"]["indicators"][0]["value"] == "AS65537"


def test_what_did_not_arrive_is_told_again(store: SqlStore, topics: Topics, publisher: TopicPublisher) -> None:
    """Who waits afterwards hears of a failure; then all that is not sure is sent again."""
    first = commit(store, store.partitions.claim(0), 10, agent(1))
    publish(publisher, first)
    publisher.wait_acknowledged()
    assert topics.risk() == [("a1", "low", 1, 10)]
    second = commit(store, first.position, 20, agent(1, RiskLevel.HIGH), agent(2))
    publish(publisher, second)
    publish(publisher, commit(store, store.partitions.claim(1), 5, agent(3)))
    told = topics.risk()
    assert len(told) == 3

    topics.broken = True
    for wait in (
        publisher.wait_acknowledged,
        lambda: publisher.write_dead_letters([]),
    ):  # whoever flushes first gets the error
        with pytest.raises(Unavailable):
            wait()
    topics.broken = False
    topics.sent = []
    publisher.write_dead_letters([])  # what it flushed was not the records that were lost
    publisher.wait_acknowledged()
    assert topics.risk() == told
    publisher.wait_acknowledged()
    assert topics.risk() == []


def test_a_record_that_is_not_taken_makes_those_that_wait_doubtful(
    store: SqlStore, topics: Topics, publisher: TopicPublisher
) -> None:
    """A producer that begins afresh forgets what it had."""
    publish(publisher, commit(store, store.partitions.claim(0), 10, agent(1)))
    told = topics.risk()
    topics.full = True
    with pytest.raises(Unavailable):
        publisher.publish_heartbeat(Position(0, 1, 10), 0, NOW)
    with pytest.raises(Unavailable):
        publisher.wait_acknowledged()
    topics.full = False
    publisher.wait_acknowledged()
    assert topics.risk() == told


LETTER = DeadLetter("l1", NOW, "topic:events", "no JSON", "", b"raw", 0, 3)


@pytest.mark.parametrize("what", ["dead letters", "decisions again", "all agents"])
def test_who_waits_beside_others_is_not_sure_of_what_they_were_told(
    store: SqlStore, topics: Topics, publisher: TopicPublisher, what: str
) -> None:
    """A writer raises a failure once to each that waits: a wait that begins behind it may have lost the records."""
    made = commit(store, store.partitions.claim(0), 10, agent(1))
    wait = {
        "dead letters": lambda: publisher.write_dead_letters([LETTER]),
        "decisions again": lambda: publisher.republish(made.position, published=0),
        "all agents": lambda: publisher.publish_all_agents(made.position),
    }[what]

    def others_first() -> None:
        topics.full = True
        publisher.publish_risk(made.position, [agent_summary(row) for row in made.agents], ())
        topics.full = False

    topics.before_flush = others_first
    with pytest.raises(Unavailable, match="may be one of these"):
        wait()
    wait()


def test_a_wait_that_another_thread_spoils_is_told_before_the_next_one(
    topics: Topics, publisher: TopicPublisher
) -> None:
    """Both flush one writer: the second begins once the first has noted that records are lost."""
    began, flushed = threading.Event(), iter((True, False))

    def fail_first(_: float) -> None:
        if next(flushed):
            began.set()
            time.sleep(0.2)
            raise Unavailable("broken")

    topics.flush = fail_first  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as other:
        first = other.submit(publisher.write_dead_letters, [LETTER])
        assert began.wait(10)
        with pytest.raises(Unavailable, match="may be one of these"):
            publisher.write_dead_letters([LETTER])
        with pytest.raises(Unavailable, match="broken"):
            first.result()


def test_a_broker_that_takes_nothing_holds_up_nobody(
    store: SqlStore, topics: Topics, publisher: TopicPublisher
) -> None:
    """Publishing goes on without an error; no sign of life says that readers have it; the newest of each leaves."""
    first, second = (commit(store, store.partitions.claim(0), at, agent(1, level)) for at, level in ((10, 3), (20, 4)))
    topics.full = True
    publish(publisher, first)
    topics.full = False
    publish(publisher, second)
    assert topics.sent == []
    with pytest.raises(Unavailable):
        publisher.publish_heartbeat(Position(0, 2, 20), 0, NOW)
    publisher.wait_acknowledged()
    assert topics.risk() == [("a1", "critical", 2, 20)]
    publisher.publish_heartbeat(Position(0, 2, 20), 0, NOW)
    assert len(topics.sent) == 1


def test_who_has_lost_a_partition_sends_nothing_more_of_it(
    store: SqlStore, topics: Topics, publisher: TopicPublisher
) -> None:
    """Its owner may have told something newer by the time that a broker takes records again."""
    first, other = (commit(store, store.partitions.claim(at), 10, agent(at)) for at in (1, 2))
    topics.full = True
    for made in (first, other):
        publish(publisher, made)
    topics.full = False
    publisher.forget_partition(1)
    publisher.wait_acknowledged()
    assert topics.risk() == [("a2", "low", 1, 10)]


def test_all_risk_is_told_in_a_new_epoch(store: SqlStore, topics: Topics, publisher: TopicPublisher) -> None:
    """After a restore a follower that knows the lost future comes back to what is stored."""
    lost = commit(store, store.partitions.claim(0), 10, agent(1), agent(2, RiskLevel.CRITICAL))
    commit(store, store.partitions.claim(1), 5, agent(3))
    publish(publisher, Commit(lost.expected, Position(0, 7, 90), [agent(1, RiskLevel.HIGH)], [], [], []))
    view, follower = RiskView(), RiskTopicReader(2)

    def follow() -> dict[str, int]:
        for one in topics.sent:
            follower.read_risk(one.key, one.value)
        for update in follower.drain_updates(with_freshness=False):
            view.apply(update.agents, update.partition, update.versions)
        found = (view.get("acme", "https://as", f"a{number}") for number in (1, 2, 3))
        return {entry.summary.name.agent_id: entry.summary.level for entry in found if entry is not None}

    assert follow() == {"a1": RiskLevel.HIGH}
    assert max(epoch_of_record(one.value) for one in topics.sent) == 7
    topics.sent = []
    told = [publisher.publish_all_agents(store.partitions.set_position(partition, 4, above=7)) for partition in (0, 1)]
    assert told == [2, 1]
    assert follow() == {"a1": RiskLevel.LOW, "a2": RiskLevel.CRITICAL, "a3": RiskLevel.LOW}
    assert sorted(topics.risk()) == [("a1", "low", 8, 4), ("a2", "critical", 8, 4), ("a3", "low", 9, 4)]


def test_epoch_of_what_is_no_risk() -> None:
    """Tombstones, and records of others."""
    values = (None, b"", b"[]", b'{"epoch": "x"}', b'{"epoch": 3}')
    assert [epoch_of_record(value) for value in values] == [0, 0, 0, 0, 3]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**30])
def test_no_number_of_a_record_ends_those_who_read_it(number: int) -> None:
    """Such a record is counted and left out: what reads the topic goes on, also when it begins anew."""
    sound = risk_record(agent_summary(agent(1)), 0, 1, 5)
    beat = Heartbeat(0, 1, 5, 0, 1)
    follower = RiskTopicReader(2)
    values = [
        json.loads(msgspec.json.encode(record)) | {name: number}
        for record in (sound, beat)
        for name, value in json.loads(msgspec.json.encode(record)).items()
        if isinstance(value, int)
    ]
    for value in values:
        follower.read_risk(b"{}" if "type" in value else b'["acme","https://as","a1"]', json.dumps(value).encode())
    follower.read_risk(b'["acme","https://as","a1"]', None, [(ERASED_UP_TO_HEADER, str(number).encode())])

    assert follower.unreadable_records == len(values) >= 12
    assert epoch_of_record(json.dumps({"epoch": number}).encode()) == 0
    assert all(msgspec.msgpack.encode(update) for update in follower.drain_updates(with_freshness=True))


def test_announced_paths_go_with_an_agents_risk(store: SqlStore, topics: Topics, publisher: TopicPublisher) -> None:
    """A key that is newly announced is told at once; records of before have none."""
    publisher.republish(store.partitions.claim(2), 0)
    for paths in (b"", b"", b"\x01\xff", b"\x01\xff"):
        publisher.publish_risk(
            Position(2, 1, 10), [agent_summary(agent(1, announced_paths=paths, capabilities=paths and b'["pay"]'))], ()
        )
    told = [msgspec.json.decode(record.value or b"", type=RiskRecord) for record in topics.sent]
    assert [record.announced_paths for record in told] == [b"", b"\x01\xff"]
    assert summary_from_record(told[1], IdentityHasher()).announced_paths == b"\x01\xff"
    assert [summary_from_record(record, IdentityHasher()).capabilities for record in told] == [b"", b'["pay"]']
    members = msgspec.json.decode(topics.sent[1].value or b"")
    del members["announced_paths"], members["capabilities"]
    assert msgspec.json.decode(msgspec.json.encode(members), type=RiskRecord).announced_paths == b""


def test_a_decision_event_has_every_member_of_the_decision() -> None:
    """Their order and bytes are what readers and archives have had: those of the decision, then the agent's names."""
    written = decision_event(DECISION, "https://tw")

    plain = msgspec.json.decode(msgspec.json.encode(DECISION))
    agent = plain.pop("agent")
    levels = {"previous_level": "medium", "level": "critical"}
    names = {name: agent[name] for name in ("tenant", "issuer", "agent_id")} | {"agent_key": str(agent["key"])}
    event = {
        "specversion": "1.0",
        "id": DECISION.decision_id,
        "type": "io.trustwatch.decision.v1",
        "source": "https://tw",
        "subject": DECISION.agent.agent_id,
        "time": "2025-11-24T16:00:00.123Z",
        "datacontenttype": "application/json",
        "data": plain | levels | names,
    }
    assert written == msgspec.json.encode(event)
    assert list(json.loads(written)["data"])[:2] == ["decision_id", "agent_type"]
