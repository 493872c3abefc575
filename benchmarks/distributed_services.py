"""What the benchmarks of the distributed form share: real services, a trained model, topics full of events, workers.

Kafka and PostgreSQL are started for this alone by the library behind `scripts/services`, one broker, fsync on. Workers
are the product's own processes, started as `serve --workers-only` starts them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.service_stack import KafkaCluster, Postgres
from trustwatch.api.composition import open_service_store
from trustwatch.api.settings.loading import load_process_settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.kafka import open_admin, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.record_keys import agent_partition_key, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.ipc import LENGTH_PREFIX, PipelineUpdate, decode_update

PARTITIONS = 4
SALT = b"benchmark"
TICK = os.sysconf("SC_CLK_TCK")
SETTINGS = """\
data_dir: {folder}/data
model_dir: {folder}/model
listen: {{port: {port}}}
issuers: [{{issuer: "urn:trustwatch:local", jwks_file: {folder}/data/local-jwks.json, audiences: [trustwatch]}}]
callers: [{{name: bench, client_id: bench, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}]
store: {{url: "{url}", password: {{file: {folder}/password}}}}
pipeline: {{tick_interval_s: {tick_s}}}
kafka:
  bootstrap_servers: ["{bootstrap}"]
  client: {client}
  group_id: {name}
  session_timeout_s: 6
  partitions: {partitions}
  replication: 1
  names: {{events: {events}, dead_letters: {name}.dlq, risk: {name}.risk, decisions: {name}.decisions,
           alerts: {name}.alerts}}
"""


class BackingServices(NamedTuple):
    """A running broker and a running database server."""

    kafka: KafkaCluster
    postgres: Postgres

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far of the broker, and of the database server with all its sessions."""
        (node,) = self.kafka.status()["nodes"]
        return cpu_of(node["pid"]), tree_cpu_of(self.postgres.status()["pid"])


@contextlib.contextmanager
def start_services(folder: Path) -> Iterator[BackingServices]:
    """Both, ended and removed afterwards. Raises Unavailable where one can not be had on this machine."""
    postgres = Postgres(folder / "postgres", bound=True)
    postgres.start()
    try:
        with start_broker(folder) as kafka:
            yield BackingServices(kafka, postgres)
    finally:
        postgres.remove()


@contextlib.contextmanager
def start_broker(folder: Path) -> Iterator[KafkaCluster]:
    """A broker, ended and removed afterwards. Raises Unavailable where none can be had on this machine."""
    kafka = KafkaCluster(folder / "kafka", heap_mb=512, bound=True)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.remove()


def cpu_of(pid: int) -> float:
    """User and system seconds of a process so far; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def tree_cpu_of(pid: int) -> float:
    """The same with the children that live, and those that were waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / TICK + sum(cpu_of(int(child)) for child in children)


def now_ms() -> int:
    """UTC milliseconds: records of ours must be as young as the topic's retention wants them."""
    return time.time_ns() // 1_000_000


def train(folder: Path, raws: Sequence[bytes]) -> None:
    """Save a model of this history where the settings look for it."""
    settings = DetectorSettings()
    learned = train_walk_forward(
        ColumnEncoder(SALT).encode([decode_event(raw) for raw in raws]), SALT, "bench", settings
    )
    save_trained_model(folder / "model", learned.model, settings, 0, 0)


def record_of(raw: bytes, received_ms: int) -> Record:
    """An event as the ingest role writes it."""
    event = decode_event(raw)
    tenant, agent = event.tenant or "", event.agent
    id_hash = unkeyed_event_id_hash(event.tenant, event.source or "bench", event.id, raw)
    return Record(
        RecordKind.EVENT, id_hash, received_ms, raw, agent_partition_key(tenant, agent.issuer or "", agent.id)
    )


class DistributedDeployment:
    """Topics and a database of their own; its settings file makes workers and replicas.

    Args:
        folder: with the model; takes settings and logs.
        found: where it runs.
        name: of the group, and prefix of the topics that workers write.
        events: topic to read; several sites may read the same one.
        client: of Kafka.
        tick_s: how often workers write time into the topic: hardly ever where a topic is to be drained.
    """

    def __init__(
        self,
        folder: Path,
        found: BackingServices,
        name: str,
        events: str,
        client: str = "kafka-python",
        tick_s: float = 3600,
    ) -> None:
        self.folder, self.name, self.services = folder, name, found
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.database = found.postgres.create_database()
        password = re.search(":([^:@]+)@", found.postgres.url)
        assert password is not None
        (folder / "password").write_text(password[1])
        self.settings_file = folder / f"{name}.yaml"
        url = re.sub(":[^:@]+@", "@", found.postgres.url_of(self.database))
        self.settings_file.write_text(
            SETTINGS.format(
                folder=json.dumps(str(folder))[1:-1],
                port=self.port,
                url=url,
                tick_s=tick_s,
                client=client,
                name=name,
                bootstrap=found.kafka.bootstrap,
                partitions=PARTITIONS,
                events=events,
            )
        )
        self.settings = load_process_settings(self.settings_file)
        self.kafka: KafkaClientSettings = self.settings.kafka
        admin = open_admin(self.kafka)
        admin.create_topics(self.kafka.topic_names, PARTITIONS, 1)
        admin.close()
        self.store = open_service_store(self.settings)
        self._started = itertools.count()

    def write_events(self, records: Iterable[Record], at_once: int = 5_000) -> int:
        """Write *records* to the events topic; returns how many."""
        writer, waiting, count = open_writer(self.kafka), iter(records), 0
        log = TopicCommitLog(writer, self.kafka.topic_names.events)
        while part := list(itertools.islice(waiting, at_once)):
            log.append(part)
            log.sync()
            count += len(part)
        writer.close()
        return count

    def worker(self) -> MeasuredWorker:
        """Start a worker."""
        return MeasuredWorker(
            self.settings_file, self.folder / f"{self.name}-{next(self._started)}.log", self.services.cpu_s
        )

    def wait_stored(self, events: int, workers: Iterable[MeasuredWorker]) -> None:
        """Wait until the stored state is made of so many records of the events topic."""
        while sum(position.offset for position in self.store.partitions.list_positions()) < events:
            for worker in workers:
                worker.check()
            time.sleep(0.05)

    def close(self) -> None:
        """Drop the database."""
        self.store.close()
        self.services.postgres.drop_database(self.database)


class AllPartitionsOwner:
    """An owner that reads each partition from the beginning."""

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions: Collection[int]) -> None:
        pass

    def lost(self, partitions: Collection[int]) -> None:
        pass


