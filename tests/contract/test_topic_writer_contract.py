"""What holds for every `TopicWriter` and `TopicReader`, against a real broker: both clients pass all of this."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec
import pytest

from trustwatch.api.cli.history_input import history_converter, history_files
from trustwatch.api.settings.access_settings import ForeignTopicSettings, KafkaSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.kafka.kafka_python.client_connection import KafkaTokenProvider, connection_options
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaSecuritySettings, KafkaTuning
from trustwatch.ingest.log.event_log import LogFailed
from trustwatch.ingest.record_keys import partition_of
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.source import TopicWriter
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.ingest.topics.protocols import TopicReader
from trustwatch.ingest.topics.record_codec import TopicRecord, headers_for
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog

from ..support.endpoint import Endpoint
from ..support.followers import poll_until
from ..support.format_samples import LINES
from ..support.kafka_topics import (
    CLIENTS,
    NOW_MS,
    TUNING,
    Member,
    event,
    foreign_producer,
    make_topic,
    open_admin,
    open_reader,
    open_writer,
    record,
    settings,
)

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

pytestmark = pytest.mark.integration
CLOUDTRAIL = LINES / "aws_cloudtrail.json"
ODD = {"time": "2026-11-24T22:56:21Z", "type": "tool.call", "action": "read", "outcome": "success"}
"""Members of an event that the records of one topic do not say."""


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def read_all(made: KafkaClientSettings, *topics: str) -> dict[int, list[TopicRecord]]:
    """Everything that a topic holds now, by partition."""
    found: dict[int, list[TopicRecord]] = {}
    with closing(open_reader(made, topics)) as reader:
        collect(reader, found)
    return found


def collect(reader: TopicReader, found: dict[int, list[TopicRecord]]) -> None:
    deadline = time.monotonic() + 90
    while not reader.at_end():
        assert time.monotonic() < deadline
        collect_once(reader, found)


def collect_once(reader: TopicReader, found: dict[int, list[TopicRecord]]) -> None:
    for part in reader.poll(0.2):
        found.setdefault(part.partition, []).extend(part.records)


def send(made: KafkaClientSettings, topic: str, *values: bytes) -> None:
    with closing(open_writer(made)) as writer:
        for value in values:
            writer.send(topic, b"k", value)
        writer.flush(10)


def test_records_arrive_as_they_were_sent(kafka: KafkaCluster, client: str) -> None:
    """Key, value, headers and time, in order; a tombstone too."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    with closing(open_writer(made)) as writer:
        writer.send(topic, b"k", b"v", headers=[("a", b"1"), ("a", b"2")], timestamp_ms=NOW_MS)
        writer.send(topic, b"k", None, partition=0, timestamp_ms=NOW_MS)
        writer.send(topic, None, b"without a key")
        writer.flush(10)
        assert writer.partitions(topic) == 1
    first, second, third = read_all(made, topic)[0]
    assert first == TopicRecord(0, NOW_MS, b"k", b"v", [("a", b"1"), ("a", b"2")])
    assert second == TopicRecord(1, NOW_MS, b"k", None, [])
    assert (third.key, third.value) == (None, b"without a key")


