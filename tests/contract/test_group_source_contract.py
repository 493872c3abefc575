"""What holds for groups of several members, against a real broker: both clients pass all of this.

What a single member sees, of every log, is in `test_event_source_contract.py`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from confluent_kafka import Consumer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.kafka.confluent import client_connection
from trustwatch.ingest.kafka.kafka_python import consumers, retained_join
from trustwatch.ingest.record_keys import agent_partition_key, partition_of, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.protocols import TopicNames
from trustwatch.scoring.records.dead_letters import RefusedInput

from ..support.checkout import ROOT
from ..support.followers import poll_until
from ..support.kafka_topics import (
    CLIENTS,
    NOW_MS,
    TUNING,
    Member,
    event,
    foreign_producer,
    make_topic,
    open_admin,
    record,
    settings,
    write,
)
from ..support.nightly import is_nightly

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster
    from trustwatch.ingest.kafka.settings import KafkaClientSettings

pytestmark = pytest.mark.integration

Open = Callable[..., Any]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def join() -> Iterator[Open]:
    """Opens members that are closed after the test, failed or not: librdkafka waits for ever for one that is not."""
    with ExitStack() as members:

        def opened(*arguments: Any, kind: type[Member] = Member, **named: Any) -> Any:
            member = kind(*arguments, **named)
            members.callback(member.source.close)
            return member

        yield opened


def spread(partitions: int, number: int) -> list[Record]:
    """Records of agents that lie in all partitions."""
    return [record(i, f"agent-{i % 40}") for i in range(number)]


def test_members_share_the_partitions_and_every_record_comes_once(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Partitions that move are revoked before they are assigned, and read on from where the store says."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 4)
    journal: list[tuple[str, str, frozenset[int]]] = []
    stored: dict[int, int] = {}

    class Worker(Member):
        name = ""

        def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
            journal.append((self.name, "assigned", frozenset(partitions)))
            return {partition: stored.get(partition, 0) for partition in partitions}

        def revoked(self, partitions: Collection[int]) -> None:
            journal.append((self.name, "revoked", frozenset(partitions)))
            for partition in partitions:
                stored[partition] = (self.offsets.get(partition) or [stored.get(partition, 0) - 1])[-1] + 1

    def worker(name: str) -> Worker:
        made_worker: Worker = join(made, kind=Worker)
        made_worker.name = name
        return made_worker

    first = worker("first")
    write(made, spread(4, 200))
    poll_until(lambda: first.count == 200, first)
    second = worker("second")
    poll_until(lambda: len(first.source.owned()) == len(second.source.owned()) == 2, first, second)
    write(made, spread(4, 200))
    poll_until(lambda: first.count + second.count == 400, first, second)
    second.source.close()
    write(made, spread(4, 200))
    poll_until(lambda: first.count + second.count == 600, first)
    first.source.close()

    assert first.source.owned() == frozenset()
    moved = second.source.owned() | journal[1][2]
    assert journal == [
        ("first", "assigned", frozenset(range(4))),
        ("first", "revoked", moved),
        ("second", "assigned", moved),
        ("second", "revoked", moved),
        ("first", "assigned", moved),
        ("first", "revoked", frozenset(range(4))),
    ]
    for partition in range(4):
        offsets = sorted(first.offsets.get(partition, []) + second.offsets.get(partition, []))
        assert offsets == list(range(len(offsets)))


def test_a_join_that_ends_between_two_polls_counts(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Who polls briefly and works for long takes the group's answer with the next poll, and does not ask again."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 4)
    write(made, spread(4, 200))
    first, second = join(made), join(made)

    poll_briefly(lambda: len(first.source.owned()) == len(second.source.owned()) == 2, first, second)
    poll_briefly(lambda: first.count + second.count >= 200, first, second)
    moves = [list(member.log) for member in (first, second)]
    write(made, spread(4, 200))
    more = first.count + second.count + 200
    poll_briefly(lambda: first.count + second.count >= more, first, second)
    assert [member.log for member in (first, second)] == moves


def poll_briefly(done: Callable[[], Any], *members: Member, within_s: float = 90.0) -> None:
    """Poll members in turn, without waiting for anything, and with a pause in which the broker answers."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError([(member.log, member.count) for member in members])
        for member in members:
            member.step(timeout_s=0.0)
        time.sleep(0.3)


