"""The ingest process on a real broker: killed, without a broker, told to end; nothing is lost and nothing doubled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from trustwatch.api.composition import open_service_store
from trustwatch.api.events.ingest_status import IngestReport, decode_ingest_report
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.kafka import open_reader, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.ingest.topics.protocols import FetchedRecords
from trustwatch.ingest.topics.record_codec import id_hash_in
from trustwatch.scoring.pipeline.ipc import LENGTH_PREFIX

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

pytestmark = pytest.mark.integration

EVENTS, BAD_EVERY, AGENTS = 12_000, 97, 40
SETTINGS = """\
data_dir: data
model_dir: model
kafka:
  bootstrap_servers: ["{servers}"]
  names: {{events: {run}.events, dead_letters: {run}.dlq}}
  group_id: {run}
  session_timeout_s: 6
  topics:
    - {{topic: {run}.envoy, name: edge, format: envoy, tenants: [acme], issuers: ["https://as"], silence_s: 10,
       events_per_s: 3000}}
    - {{topic: {run}.slow, name: slow, format: native, tenants: [acme], issuers: ["https://as"], events_per_s: 5}}
    - {{topic: {run}.missing, name: missing, format: native, tenants: [acme], issuers: ["https://as"]}}
"""


class IngestProcess:
    """The process as the service starts it, with what it reports."""

    def __init__(self, settings: Path) -> None:
        ours, theirs = socket.socketpair()
        open_service_store(load_settings(settings, {})).close()  # as the service has done before
        command = [sys.executable, "-m", "trustwatch.api.events.worker", "--settings", str(settings)]
        self.process = subprocess.Popen([*command, "--socket", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        self.connection = ours
        self.report = IngestReport([], [])
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        stream = self.connection.makefile("rb")
        while head := stream.read(LENGTH_PREFIX.size):
            (length,) = LENGTH_PREFIX.unpack(head)
            self.report = decode_ingest_report(stream.read(length))

    def source(self, name: str) -> Any:
        return next(source for source in self.report.sources if source.name == name)

    def wait(self, reached: Callable[[], bool], within_s: float = 60.0) -> None:
        end = time.monotonic() + within_s
        while not (self.report.sources and reached()):
            assert self.process.poll() is None, "the process has ended"
            assert time.monotonic() < end, f"not in time: {self.report}"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.connection.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self.connection.close()
        return status


@pytest.fixture
def run(kafka: KafkaCluster, tmp_path: Path) -> Iterator[tuple[KafkaClientSettings, str, Path]]:
    """Topics of this test alone, and settings that name them."""
    name = f"i{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    counts = {"events": 4, "dlq": 1, "envoy": 3, "slow": 1}
    admin.create_topics([NewTopic(f"{name}.{topic}", count, 1) for topic, count in counts.items()])
    admin.close()
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS.format(servers=kafka.bootstrap, run=name))
    yield KafkaClientSettings(bootstrap_servers=(kafka.bootstrap,)), name, path


def line(number: int) -> bytes:
    """A line of Envoy's log; some are none."""
    if number % BAD_EVERY == 0:
        return f'{{"broken": {number}'.encode()
    return json.dumps(
        {
            "start_time": "2026-01-01T00:00:00.000Z",
            "method": "GET",
            "response_code": 200,
            "bytes_sent": number,
            "jwt.client_id": f"agent-{number % AGENTS}",
            "x-envoy-origin-path": "/v1/x?token=secret",
        }
    ).encode()


def produce(settings: KafkaClientSettings, topic: str, values: dict[bytes, list[bytes]]) -> None:
    writer = open_writer(settings)
    for key, several in values.items():
        for value in several:
            writer.send(topic, key, value)
    writer.flush(30.0)
    writer.close()


def everything(settings: KafkaClientSettings, topic: str) -> list[FetchedRecords]:
    reader = open_reader(settings, [topic])
    found: list[FetchedRecords] = []
    while not reader.at_end():
        found += reader.poll(1.0)
    reader.close()
    return found