def test_waiting_ends_though_another_thread_goes_on_sending(kafka: KafkaCluster, client: str) -> None:
    """What was sent before is there; what comes meanwhile is not waited for."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    ended = threading.Event()
    with closing(open_writer(made)) as writer:

        def go_on() -> None:
            while not ended.wait(0.0005):
                writer.send(topic, None, b"meanwhile")

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for number in range(20):
                writer.send(topic, None, b"before-%d" % number)
                started = time.monotonic()
                writer.flush(10)
                assert time.monotonic() - started < 5.0
            assert b"before-19" in {one.value for one in read_all(made, topic)[0]}
        finally:
            ended.set()
            thread.join()


def test_keys_choose_the_partition_that_kafkas_producers_choose(kafka: KafkaCluster, client: str) -> None:
    """Whatever a client's own default is: an agent's records from all writers meet in one partition."""
    made = settings(kafka, client)
    ours, theirs = made.topic_names.events, f"{made.topic_names.events}-theirs"
    make_topic(kafka, ours, 7)
    make_topic(kafka, theirs, 7)
    keys = [b'["t","i","agent-%d"]' % n for n in range(100)]
    with closing(open_writer(made)) as writer, closing(foreign_producer(kafka)) as producer:
        for key in keys:
            writer.send(ours, key, b"v")
            producer.send(theirs, key=key, value=b"v")
        writer.flush(10)
        producer.flush(10)
    places = [
        {raw.key: partition for partition, raws in read_all(made, topic).items() for raw in raws}
        for topic in (ours, theirs)
    ]
    assert places[0] == places[1] == {key: partition_of(key, 7) for key in keys}


def test_topics_that_are_not_there_are_not_made(kafka: KafkaCluster, client: str) -> None:
    """A misspelt name must not become a topic with one partition."""
    made = settings(kafka, client)
    with closing(open_writer(made)) as writer, pytest.raises(ConfigError, match="there is no topic"):
        writer.partitions(made.topic_names.events)
    with pytest.raises(ConfigError, match="there is no topic"):
        open_reader(made, [made.topic_names.events])
    with closing(open_admin(made)) as admin:
        assert admin.describe(made.topic_names.events) is None


def test_a_record_that_is_too_large_is_the_callers_error(kafka: KafkaCluster, client: str) -> None:
    """The others are not held up."""
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events)
    with closing(open_writer(made)) as writer:
        with pytest.raises(ValueError, match="too large"):
            writer.send(made.topic_names.events, b"k", b"x" * 2_000_000)
        writer.send(made.topic_names.events, b"k", b"v")
        writer.flush(10)


def test_flush_fails_while_the_broker_is_gone_and_then_goes_on(kafka: KafkaCluster, client: str) -> None:
    """The same writer writes again; what failed was not acknowledged; nothing good is there twice."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    with closing(open_writer(made)) as writer:
        writer.send(topic, b"k", b"before", timestamp_ms=NOW_MS)
        writer.flush(10)
        kafka.kill()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            writer.send(topic, b"k", b"meanwhile", timestamp_ms=NOW_MS)
            writer.flush(8)
        assert time.monotonic() - began < 10
        kafka.start()
        recovered(writer, topic)
    values = [raw.value for raw in read_all(made, topic)[0]]
    assert [values.count(value) for value in (b"before", b"after")] == [1, 1]
    assert values[0] == b"before"


def test_waiting_for_a_silent_broker_takes_no_core(kafka: KafkaCluster, client: str) -> None:
    """A stopped broker answers nothing: more than one request of a partition waits, and nobody asks all the time."""
    made, waited_s = settings(kafka, client), 4.0
    topic = made.topic_names.events
    make_topic(kafka, topic)
    with closing(open_writer(made)) as writer:
        writer.send(topic, b"k", b"before")
        writer.flush(10)
        kafka.pause_node(1)
        try:
            for number in range(3_000):
                writer.send(topic, b"k", b"%05d" % number * 100)
            sent_s = time.process_time()
            with pytest.raises(Unavailable):
                writer.flush(waited_s)
            assert time.process_time() - sent_s < 0.25 * waited_s
        finally:
            kafka.start()
        recovered(writer, topic)
    values = [raw.value for raw in read_all(made, topic)[0] if raw.value is not None and len(raw.value) == 500]
    assert values
    assert values == sorted(set(values))