WITHOUT_S = 60
"""Time that members without the work-around do not come to an end in; with it they take seconds."""


@pytest.mark.skipif(not is_nightly(), reason=f"NOT RUN BY DAY: waits {WITHOUT_S} s; TRUSTWATCH_NIGHTLY=1 runs it")
def test_kafka_python_needs_the_work_around_for_joins(
    kafka: KafkaCluster, join: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without it takes minutes, in the release that is installed: where this fails it is mended. Then remove
    `kafka_python/retained_join.py`, the exact version in pyproject.toml, and this test."""
    monkeypatch.setattr(retained_join, "PATCHED_VERSION", "none")
    made = settings(kafka, "kafka-python")
    make_topic(kafka, made.topic_names.events, 4)
    first, second = join(made), join(made)
    with pytest.raises(TimeoutError):
        poll_briefly(
            lambda: len(first.source.owned()) == len(second.source.owned()) == 2, first, second, within_s=WITHOUT_S
        )


class BusyMember(Member):
    """A member whose take-over lasts, and which polls briefly for a moment after it, as workers do."""

    busy_until = 0.0

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        starts = super().assigned(partitions)
        time.sleep(0.3)
        self.busy_until = time.monotonic() + 0.05
        return starts

    def work(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.step(timeout_s=0.005 if time.monotonic() < self.busy_until else 0.2)


@pytest.mark.parametrize("delay_s", [0.0, 0.25, 0.5])
def test_who_comes_while_another_one_takes_over_gets_its_part(
    kafka: KafkaCluster, client: str, join: Open, delay_s: float
) -> None:
    """The leader of the group joins anew in the middle of its brief polls: it stays a member, and gives its part up."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 4)
    ended, threads = threading.Event(), []
    members = []
    try:
        for pause_s in (delay_s, 0.0):
            members.append(join(made, kind=BusyMember))
            threads.append(threading.Thread(target=members[-1].work, args=(ended,)))
            threads[-1].start()
            time.sleep(pause_s)
        deadline = time.monotonic() + 40.0
        while not all(len(member.source.owned()) == 2 for member in members):
            assert time.monotonic() < deadline, [member.log for member in members]
            time.sleep(0.05)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


DOOMED = """
import logging, sys, time, msgspec
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from tests.support.kafka_topics import Member
member = Member(msgspec.json.decode(sys.argv[1], type=KafkaClientSettings))
told = None
while True:
    member.step()
    if told != (told := sorted(member.source.owned())):
        print(time.ctime(), "owns", told, flush=True)
"""


@contextmanager
def member_process(made: KafkaClientSettings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A member that is a process of its own, and killed at the end; what it has and hears goes to the file *log*.

    To a file and not a pipe: a member that waits for its reader polls no more, and the group goes on without it.
    """
    command = [sys.executable, "-c", DOOMED, msgspec.json.encode(made).decode()]
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_the_partitions_of_a_killed_member_move(kafka: KafkaCluster, client: str, join: Open, tmp_path: Path) -> None:
    """kill -9: the others have everything after the session time limit."""
    made, log = settings(kafka, client), tmp_path / "doomed"
    make_topic(kafka, made.topic_names.events, 4)
    with member_process(made, log) as doomed:
        while "owns [0, 1, 2, 3]" not in log.read_text():
            assert doomed.poll() is None, log.read_text()
            time.sleep(0.1)
        heir = join(made)
        try:  # on a machine that stands still for seconds, the group expels the other, takes it in again, shares anew
            poll_until(lambda: len(heir.source.owned()) == 2, heir)
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
    poll_until(lambda: len(heir.source.owned()) == 4, heir)
    write(made, spread(4, 100))
    poll_until(lambda: heir.count == 100, heir)


def test_a_member_that_slept_is_told_that_its_partitions_are_lost(kafka: KafkaCluster, client: str, join: Open) -> None:
    """`lost`, not `revoked`: somebody else has worked on them; what it had fetched is not handed out.

    Where the group expels it just before it leaves by itself, librdkafka tells of one partition after the other, and
    hands out of the second in between: the store refuses that.
    """
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 2)
    lost: list[tuple[frozenset[int], int]] = []

    class Sleeper(Member):
        def lost(self, partitions: Collection[int]) -> None:
            lost.append((frozenset(partitions), self.count))

    sleeper = join(made, kind=Sleeper, tuning=TUNING._replace(max_poll_interval_ms=6_000))
    poll_until(lambda: len(sleeper.source.owned()) == 2, sleeper)
    write(made, spread(2, 100))
    poll_until(lambda: sleeper.count, sleeper)
    before = sleeper.count
    heir = join(made, tuning=TUNING._replace(max_poll_interval_ms=6_000))
    poll_until(lambda: len(heir.source.owned()) == 2, heir)  # the sleeper does not poll
    poll_until(lambda: frozenset().union(*(gone for gone, _ in lost)) == {0, 1}, sleeper, heir)
    assert [what for what, _ in sleeper.log if what == "revoked"] == []
    assert lost[0][1] == before
    if client == "kafka-python":
        assert {count for _, count in lost} == {before}
    poll_until(lambda: len(heir.source.owned()) == len(sleeper.source.owned()) == 1, heir, sleeper)
    write(made, spread(2, 100))
    more = sleeper.count + heir.count + 100  # at least: the heir may still read what the sleeper had read
    poll_until(lambda: sleeper.count + heir.count >= more, heir, sleeper)
    for offsets in [*sleeper.offsets.values(), *heir.offsets.values()]:
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


def test_reading_goes_on_after_the_broker_was_gone(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Meanwhile `poll` keeps its time, and questions end with Unavailable."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    write(made, spread(1, 10))
    member = join(made)
    poll_until(lambda: member.count == 10, member)

    kafka.kill()
    began = time.monotonic()
    for _ in range(5):
        assert member.source.poll(100, 0.2) is None
    assert time.monotonic() - began < 6
    began = time.monotonic()
    with pytest.raises(Unavailable):
        member.source.end_offset(0)
    assert time.monotonic() - began < 8
    with pytest.raises(Unavailable):
        member.source.read_id_hashes(0, 0, 5)

    kafka.start()
    write(made, spread(1, 10))
    poll_until(lambda: member.count == 20, member)
    assert member.offsets[0] == list(range(20))


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_leaving_keeps_its_time_though_the_broker_is_gone(
    kafka: KafkaCluster, client: str, join: Open, how: str
) -> None:
    """With positions on their way that nobody takes; the partitions are handed back on the thread that leaves."""
    made = settings(kafka, client, session_timeout_s=45.0)
    make_topic(kafka, made.topic_names.events, 2)
    write(made, spread(2, 100))
    member = join(made, kind=HandingBack)
    poll_until(lambda: member.count == 100, member)
    assert member.source.end_offset(0)
    if how == "killed":
        kafka.kill()
    else:
        kafka.pause_node(1)
    ends_s = time.monotonic() + 3.0
    while time.monotonic() < ends_s:
        member.step()
        member.source.note_position({0: member.offsets[0][-1] + 1})
    began_s = time.monotonic()
    member.source.close()
    assert time.monotonic() - began_s < 15.0
    assert (member.handed_back, member.source.owned()) == ([({0, 1}, threading.current_thread())], frozenset())


class HandingBack(Member):
    """Notes on which thread it hands partitions back."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.handed_back: list[tuple[set[int], threading.Thread]] = []
        super().__init__(*arguments, **named)

    def revoked(self, partitions: Collection[int]) -> None:
        self.handed_back.append(({*partitions}, threading.current_thread()))


def test_an_unused_poll_keeps_its_time(kafka: KafkaCluster, client: str, join: Open) -> None:
    """The pipeline has ticks and commits to do: None after about the time it gave."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    member = join(made)
    poll_until(member.source.owned, member)
    for timeout_s in (0.0, 0.3):
        began = time.monotonic()
        assert member.source.poll(10, timeout_s) is None
        assert timeout_s * 0.5 <= time.monotonic() - began < timeout_s + 0.5


def test_poison_becomes_dead_letters_at_its_offsets(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Whatever lies in the topic is handed out in order, and read a second time it is the same."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic, 2)
    route = agent_partition_key("t", "i", "a")
    home = partition_of(route, 2)
    inputs: list[tuple[bytes | None, list[tuple[str, bytes]]]] = [
        (b"\xff not json", []),
        (None, []),
        (
            event(1, next(n for n in map(str, range(99)) if partition_of(agent_partition_key("t", "i", n), 2) != home)),
            [],
        ),
        (b'{"id": "half', [("content-type", b"application/cloudevents+json")]),
        (event(2), [("ce_specversion", b"1.0"), ("ce_id", b"x")]),
        (event(3), [("tw", b"short")]),
    ]
    with foreign_producer(kafka) as producer:
        for value, headers in inputs:
            producer.send(topic, key=route, value=value, headers=headers, partition=home, timestamp_ms=NOW_MS)
    found = []
    for _ in range(2):
        member = join(msgspec.structs.replace(made, group_id=f"{made.group_id}-{len(found)}"))
        poll_until(lambda member=member: member.count == len(inputs), member)
        found.append(member.records[home])
        assert member.offsets[home] == list(range(len(inputs)))
    assert found[0] == found[1]
    kinds = [one.kind for one in found[0]]
    assert kinds == [RecordKind.DEAD] * 5 + [RecordKind.EVENT]
    letters = [msgspec.json.decode(one.payload, type=RefusedInput) for one in found[0][:5]]
    assert len({letter.letter_id for letter in letters}) == 5
    assert {(letter.source, letter.received_ms) for letter in letters} == {(f"topic:{topic}", NOW_MS)}
    told = [f"{letter.reason} {letter.path}" for letter in letters]
    for text, part in zip(
        told, ["JSON", "tombstone", f"belongs to partition {1 - home}", "JSON", "$.source"], strict=True
    ):
        assert part in text


def test_native_events_and_cloudevents_of_other_writers(kafka: KafkaCluster, client: str, join: Open) -> None:
    """JSON, structured and binary mode; keyed by agent with the partitioner that Kafka's producers have."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic, 4)
    route = agent_partition_key("t", "i", "a")
    binary = {"specversion": "1.0", "type": "io.trustwatch.audit.v1", "source": "urn:50%25", "id": "été 50%"}
    structured = msgspec.json.encode({**binary, "id": "s", "data": msgspec.Raw(event(2))})
    with foreign_producer(kafka) as producer:
        producer.send(topic, key=route, value=event(1), timestamp_ms=NOW_MS)
        producer.send(
            topic,
            key=route,
            value=structured,
            timestamp_ms=NOW_MS,
            headers=[("content-type", b"application/cloudevents+json; charset=UTF-8")],
        )
        headers = [(f"ce_{name}", value.encode()) for name, value in binary.items()]
        headers.append(("content-type", b"application/json"))
        producer.send(topic, key=route, value=event(3), headers=headers, timestamp_ms=NOW_MS)
    member = join(made)
    poll_until(lambda: member.count == 3, member)
    records = member.records[partition_of(route, 4)]
    assert [one.kind for one in records] == [RecordKind.EVENT] * 3
    assert [one.received_ms for one in records] == [NOW_MS] * 3
    named = [
        (decoded["source"], decoded["id"]) for decoded in map(msgspec.json.decode, (one.payload for one in records))
    ]
    assert named == [("urn:test", "e1"), ("urn:50%25", "s"), ("urn:50%25", "été 50%")]
    assert [one.id_hash for one in records] == [unkeyed_event_id_hash("t", *name, b"") for name in named]


def test_transactions_leave_gaps(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Aborted records are not seen; batches end before the gaps, and the next begins at its own offset."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    with foreign_producer(kafka, transactional_id=topic) as producer:
        producer.init_transactions()
        for first, end in ((0, 5), (5, 8), (8, 12)):
            producer.begin_transaction()
            for number in range(first, end):
                producer.send(topic, value=event(number), partition=0, timestamp_ms=NOW_MS)
            if first == 5:
                producer.flush()
                producer.abort_transaction()
            else:
                producer.commit_transaction()
    member = join(made)
    poll_until(lambda: member.count == 9, member)
    assert member.offsets[0] == [*range(5), *range(10, 14)]
    assert [msgspec.json.decode(one.payload)["id"] for one in member.records[0]] == [
        f"e{number}" for number in (*range(5), *range(8, 12))
    ]
    assert member.source.end_offset(0) == 15
    hashes = member.source.read_id_hashes(0, 0, 15)
    assert hashes.shape == (15,)
    assert not hashes.any()  # others wrote them


@pytest.mark.parametrize("codec", ["none", "gzip", "lz4", "zstd"])
def test_compressed_topics(kafka: KafkaCluster, client: str, join: Open, codec: str) -> None:
    """Records come out as they went in, from the middle of a batch too."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    records = [record(i) for i in range(500)]
    write(made, records, partition=0, tuning=TUNING._replace(compression=codec))  # type: ignore[arg-type]
    member = join(made, {0: 123})
    poll_until(lambda: member.count == 377, member)
    assert member.records[0] == [one._replace(key=b"") for one in records[123:]]


def test_a_full_partition_does_not_starve_the_others(kafka: KafkaCluster, client: str, join: Open) -> None:
    """The few records of three partitions come long before the last of the thousands of the fourth."""
    made = settings(kafka, client)
    tuning = TUNING._replace(fetch_max_bytes=1024 * 1024, partition_fetch_bytes=256 * 1024, compression="none")
    make_topic(kafka, made.topic_names.events, 4)
    write(made, [record(i) for i in range(40_000)], partition=0, tuning=tuning)
    for partition in (1, 2, 3):
        write(made, [record(i) for i in range(10)], partition=partition, tuning=tuning)
    member = join(made, tuning=tuning)
    poll_until(lambda: all(len(member.records.get(p, ())) == 10 for p in (1, 2, 3)), member)
    assert len(member.records.get(0, ())) < 35_000
    poll_until(lambda: member.count == 40_030, member)


def test_a_paused_partition_waits_for_a_seek(kafka: KafkaCluster, client: str, join: Open) -> None:
    """What was fetched of it is dropped, the others go on."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 2)
    for partition in (0, 1):
        write(made, [record(i) for i in range(100)], partition=partition)
    member = join(made)
    poll_until(lambda: 0 in member.records, member)
    member.source.pause(0)
    seen = len(member.records[0])
    poll_until(lambda: len(member.records.get(1, ())) == 100, member)
    write(made, [record(i) for i in range(100)], partition=0)
    for _ in range(10):
        member.step()
    assert len(member.records[0]) == seen
    assert 0 in member.source.owned()
    member.records[0], member.offsets[0] = [], []
    member.source.seek(0, 50)
    poll_until(lambda: member.offsets[0] == list(range(50, 200)), member)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, client: str) -> set[int]:
    """Partitions whose records the client hands to any source, be they handed on or not."""
    partitions: set[int] = set()

    class WatchedKafkaPython(KafkaConsumer):
        def poll(self, *arguments: Any, **named: Any) -> Any:
            found = super().poll(*arguments, **named)
            partitions.update(place.partition for place in found)
            return found

    class WatchedConfluent(Consumer):
        def consume(self, *arguments: Any, **named: Any) -> Any:
            found = super().consume(*arguments, **named)
            partitions.update(message.partition() for message in found if message.error() is None)
            return found

    if client == "confluent":
        monkeypatch.setattr(client_connection, "Consumer", WatchedConfluent)
    else:
        monkeypatch.setattr(consumers, "KafkaConsumer", WatchedKafkaPython)
    return partitions


class UnreadyMember(Member):
    """A member that has to get something before it reads any partition."""

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        super().assigned(partitions)
        return {}


def test_partitions_that_wait_are_not_even_fetched(
    kafka: KafkaCluster, client: str, join: Open, fetched: set[int]
) -> None:
    """Else all that comes would be read to be dropped; nor once the group has shared anew, until each is sought."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 4)
    unready = join(made, kind=UnreadyMember)
    poll_until(lambda: len(unready.source.owned()) == 4, unready)

    def write_everywhere() -> None:
        for partition in range(4):
            write(made, [record(i) for i in range(100)], partition=partition)
        for _ in range(10):
            unready.step()

    write_everywhere()
    assert (fetched, unready.count) == (set(), 0)
    ready = join(made)
    poll_until(lambda: len(unready.source.owned()) == len(ready.source.owned()) == 2, unready, ready)
    write_everywhere()
    poll_until(lambda: ready.count == 400, ready, unready)
    assert (fetched, unready.count) == (set(ready.source.owned()), 0)
    first, second = sorted(unready.source.owned())
    unready.source.seek(first, 150)
    poll_until(lambda: unready.count == 50, unready, ready)
    assert (second in fetched, unready.offsets) == (False, {first: list(range(150, 200))})
    unready.source.seek(second, 0)
    poll_until(lambda: unready.count == 250, unready, ready)
    assert unready.offsets[second] == list(range(200))


def test_a_static_member_that_comes_again_fences_the_old_one(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Two processes with one name are a mistake that both must not survive."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    old = join(made, member="worker-1")
    poll_until(old.source.owned, old)
    new = join(made, member="worker-1")
    poll_until(new.source.owned, new)
    with pytest.raises(Fenced, match="worker-1"):
        poll_until(lambda: False, old)
    new.source.close()
    old.source.close()


def test_positions_are_noted_for_lag_tools(kafka: KafkaCluster, client: str, join: Open) -> None:
    """Best effort: the group's offsets show where we are."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    write(made, spread(1, 10))
    member = join(made)
    poll_until(lambda: member.count == 10, member)
    place = TopicPartition(made.topic_names.events, 0)
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))) as admin:

        def noted() -> int | None:
            member.source.note_position({0: 10})
            groups = admin.list_group_offsets([made.group_id])
            found = groups[made.group_id].get(place)
            return None if found is None else found.offset

        poll_until(lambda: noted() == 10, member)


def test_topics_are_created_once_and_grow(kafka: KafkaCluster) -> None:
    """With the settings of the table; what is there already stays as it is."""
    made = settings(kafka)
    topics = TopicNames(*(f"{made.group_id}-{role}" for role in TopicNames._fields))
    with closing(open_admin(made)) as admin:
        assert sorted(admin.create_topics(topics, 2, 1)) == sorted(topics)
        assert admin.create_topics(topics, 4, 1) == []
        risk = admin.describe(topics.risk)
        assert risk is not None
        assert (risk.partitions, risk.replication, risk.configs["cleanup.policy"]) == (2, 1, "compact")
        admin.grow_partitions(topics.events, 4)
        deadline = time.monotonic() + 10.0
        while (grown := admin.describe(topics.events)) is None or grown.partitions != 4:  # a broker learns of it later
            assert time.monotonic() < deadline, grown
            time.sleep(0.1)
        assert admin.describe("there-is-none") is None
