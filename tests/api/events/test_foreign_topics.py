"""The loop of the ingest role over readers and a writer in memory: order of acknowledgement, fairness, refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.events.worker import (
    MAX_DEAD_LETTER_VALUE_BYTES,
    MAX_TURN_RECORDS,
    ForeignTopicReader,
    TopicIngest,
)
from trustwatch.api.settings.access_settings import ForeignTopicSettings
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.ingest.source import RecordKind
from trustwatch.ingest.topics.protocols import FetchedRecords, TopicNames
from trustwatch.ingest.topics.record_codec import TopicRecord

NOW_MS = 1_770_000_000_000
NOW = "2026-02-02T02:40:00Z"


class Sent(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]


class ScriptedBroker:
    """A broker, a clock and what happened in which order."""

    def __init__(self) -> None:
        self.now = 100.0
        self.steps: list[str] = []
        self.sent: list[Sent] = []
        self.durable: list[Sent] = []
        self.down = 0
        self.slept = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.now += seconds

    def events(self, source: str = "") -> list[Sent]:
        return [one for one in self.durable if one.topic == "events" and source.encode() in one.value]


class Writer:
    def __init__(self, world: ScriptedBroker) -> None:
        self.world = world

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
        assert timestamp_ms == NOW_MS and value is not None
        self.world.sent.append(Sent(topic, key, value, dict(headers)))

    def flush(self, timeout_s: float) -> None:
        sent, self.world.sent = self.world.sent, []
        if self.world.down:
            self.world.down -= 1
            self.world.durable += sent[: len(sent) // 2]
            raise Unavailable("no broker answers")
        self.world.durable += sent
        self.world.steps.append("flush")

    def partitions(self, topic: str) -> int:
        return 1

    def close(self) -> None:
        self.world.steps.append("close writer")


class Reader:
    """Records of one partition; each poll takes *cost_s* on the clock."""

    def __init__(self, world: ScriptedBroker, values: list[Any], cost_s: float = 0.0) -> None:
        self.world = world
        self.values = values
        self.cost_s = cost_s
        self.position = self.committed = 0
        self.error: Exception | None = None
        self.closed = False

    def poll(self, timeout_s: float, max_records: int = 5_000) -> list[FetchedRecords]:
        if self.error:
            raise self.error
        self.world.now += self.cost_s
        part = self.values[self.position : self.position + max_records]
        raws = []
        for number, value in enumerate(part, self.position):
            value, headers = value if isinstance(value, tuple) else (value, [])
            raws.append(TopicRecord(number, NOW_MS - 5, None, value, headers))
        self.position += len(part)
        return [FetchedRecords("t", 0, raws)] if raws else []

    def commit(self) -> None:
        self.world.steps.append("commit")
        self.committed = self.position

    def lag(self) -> int | None:
        return len(self.values) - self.position

    def end_offsets(self) -> Mapping[tuple[str, int], int]:
        return {("t", 0): len(self.values)}

    def at_end(self) -> bool:
        return self.lag() == 0

    def close(self) -> None:
        self.closed = True


def settings(name: str = "gw", **more: Any) -> ForeignTopicSettings:
    given = {"topic": f"{name}.log", "name": name, "format": "native", "tenants": ("acme",), "issuers": ("https://as",)}
    return ForeignTopicSettings(**{**given, **more})


def ingest(world: ScriptedBroker, *pairs: tuple[ForeignTopicSettings, Reader | Callable[[], Reader]]) -> TopicIngest:
    sources = [
        ForeignTopicReader(
            topic,
            reader if callable(reader) else lambda reader=reader: reader,
            Admission(AgentRegistry(())),
            world.monotonic,
            lambda: NOW_MS,
        )
        for topic, reader in pairs
    ]
    outputs = TopicNames(events="events", dead_letters="dlq")
    return TopicIngest(sources, lambda: Writer(world), outputs, world.monotonic, lambda: NOW_MS, world.sleep)


def event(agent: str = "a", number: int = 0, **members: Any) -> bytes:
    made = {
        "id": str(number),
        "time": NOW,
        "agent": {"id": agent},
        "type": "other",
        "action": "x",
        "outcome": "success",
    }
    return json.dumps({**made, "outcome": "success", **members}).encode()


@pytest.fixture
def world() -> ScriptedBroker:
    return ScriptedBroker()


def test_offsets_are_committed_after_everything_is_acknowledged(world: ScriptedBroker) -> None:
    """The other order would lose events when the process dies between."""
    reader = Reader(world, [event(number=n) for n in range(3)])

    ingest(world, (settings(), reader)).run_round()

    assert world.steps == ["flush", "commit"]
    assert reader.committed == 3
    assert [one.key for one in world.durable] == [agent_partition_key("acme", "https://as", "a")] * 3
    assert json.loads(world.durable[0].value)["tenant"] == "acme"
    assert len({one.headers["tw"] for one in world.durable}) == 3


def test_a_round_without_acknowledgement_is_sent_again_by_another_writer(world: ScriptedBroker) -> None:
    """Some of it may have arrived: the same bytes and ids come again, and nothing is committed before."""
    reader = Reader(world, [event(number=n) for n in range(4)])
    world.down = 2

    with capture_logs() as logs:
        ingest(world, (settings(), reader)).run_round()

    assert world.steps == ["close writer", "close writer", "flush", "commit"]
    assert world.durable[:2] == world.durable[2:4] == world.durable[4:6]
    assert len({one.headers["tw"] for one in world.durable[4:]}) == 4
    assert [line["event"] for line in logs] == ["events wait for brokers"]


def test_the_same_record_read_again_has_the_same_identity(world: ScriptedBroker) -> None:
    """With an id, without one, and refused: a restart makes nothing twice."""
    values = [event(), b'{"x": 1}', event().replace(b'"id": "0", ', b""), event(agent="b", tenant="other")]
    for _ in range(2):
        ingest(world, (settings(), Reader(world, values))).run_round()

    first, second = world.durable[: len(world.durable) // 2], world.durable[len(world.durable) // 2 :]
    assert [(one.key, one.headers) for one in first] == [(one.key, one.headers) for one in second]
    assert len(first) == 6  # two events, two letters with their copies


def test_refused_records_become_a_letter_and_a_copy_with_its_place(world: ScriptedBroker) -> None:
    """Bytes, reason, path, source offset: enough to see it and to try it again."""
    source = ingest(world, (settings(), Reader(world, [event(), event(tenant="other"), b"\xff\x00"])))

    source.run_round()

    report = source.report().sources[0]
    assert (report.accepted, report.rejected, report.skipped) == (1, 2, 0)
    copies = [one for one in world.durable if one.topic == "dlq"]
    letters = [one for one in world.durable if one.topic == "events" and one.headers["tw"][0] == RecordKind.DEAD]
    assert [copy.value for copy in copies] == [event(tenant="other"), b"\xff\x00"]
    assert copies[0].headers["reason"].startswith(b"this source may not act for that tenant")
    assert copies[0].headers["path"] == b"$.tenant"
    assert (copies[0].headers["topic"], copies[0].headers["offset"]) == (b"gw.log", b"1")
    told = json.loads(letters[0].value)
    assert told["letter_id"].encode() == copies[0].headers["letter_id"] == copies[0].key == letters[0].key
    assert told["source"] == "gw" and base64.b64decode(told["raw"]) == event(tenant="other")


def test_a_huge_refused_record_is_cut_and_says_so(world: ScriptedBroker) -> None:
    """The dead-letter topic has a limit too; a record over it must not stop what comes behind."""
    ingest(world, (settings(), Reader(world, [b"x" * (MAX_DEAD_LETTER_VALUE_BYTES + 9), event()]))).run_round()

    copy = next(one for one in world.durable if one.topic == "dlq")
    assert (
        len(copy.value) == MAX_DEAD_LETTER_VALUE_BYTES
        and copy.headers["bytes"] == str(MAX_DEAD_LETTER_VALUE_BYTES + 9).encode()
    )
    assert len(world.durable) == 3


def test_tombstones_and_what_is_no_audit_event_are_counted_alone(world: ScriptedBroker) -> None:
    envoy = settings(format="caddy", mapping={"when": "kind == 'audit'"})
    source = ingest(world, (envoy, Reader(world, [None, b'{"kind": "other"}'])))

    source.run_round()

    assert source.report().sources[0].skipped == 2
    assert world.durable == []


def test_headers_reach_the_format(world: ScriptedBroker) -> None:
    envelope = {"specversion": "1.0", "id": "7", "source": "urn:x", "type": "io.trustwatch.audit.v1"}
    headers = [(f"ce_{name}", value.encode()) for name, value in envelope.items()] + [("none", None), ("bad", b"\xff")]
    reader = Reader(world, [(event(), headers)])

    ingest(world, (settings(format="cloudevents", sources=("urn:*",)), reader)).run_round()

    assert json.loads(world.durable[0].value)["id"] == "7"


def test_no_topic_waits_for_a_full_one(world: ScriptedBroker) -> None:
    """A turn is bounded in records and in time; records that are all refused are no exception."""
    full = Reader(world, [event(number=n) for n in range(5_000)])
    slow = Reader(world, [b"bad"] * 5_000, cost_s=0.03)
    small = Reader(world, [event("small")])
    role = ingest(world, (settings("full"), full), (settings("slow"), slow), (settings("small"), small))

    role.run_round()

    assert full.position == MAX_TURN_RECORDS
    assert slow.position == 200
    assert small.position == 1
    assert {report.name: report.accepted for report in role.report().sources} == {"full": 1000, "slow": 0, "small": 1}


def test_a_topic_over_its_limit_waits_in_kafka_and_the_others_go_on(world: ScriptedBroker) -> None:
    """Its backlog grows where it is kept; ten seconds at 50 per second are about 500 events."""
    limited = Reader(world, [event(number=n) for n in range(5_000)])
    other = Reader(world, [event("other", n) for n in range(1_500)])
    role = ingest(world, (settings("limited", events_per_s=50.0), limited), (settings("other"), other))

    for _ in range(100):
        role.run_round()
        world.now += 0.1

    for source in role.sources:
        source.observe()
    reports = {report.name: report for report in role.report().sources}
    assert 500 <= reports["limited"].accepted <= 650
    assert reports["limited"].lag == 5_000 - limited.position
    assert reports["other"].accepted == 1_500
    assert limited.committed == limited.position


def test_a_topic_that_can_not_be_read_does_not_stop_the_others(world: ScriptedBroker) -> None:
    """It is said once, and tried again: the topic may be created later."""
    missing = Reader(world, [event("late")])
    opened: list[str] = []

    def open_missing() -> Reader:
        opened.append("try")
        if len(opened) < 3:
            raise ConfigError("there is no topic")
        return missing

    role = ingest(world, (settings("missing"), open_missing), (settings("there"), Reader(world, [event()])))

    with capture_logs() as logs:
        for _ in range(7):
            role.run_round()
            world.now += 11.0

    assert [line["event"] for line in logs] == ["topic is not read"]
    assert len(opened) == 3
    assert len(world.durable) == 2
    assert all(report.reading for report in role.report().sources)


def test_a_fault_of_ours_in_one_record_is_a_letter_too(world: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one record brings about, the next is read; the message may quote what was sent, so it is not kept."""
    source = settings()

    def broken(value: bytes, headers: Mapping[str, str]) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ForeignTopicSettings, "parser", lambda _: broken)
    ingest(world, (source, Reader(world, [event()]))).run_round()

    (copy,) = [one for one in world.durable if one.topic == "dlq"]
    assert copy.headers["reason"] == b"could not be read: ZeroDivisionError"