def test_a_record_that_the_broker_refuses_ends_nothing(kafka: KafkaCluster, client: str) -> None:
    """Its time is too far ahead: the flush says so, and what comes after it is written."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic, message_timestamp_after_max_ms="3600000")
    now_ms = time.time_ns() // 1_000_000
    with closing(open_writer(made)) as writer:
        writer.send(topic, b"k", b"before", timestamp_ms=now_ms)
        writer.flush(10)
        writer.send(topic, b"k", b"ahead", timestamp_ms=now_ms + 2 * HOUR_MS)
        with pytest.raises(Unavailable):
            writer.flush(10)
        writer.send(topic, b"k", b"after", timestamp_ms=now_ms)
        writer.flush(10)
    assert [raw.value for raw in read_all(made, topic)[0]] == [b"before", b"after"]


def recovered(writer: TopicWriter, topic: str) -> None:
    """Send until a flush succeeds: what an earlier one left behind may fail first."""
    deadline = time.monotonic() + 90
    number = 0
    while True:
        assert time.monotonic() < deadline
        try:
            writer.send(topic, b"k", b"try-%d" % number, timestamp_ms=NOW_MS)
            writer.flush(8)
            break
        except Unavailable:
            number += 1
    writer.send(topic, b"k", b"after", timestamp_ms=NOW_MS)
    writer.flush(8)


def wait_until_known(writer: TopicWriter, topic: str) -> None:
    """Wait until each of three brokers knows a new topic: the writer asks any of them."""
    for _ in range(50):
        with contextlib.suppress(ConfigError):
            writer.partitions(topic)
            return
        time.sleep(0.1)


def test_a_repeated_request_is_written_once(kafka_cluster3: KafkaCluster, client: str) -> None:
    """Idempotent: while leaders are killed every acknowledged record is there exactly once, in order."""
    made = settings(kafka_cluster3, client)
    topic = made.topic_names.events
    make_topic(kafka_cluster3, topic, 1, 3, min_insync_replicas="2")
    with closing(open_writer(made, tuning=TUNING._replace(delivery_timeout_ms=30_000))) as writer:
        wait_until_known(writer, topic)
        for number in range(3_000):
            if number == 1_000:
                kafka_cluster3.kill_node(1)
            if number == 2_000:
                kafka_cluster3.start_node(1)
                kafka_cluster3.kill_node(2)
            writer.send(topic, b"k", b"%d" % number, timestamp_ms=NOW_MS)
            if number % 100 == 0:
                writer.flush(40)
        writer.flush(40)
    kafka_cluster3.start()
    values = [int(raw.value or b"") for raw in read_all(made, topic)[0]]
    assert values == list(range(3_000))


def test_a_group_reads_on_from_what_it_committed(kafka: KafkaCluster, client: str) -> None:
    """What was handed out and not committed comes again; a new group begins at either end."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)

    def values(reader: TopicReader, most: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        deadline = time.monotonic() + 90
        while len(found) < most and time.monotonic() < deadline:
            found += [raw.value for part in reader.poll(0.2, most - len(found)) for raw in part.records]
        return found

    send(made, topic, b"1", b"2", b"3", b"4")
    with closing(open_reader(made, [topic], f"{topic}-group")) as reader:
        assert values(reader, 2) == [b"1", b"2"]
        reader.commit()
        assert values(reader, 1) == [b"3"]
        assert reader.lag() == 1
    with closing(open_reader(made, [topic], f"{topic}-group")) as reader:
        assert values(reader, 2) == [b"3", b"4"]
        assert reader.at_end()
        assert dict(reader.end_offsets()) == {(topic, 0): 4}
    with closing(open_reader(made, [topic], f"{topic}-late", "latest")) as reader:
        deadline = time.monotonic() + 90
        while not reader.at_end() and time.monotonic() < deadline:
            assert reader.poll(0.2) == []
        send(made, topic, b"5")
        assert values(reader, 1) == [b"5"]


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_reader_keeps_its_time_though_the_broker_is_gone(kafka: KafkaCluster, client: str, how: str) -> None:
    """Each commit says so within seconds, and closing ends, though a session lasts much longer."""
    made = settings(kafka, client, session_timeout_s=45.0)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    send(made, topic, b"1", b"2")
    with closing(open_reader(made, [topic], f"{topic}-group")) as reader:
        poll_record(reader)
        reader.commit()
        poll_record(reader)
        if how == "killed":
            kafka.kill()
        else:
            kafka.pause_node(1)
        for _ in range(2):
            began_s = time.monotonic()
            with pytest.raises(Unavailable):
                reader.commit()
            assert time.monotonic() - began_s < 10.0
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 10.0


def poll_record(reader: TopicReader) -> None:
    deadline = time.monotonic() + 90
    while not reader.poll(0.2, 1):
        assert time.monotonic() < deadline


def test_a_reader_is_at_the_end_beside_a_steady_stream(kafka: KafkaCluster, client: str) -> None:
    """The end is that of when reading began: whoever follows a topic that never rests gets there, and stays there."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic, 2)
    ended, enough = threading.Event(), threading.Event()

    def beat() -> None:
        with closing(open_writer(made)) as writer:
            for flushed in itertools.count(1):
                for _ in range(10):
                    writer.send(topic, b"k", b"beat")
                writer.flush(10)
                if flushed == 10:
                    enough.set()
                if ended.wait(0.005):
                    return

    steady = threading.Thread(target=beat)
    steady.start()
    try:
        assert enough.wait(60)
        with closing(open_reader(made, [topic])) as reader:
            assert not reader.at_end()
            seen, deadline = 0, time.monotonic() + 90
            while not reader.at_end() and time.monotonic() < deadline:
                time.sleep(0.01)  # slower than the stream: something waits all the time
                seen += sum(len(part.records) for part in reader.poll(0.2, 5))
            assert reader.at_end()
            assert reader.lag()
            assert seen >= 50
    finally:
        ended.set()
        steady.join()


def test_topics_begin_where_each_is_to_begin(kafka: KafkaCluster, client: str) -> None:
    """One from its first record, the other from what comes after the opening; what they hold is told."""
    made = settings(kafka, client)
    old, new = made.topic_names.events, f"{made.topic_names.events}-new"
    for topic in (old, new):
        make_topic(kafka, topic, 2)

    def send(value: bytes) -> None:
        with closing(open_writer(made)) as writer:
            for topic in (old, new):
                for partition in (0, 1):
                    writer.send(topic, None, value, partition=partition)
            writer.flush(10)

    send(b"before")
    found: dict[tuple[str, int], list[bytes | None]] = {}
    with closing(open_reader(made, [old, new], start={new: "latest"})) as reader:
        send(b"after")
        assert dict(reader.first_offsets()) == {(topic, partition): 0 for topic in (old, new) for partition in (0, 1)}
        assert dict(reader.end_offsets()) == {(topic, partition): 2 for topic in (old, new) for partition in (0, 1)}
        deadline = time.monotonic() + 90
        while (not reader.at_end() or reader.lag()) and time.monotonic() < deadline:
            for topic, partition, records in reader.poll(0.2):
                found.setdefault((topic, partition), []).extend(raw.value for raw in records)
    assert found == {
        **{(old, partition): [b"before", b"after"] for partition in (0, 1)},
        **{(new, partition): [b"after"] for partition in (0, 1)},
    }


def test_the_log_of_the_door_over_kafka(kafka: KafkaCluster, client: str) -> None:
    """Acknowledged records are in the topic; with the broker gone the log fails, reopened it goes on.

    It counts as failed until something was acknowledged again: a replica says by it whether it takes events.
    """
    made = settings(kafka, client)
    make_topic(kafka, made.topic_names.events, 2)
    records = [record(n, f"agent-{n}") for n in range(20)]
    with closing(open_writer(made, tuning=TUNING._replace(delivery_timeout_ms=4_000))) as writer:
        log = TopicCommitLog(writer, made.topic_names.events, 8)
        log.append(records)
        log.sync()
        kafka.kill()
        with pytest.raises(LogFailed):
            log.append(records)
            log.sync()
        log.reopen()
        assert log.failed
        with pytest.raises(LogFailed):
            log.append(records)
            log.sync()
        kafka.start()
        deadline = time.monotonic() + 120  # a broker that was killed takes its time on a busy machine
        while log.failed:
            assert time.monotonic() < deadline
            log.reopen()
            with contextlib.suppress(LogFailed):
                log.append(records)
                log.sync()
    member = Member(made)
    poll_until(lambda: member.count >= 40, member)
    found = [one for part in member.records.values() for one in part]
    assert {one.id_hash for one in found} == {one.id_hash for one in records}
    assert {one.kind for one in found} == {0}
    member.source.close()


def secured(kafka: KafkaCluster, client: str, mechanism: str) -> KafkaClientSettings:
    there = kafka.secured
    if not mechanism:
        tls = KafkaSecuritySettings(protocol="SSL", ca_file=there.ca)
        return settings(kafka, client, bootstrap_servers=(there.tls,), security=tls)
    security = KafkaSecuritySettings(
        protocol="SASL_SSL",
        ca_file=there.ca,
        mechanism=mechanism,  # type: ignore[arg-type]
        username=there.user,
        password=Secret(there.password),
    )
    return settings(kafka, client, bootstrap_servers=(there.sasl,), security=security)


@pytest.mark.parametrize("mechanism", ["", "PLAIN", "SCRAM-SHA-512"])
def test_tls_and_sasl(kafka: KafkaCluster, client: str, mechanism: str) -> None:
    """Writing, reading, and a group, through the secured listeners."""
    made = secured(kafka, client, mechanism)
    make_topic(kafka, made.topic_names.events)
    send(made, made.topic_names.events, b"v")
    assert [raw.value for raw in read_all(made, made.topic_names.events)[0]] == [b"v"]
    member = Member(made)
    poll_until(lambda: member.count == 1, member)
    member.source.close()


def test_a_wrong_password_is_an_error_of_the_settings(kafka: KafkaCluster, client: str) -> None:
    """It is said, as far as the client tells; the message holds no secret."""
    made = secured(kafka, client, "PLAIN")
    wrong = msgspec.structs.replace(made.security, password=Secret("hunter2"))
    made = msgspec.structs.replace(made, security=wrong)
    with pytest.raises((ConfigError, Unavailable)) as error, closing(open_writer(made)) as writer:
        writer.partitions(made.topic_names.events)
    assert "hunter2" not in str(error.value)
    if client == "confluent":
        assert isinstance(error.value, ConfigError)
    else:  # kafka-python tries again until its time is up
        assert "login" in str(error.value)


@pytest.fixture
def token_endpoint() -> Iterator[Endpoint]:
    """An authorization server's token endpoint: client credentials only."""
    right = f"Basic {base64.b64encode(b'worker:s3cret').decode()}"

    def grant(request: Endpoint.Request) -> Endpoint.Answer:
        granted = request[2]["authorization"] == right
        body = msgspec.json.encode({"access_token": "granted", "expires_in": 300} if granted else {"error": "no"})
        return (200 if granted else 401), {"content-type": "application/json"}, body

    with Endpoint(grant) as made:
        yield made


def forms(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    return [parse_qs(body.decode()) for *_, body in endpoint.seen]


def token_security(endpoint: Endpoint, scope: str = "") -> KafkaSecuritySettings:
    return KafkaSecuritySettings(
        protocol="SASL_PLAINTEXT",
        mechanism="OAUTHBEARER",
        token_url=f"{endpoint.url}/token",
        client_id="worker",
        client_secret=Secret("s3cret"),
        scope=scope,
    )


def test_tokens_are_bought_with_client_credentials(token_endpoint: Endpoint) -> None:
    """RFC 6749, section 4.4, with the scope; a refusal names the endpoint and no secret."""
    security = token_security(token_endpoint, "kafka")
    assert KafkaTokenProvider(security).token() == "granted"
    assert forms(token_endpoint) == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}]
    wrong = msgspec.structs.replace(security, client_secret=Secret("other"))
    with pytest.raises(Unavailable, match="token") as error:
        KafkaTokenProvider(wrong).token()
    assert "other" not in str(error.value)