def test_every_record_arrives_once_whatever_dies(
    kafka: KafkaCluster, run: tuple[KafkaClientSettings, str, Path]
) -> None:
    """kill -9 of the process twice and of the broker once, in the middle: each event is there, in the order of its
    agent, and what came twice carries the same id; refused records are letters and copies, each with one id."""
    settings, name, path = run
    numbers = range(1, EVENTS + 1)
    lines = {f"agent-{agent}".encode(): [line(n) for n in numbers if n % AGENTS == agent] for agent in range(AGENTS)}
    produce(settings, f"{name}.envoy", lines)

    for _ in range(2):
        ingest = IngestProcess(path)
        ingest.wait(lambda ingest=ingest: ingest.source("edge").accepted > 1_000)
        ingest.kill()
    ingest = IngestProcess(path)
    ingest.wait(lambda: ingest.source("edge").accepted > 500)
    kafka.kill()
    time.sleep(1.0)
    kafka.start()
    ingest.wait(lambda: ingest.source("edge").lag == 0, 120.0)
    assert ingest.stop() == 0

    bad = [n for n in numbers if n % BAD_EVERY == 0]
    events: dict[int, tuple[int, dict[str, Any]]] = {}
    letters: dict[str, dict[str, Any]] = {}
    order: dict[str, list[int]] = {}
    for _, partition, records in everything(settings, f"{name}.events"):
        for record in records:
            assert record.value is not None and record.key is not None
            payload, id_hash = json.loads(record.value), id_hash_in(record.headers)
            if id_hash == 0:
                letters[payload["letter_id"]] = payload
            elif id_hash not in events:
                events[id_hash] = partition, payload
                order.setdefault(payload["agent"]["id"], []).append(int(payload["bytes_out"]))
                agent = agent_partition_key("acme", "https://as", payload["agent"]["id"])
                assert record.key == agent and partition == partition_of(agent, 4)
    assert sorted(payload["bytes_out"] for _, payload in events.values()) == [n for n in numbers if n % BAD_EVERY]
    assert all(several == sorted(several) for several in order.values())
    assert len(letters) == len(bad) and {letter["source"] for letter in letters.values()} == {"edge"}
    assert not any("secret" in json.dumps(payload) for _, payload in events.values())
    copies = {
        dict(record.headers)["letter_id"]: record.value
        for fetched in everything(settings, f"{name}.dlq")
        for record in fetched.records
    }
    assert sorted(copies.values()) == sorted(map(line, bad))  # type: ignore[type-var]
    assert {key.decode() for key in copies if key} == set(letters)


def test_sources_do_not_disturb_each_other_and_silence_is_said(run: tuple[KafkaClientSettings, str, Path]) -> None:
    """One topic is missing, one is held at five events per second: the third one goes at its own speed."""
    settings, name, path = run
    event = {"time": "2026-01-01T00:00:00Z", "agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success"}
    slow = [json.dumps({**event, "id": str(n)}).encode() for n in range(500)]
    produce(settings, f"{name}.slow", {b"k": slow})
    ingest = IngestProcess(path)
    try:
        ingest.wait(lambda: ingest.source("slow").accepted > 0 and ingest.source("edge").reading)
        produce(settings, f"{name}.envoy", {b"k": [line(n) for n in range(1, 1_001)]})
        ingest.wait(lambda: ingest.source("edge").accepted + ingest.source("edge").rejected == 1_000, 10.0)
        assert ingest.source("slow").accepted < 200
        assert not ingest.source("missing").reading
        ingest.wait(lambda: ingest.source("slow").lag > 200, 10.0)
        assert not ingest.report.silence[0].silent
        ingest.wait(lambda: ingest.report.silence[0].silent, 30.0)
        produce(settings, f"{name}.envoy", {b"k": [line(1_001)]})
        ingest.wait(lambda: not ingest.report.silence[0].silent, 10.0)
        assert ingest.report.silence[0].last_ms > 0
    finally:
        assert ingest.stop() == 0


def test_the_process_ends_when_the_service_has_gone(run: tuple[KafkaClientSettings, str, Path]) -> None:
    """Nobody is left behind that reads on with nobody to say so."""
    ingest = IngestProcess(run[2])
    ingest.wait(lambda: ingest.source("edge").reading)

    ingest.connection.shutdown(socket.SHUT_RDWR)
    ingest.connection.close()

    assert ingest.process.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(ingest.process.pid, 0)