class ProgressSample(NamedTuple):
    """What a worker had done at one moment. Times in seconds since its start."""

    at_s: float
    cpu_s: float
    broker_cpu_s: float
    database_cpu_s: float
    behind: int
    partitions: int
    counts: dict[str, int]
    seconds: dict[str, float]


class MeasuredWorker:
    """One worker of the group, with what it reports twice a second.

    Args:
        settings: file.
        log: takes what it says.
        cpu: CPU seconds of broker and database, asked at each report.
    """

    def __init__(self, settings: Path, log: Path, cpu: Callable[[], tuple[float, float]]) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "trustwatch.api.service.pipeline_worker",
            "--settings",
            str(settings),
            "--socket",
            str(theirs.fileno()),
        ]
        self._log, self._cpu = log, cpu
        self.started = time.monotonic()
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=stream, stderr=stream)
        theirs.close()
        self._connection = ours
        self.samples: list[ProgressSample] = []
        threading.Thread(target=self._read_reports, daemon=True).start()

    def _read_reports(self) -> None:
        with self._connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := stream.read(LENGTH_PREFIX.size):
                (length,) = LENGTH_PREFIX.unpack(head)
                self._add_report(decode_update(stream.read(length)))

    def _add_report(self, said: PipelineUpdate) -> None:
        self.samples.append(
            ProgressSample(
                time.monotonic(),
                cpu_of(self.process.pid),
                *self._cpu(),
                said.behind,
                len(said.fresh or ()),
                said.counts,
                said.seconds,
            )
        )

    def wait_for(self, reached: Callable[[ProgressSample], bool], within_s: float = 600.0) -> ProgressSample:
        """Wait for a report that is so. Raises SystemExit where the worker ends before, or it takes too long."""
        looked, deadline = 0, time.monotonic() + within_s
        while True:
            for sample in self.samples[looked:]:
                looked += 1
                if reached(sample):
                    return sample
            self.check(deadline)
            time.sleep(0.02)

    def check(self, deadline: float = float("inf")) -> None:
        """Raise SystemExit where the worker has ended, or the time is over."""
        if self.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the worker does not get there:\n{self._log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End it in good order."""
        self.process.terminate()
        self.process.wait(60)
        self._connection.close()


def interpolate_sample(samples: Sequence[ProgressSample], when_s: float) -> dict[str, float]:
    """Everything that is counted, at a moment between two samples, as if it grew evenly between them."""
    after = next((number for number, one in enumerate(samples) if one.at_s >= when_s), len(samples) - 1)
    first, last = samples[max(after - 1, 0)], samples[after]
    share = 1.0 if last.at_s == first.at_s else min(1.0, max(0.0, (when_s - first.at_s) / (last.at_s - first.at_s)))
    before, then = growing_numbers(first), growing_numbers(last)
    return {name: before.get(name, 0.0) + share * (value - before.get(name, 0.0)) for name, value in then.items()}


def growing_numbers(sample: ProgressSample) -> dict[str, float]:
    """What of a sample grows."""
    told: dict[str, Any] = {"cpu": sample.cpu_s, "broker": sample.broker_cpu_s, "database": sample.database_cpu_s}
    return {**told, **sample.counts, **{f"{stage} s": spent for stage, spent in sample.seconds.items()}}
