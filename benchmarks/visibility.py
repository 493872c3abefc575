"""How long until an event's risk shows at an API replica, beside what the same client needs from produce to consume.

Probes are first events of agents that nobody knows: such an answer changes for certain. A probe is seen as soon as
`GET risk` of a replica knows its agent. The bare way is the same probe, written by the same client into a topic under
the same load, and read by the same client's group consumer. Three figures: bare alone (a topic of its own, workers and
replica idle), bare beside (the events topic, while it is worked on), and visible. All clocks are this machine's
monotonic one. Sender, consumer and prober are processes or threads of their own: `python -m benchmarks.visibility`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import msgspec
import structlog

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.ingest.kafka import open_admin, open_group_source, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.record_keys import agent_partition_key, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog

from .distributed_services import (
    PARTITIONS,
    AllPartitionsOwner,
    DistributedDeployment,
    MeasuredWorker,
    now_ms,
)

NUMBER, TIME = b"@@@@@@@@@@@@", b"@@@@-@@-@@T@@:@@:@@.@@@Z"
PROBES_PER_S, SLICE_S, LOST_S = 10.0, 0.02, 30.0
MARK = b'"id":"probe-'


class Visibility(NamedTuple):
    """Milliseconds: p50 and p99 of each way."""

    alone: tuple[float, float]
    beside: tuple[float, float]
    visible: tuple[float, float]
    rate: float  # events per second beside the probes
    probes: int


class EventTemplate(msgspec.Struct):
    """An event to be sent over and over, with holes for its id and time."""

    key: bytes
    tenant: str
    payload: bytes


def measure_visibility(
    site: DistributedDeployment, raws: Sequence[bytes], rate: float, rounds: int, seconds: float
) -> Visibility:
    """Medians over *rounds* of both ways, taking turns, with a worker and a replica of *site*."""
    bodies = site.folder / "bodies"
    bodies.write_bytes(msgspec.msgpack.encode([_make_template(raw) for raw in raws]))
    apart = msgspec.structs.replace(site.kafka, names={**site.kafka.names, "events": "bare"})
    admin = open_admin(apart)
    admin.create_topics(apart.topic_names, PARTITIONS, 1)
    admin.close()
    worker = site.worker()
    worker.wait_for(lambda said: said.partitions == PARTITIONS)
    turns: dict[str, list[list[float]]] = {"alone": [], "beside": [], "visible": []}
    with start_replica(site) as asker:
        for _ in range(rounds):
            bare, _ = measure_probes(apart, bodies, rate, seconds, None)
            beside, visible = measure_probes(site.kafka, bodies, rate, seconds, asker)
            wait_until_idle(worker)
            for name, took in (("alone", bare), ("beside", beside), ("visible", visible)):
                turns[name].append(took)
    worker.stop()
    figures = {name: tuple(map(median, zip(*map(_quantiles, given), strict=True))) for name, given in turns.items()}
    return Visibility(**figures, rate=rate, probes=sum(map(len, turns["visible"])))


def wait_until_idle(worker: MeasuredWorker) -> None:
    """Wait until the worker has nothing to do."""
    told = len(worker.samples)
    while not (worker.samples[told:] and worker.samples[-1].behind == 0):
        worker.check()
        time.sleep(0.1)


def _make_template(raw: bytes) -> EventTemplate:
    event = json.loads(raw)
    agent = event["agent"]
    event |= {"id": NUMBER.decode(), "time": TIME.decode()}
    key = agent_partition_key(event["tenant"], agent.get("issuer", ""), agent["id"])
    return EventTemplate(key, event["tenant"], json.dumps(event, separators=(",", ":")).encode())


def _quantiles(took: list[float]) -> tuple[float, float]:
    cut = quantiles(took, n=100, method="inclusive")
    return cut[49] * 1e3, cut[98] * 1e3


class RiskPoller:
    """Asks the replica about probes until it knows them."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f" HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n\r\n"

    async def seconds_until_known(self, agent: str, since_s: float) -> float:
        """Seconds from *since_s* until the replica knows *agent*."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        question = f"GET /v1/agents/{agent}/risk?tenant=bench{self._head}".encode()
        while (passed := time.monotonic() - since_s) < LOST_S:
            writer.write(question)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
            if b'"issuer":"urn:bench"' in body:
                writer.close()
                return time.monotonic() - since_s
            await asyncio.sleep(max(0.002, 0.03 * passed))
        raise SystemExit(f"a probe is not seen in {LOST_S:.0f} s")


@contextlib.contextmanager
def start_replica(site: DistributedDeployment) -> Iterator[RiskPoller]:
    """`serve --api-only` of the site, ready."""
    key = LocalSigningKey.open(site.folder / "data")
    token = key.issue_token("bench", "bench", ALL_SCOPES, "trustwatch", 86_400, time.time(), secrets.token_hex(8))
    command = [sys.executable, "-m", "trustwatch", "serve", "--settings", str(site.settings_file), "--api-only"]
    with (site.folder / "replica.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{site.port}/readyz").close()  # nosec B310 # http, to this machine
                break
            time.sleep(0.1)
        else:
            raise SystemExit("the replica is not ready")
        yield RiskPoller(site.port, token)
    finally:
        process.terminate()
        process.wait(60)


def measure_probes(
    kafka: KafkaClientSettings, bodies: Path, rate: float, seconds: float, asker: RiskPoller | None
) -> tuple[list[float], list[float]]:
    """Seconds that probes took to a bare consumer and, with an *asker*, to the replica's answer."""
    group = f"bare-{time.time_ns()}"
    consumer = _start("consume", msgspec.structs.replace(kafka, group_id=group))
    assert consumer.stdout is not None
    consumer.stdout.readline()  # it has its partitions
    sender = _start(
        "send", msgspec.structs.replace(kafka, client="confluent"), str(bodies), str(rate), str(seconds + 4)
    )
    time.sleep(3.0)
    began, seen = asyncio.run(_probes(kafka, seconds, asker))
    sender.wait()
    time.sleep(1.0)
    consumer.terminate()
    arrived: dict[str, float] = json.loads(consumer.communicate()[0])
    return [arrived[name] - since for name, since in began.items()], seen