def test_silence_of_a_topic_is_noticed_once_and_ended(world: ScriptedBroker) -> None:
    """After a grace; any record ends it; a topic that is not read, or held back, is not silent."""
    reader = Reader(world, [])
    role = ingest(world, (settings("gw", silence_s=60.0), reader))

    def silent() -> bool:
        for source in role.sources:
            source.observe()
        role.run_round()
        return role.report().silence[0].silent

    assert not silent()
    world.now += 59
    assert not silent()
    world.now += 2
    with capture_logs() as logs:
        assert silent() and silent()
        reader.values.append(b"even a bad one")
        assert not silent()
    assert [(line["code"], line["source"]) for line in logs] == [("source_silent", "gw"), ("source_heard", "gw")]
    assert role.report().silence[0].last_ms == NOW_MS

    reader.error = Unavailable("down")
    world.now += 50
    assert not silent()
    world.now += 50
    assert not silent()


def test_the_loop_ends_after_the_round_at_hand(world: ScriptedBroker) -> None:
    reader = Reader(world, [event()])
    role = ingest(world, (settings(), reader))
    reports: list[int] = []

    role.run(lambda: len(reports) >= 3, lambda report: reports.append(report.sources[0].accepted), 0.5)
    role.close()

    assert reports == [1, 1, 1]
    assert reader.closed and world.slept >= 25