def test_both_clients_log_in_with_a_token(token_endpoint: Endpoint, client: str) -> None:
    """Either one buys a token as soon as it connects (there is no broker here that takes it)."""
    with socket.create_server(("127.0.0.1", 0)) as no_broker:
        made = KafkaClientSettings(
            bootstrap_servers=(f"127.0.0.1:{no_broker.getsockname()[1]}",),
            client=client,  # type: ignore[arg-type]
            security=token_security(token_endpoint),
        )
        with pytest.raises((Unavailable, ConfigError)) as error:
            open_writer(made, tuning=KafkaTuning(request_timeout_ms=2_000, metadata_timeout_ms=2_000))
        assert "s3cret" not in str(error.value)
    if client == "confluent":
        seen = forms(token_endpoint)
        assert seen == [{"grant_type": ["client_credentials"]}] * len(seen) != []
    else:  # kafka-python asks for it when a broker offers the mechanism
        options = connection_options(made, TUNING)
        assert (options["sasl_mechanism"], options["sasl_oauth_token_provider"].token()) == ("OAUTHBEARER", "granted")


def test_a_reader_goes_where_it_is_told(kafka: KafkaCluster, client: str) -> None:
    """To an offset, which may come from a time; behind the newest record it is the end."""
    made = settings(kafka, client)
    topic = made.topic_names.events
    make_topic(kafka, topic)
    with closing(open_writer(made)) as writer:
        for number in range(6):
            writer.send(topic, b"k", b"%d" % number, timestamp_ms=NOW_MS + 1_000 * number)
        writer.flush(10)
    with closing(open_reader(made, [topic])) as reader:
        assert dict(reader.offsets_at(0)) == {(topic, 0): 0}
        assert dict(reader.offsets_at(NOW_MS + 2_500)) == {(topic, 0): 3}
        assert dict(reader.offsets_at(NOW_MS + 9_000)) == {(topic, 0): 6}
        found: dict[int, list[TopicRecord]] = {}
        reader.seek(topic, 0, 4)
        collect(reader, found)
        assert [raw.value for raw in found[0]] == [b"4", b"5"]
        reader.seek(topic, 0, 5)
        found.clear()
        deadline = time.monotonic() + 90
        while not found and time.monotonic() < deadline:
            collect_once(reader, found)
        assert [raw.value for raw in found[0]] == [b"5"]