def _start(what: str, kafka: KafkaClientSettings, *more: str) -> subprocess.Popen[str]:
    chosen = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client": kafka.client,
        "names": kafka.topic_names._asdict(),
    }
    told = msgspec.json.encode(chosen).decode()
    command = [sys.executable, "-m", "benchmarks.visibility", what, told, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def _probes(
    kafka: KafkaClientSettings, seconds: float, asker: RiskPoller | None
) -> tuple[dict[str, float], list[float]]:
    """Send probes at their times; returns when each was handed to the producer, and how long until it was seen."""
    writer, loop, began = open_writer(kafka), asyncio.get_running_loop(), {}
    log, run = TopicCommitLog(writer, kafka.topic_names.events), secrets.token_hex(4)
    asking: list[asyncio.Task[float]] = []
    start = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        for number in range(int(seconds * PROBES_PER_S)):
            await asyncio.sleep(start + number / PROBES_PER_S - time.monotonic())
            name = f"probe-{run}-{number}"
            record = _probe(name)
            began[name] = time.monotonic()
            await loop.run_in_executor(thread, _write, log, [record])
            if asker is not None:
                asking.append(asyncio.create_task(asker.seconds_until_known(name, began[name])))
        seen = await asyncio.gather(*asking)
    log.close()
    writer.close()
    return began, seen


def _write(log: TopicCommitLog, records: list[Record]) -> None:
    log.append(records)
    log.sync()


def _probe(name: str) -> Record:
    at_ms = now_ms()
    event = {
        "id": name,
        "time": format_rfc3339(at_ms),
        "tenant": "bench",
        "type": "tool.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": name, "issuer": "urn:bench", "type": "probe"},
    }
    raw = json.dumps(event, separators=(",", ":")).encode()
    key = agent_partition_key("bench", "urn:bench", name)
    return Record(RecordKind.EVENT, unkeyed_event_id_hash("bench", "", name, raw), at_ms, raw, key)


def send(kafka: KafkaClientSettings, bodies: Path, rate: float, seconds: float) -> None:
    """The load: events at *rate*, in slices, as the door writes them."""
    waiting = msgspec.msgpack.decode(bodies.read_bytes(), type=list[EventTemplate])
    writer = open_writer(kafka)
    log, sent, first = TopicCommitLog(writer, kafka.topic_names.events), 0, time.time_ns() // 1000 % 10**12
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        due = min(int((passed + SLICE_S) * rate) - sent, 5_000)
        at_ms = now_ms()
        stamp = format_rfc3339(at_ms).encode()
        records = []
        for number in range(sent, sent + due):
            one, name = waiting[number % len(waiting)], b"%012d" % ((first + number) % 10**12)
            raw = one.payload.replace(NUMBER, name).replace(TIME, stamp)
            id_hash = unkeyed_event_id_hash(one.tenant, "", name.decode(), raw)
            records.append(Record(RecordKind.EVENT, id_hash, at_ms, raw, one.key))
        _write(log, records)
        sent += due
        time.sleep(max(0.0, start + sent / rate - SLICE_S / 2 - time.monotonic()))
    writer.close()


def consume(kafka: KafkaClientSettings) -> None:
    """The bare consumer: when it was handed each probe, as JSON, when it is told to end."""
    source, arrived = open_group_source(kafka), {}
    source.join(AllPartitionsOwner())
    while len(source.owned()) < PARTITIONS:
        source.poll(1, 0.1)
    for partition in range(PARTITIONS):
        source.seek(partition, source.end_offset(partition))
    print("ready", flush=True)
    ending = _termination_flag()
    while not ending:
        batch = source.poll(1000, 0.2)
        now = time.monotonic()
        for record in batch.records if batch else ():
            if record.payload.startswith(b"{" + MARK):
                arrived[record.payload[7 : record.payload.index(b'"', 7)].decode()] = now
    print(json.dumps(arrived), flush=True)
    source.close()


def _termination_flag() -> list[int]:
    """Becomes true with SIGTERM."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    return told


if __name__ == "__main__":
    # What the consumer found goes to stdout, and nothing else: a line of the log there was taken for it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = msgspec.json.decode(sys.argv[2], type=KafkaClientSettings)
    if sys.argv[1] == "send":
        send(settings, Path(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    else:
        consume(settings)