def test_what_others_wrote_to_a_topic_is_a_history_of_any_format(
    kafka: KafkaCluster, client: str, tmp_path: Path
) -> None:
    """As their records in a file, from all partitions in the order of time; a copy of our own topic stays as it is."""
    settings_ = Settings(kafka=KafkaSettings(bootstrap_servers=tuple(kafka.bootstrap.split(",")), client=client))
    trail, clouds, odd, ours = (
        f"{settings(kafka).topic_names.events}-{name}" for name in ("trail", "clouds", "odd", "ours")
    )
    for topic in (trail, clouds, odd, ours):
        make_topic(kafka, topic, partitions=2)
    records = json.loads(CLOUDTRAIL.read_bytes())["Records"]
    binary = {"ce_specversion": "1.0", "ce_type": "io.trustwatch.audit.v1", "ce_source": "urn:c", "ce_id": "c1"}
    with closing(open_writer(settings(kafka, client))) as writer:
        for at, one in enumerate(reversed(records)):
            writer.send(trail, None, msgspec.json.encode(one), partition=at % 2, timestamp_ms=NOW_MS)
        writer.send(trail, b"k", None, partition=0, timestamp_ms=NOW_MS)  # a tombstone
        headers = [(name, value.encode()) for name, value in binary.items()]
        writer.send(clouds, None, event(1), partition=0, headers=headers, timestamp_ms=NOW_MS)
        writer.send(odd, None, b'{"strange": 1}', partition=0, timestamp_ms=NOW_MS)
        for at in range(2):
            sent = record(at)
            writer.send(ours, None, sent.payload, partition=0, headers=headers_for(sent), timestamp_ms=sent.received_ms)
        writer.flush(10)
    file = tmp_path / "trail.json"
    file.write_bytes(CLOUDTRAIL.read_bytes())

    def history(topic: str, record_format: str | None = None, said: Settings = settings_) -> list[bytes]:
        named = str(file) if topic == "" else f"kafka://{kafka.bootstrap}/{topic}"
        with history_files([named], said, converter=history_converter(record_format, None)) as paths:
            return b"".join(path.read_bytes() for path in paths).splitlines()

    expected = history("")
    assert history(trail) == expected
    assert 0 < len(history(trail + "?offsets=0:1-3", "aws-cloudtrail")) < len(expected)
    (cloud,) = map(json.loads, history(clouds))
    assert (cloud["id"], cloud["source"]) == ("c1", "urn:c")
    assert history(ours) == [event(0), event(1)]
    with pytest.raises(ConfigError, match=r"an object with `strange`\. .*mapping try FILE RECORDS"):
        history(odd)
    with pytest.raises(
        ConfigError, match=r"no record became an event, 1 skipped .*`trustwatch mapping try envoy RECORDS`"
    ):
        history(odd, "envoy")
    members = {name: f"'{text}'" for name, text in ODD.items()} | {"agent.id": "to_string(strange)"}
    source = ForeignTopicSettings(
        name="odd",
        topic=odd,
        format="mapping",
        mapping={"members": members},
        tenants=("acme",),
        issuers=("https://as",),
    )
    knowing = msgspec.structs.replace(settings_, kafka=msgspec.structs.replace(settings_.kafka, topics=(source,)))
    (known,) = map(json.loads, history(odd, said=knowing))
    assert (known["tenant"], known["agent"]) == ("acme", {"id": "1", "issuer": "https://as"})
