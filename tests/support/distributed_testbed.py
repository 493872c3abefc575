"""What the tests of the distributed form share: topics and a database of one test, workers, load, and the comparison.

Workers are the product's own processes, started as the service starts them: a test can kill or stop exactly one.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from trustwatch.api.composition import open_service_store
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.api.service.commands import drain_events
from trustwatch.api.settings.loading import load_process_settings
from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.kafka import open_admin, open_reader, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.log.event_log import LogFailed
from trustwatch.ingest.record_keys import agent_partition_key, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.record_codec import TopicRecord
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.delivery.actuators.desired_state import ACTION_ROW_KIND
from trustwatch.scoring.pipeline.ipc import LENGTH_PREFIX, PipelineUpdate, decode_update
from trustwatch.scoring.records.agents import AgentName, AgentRow, AgentSummary, RiskRecord
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.sql_store import SqlStore

from .checkout import ROOT, process_command
from .service_process import Service

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

SESSION_S = 6
PARTITIONS = 4
UNDISTURBED = "undisturbed"
"""Prefix of the topics that undisturbed runs tell; nobody reads them."""

SETTINGS = """\
data_dir: {folder}/data
model_dir: {model}
listen: {{port: {port}}}
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: {folder}/data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: all, client_id: all, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
store: {{url: "{url}", password: {{file: {folder}/password}}}}
pipeline: {{commit_interval_s: 0.2, tick_interval_s: {tick_s}, resident_agents: {residents}}}
risk: {{half_life_s: 2, hold_s: 4, staleness_s: {staleness_s}}}
kafka:
  bootstrap_servers: [{servers}]
  client: {client}
  group_id: {group}
  session_timeout_s: {session_s}
  topics: {topics}
  partitions: {partitions}
  replication: {replication}
  names:
    {{events: {events}, dead_letters: {out}.dlq, risk: {out}.risk, decisions: {out}.decisions, alerts: {out}.alerts}}
{more}"""


def wait(until: Callable[[], Any], within_s: float = 180.0, what: str = "") -> Any:
    deadline = time.monotonic() + within_s
    while not (found := until()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or until}"
        time.sleep(0.05)
    return found


class WorkerProcess:
    """One worker of the group, as `serve --workers-only` starts it, with what it reports.

    Args:
        settings: its settings file.
        log: takes what it says.
        fault: what becomes of it and at which commit, see `tests.support.processes.faulty_worker`; "" = nothing.
    """

    def __init__(self, settings: Path, log: Path, fault: str = "") -> None:
        ours, theirs = socket.socketpair()
        worker = [sys.executable, "-m", "trustwatch.api.service.pipeline_worker"]
        program = process_command("faulty_worker", fault) if fault else worker
        command = [*program, "--settings", str(settings), "--socket", str(theirs.fileno())]
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdout=stream, stderr=stream)
        theirs.close()
        self._connection = ours
        self.heard: PipelineUpdate | None = None
        self.most_behind = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with self._connection.makefile("rb") as stream, suppress(OSError):
            while head := stream.read(LENGTH_PREFIX.size):
                (length,) = LENGTH_PREFIX.unpack(head)
                self.heard = decode_update(stream.read(length))
                self.most_behind = max(self.most_behind, self.heard.behind)

    @property
    def partitions(self) -> set[int]:
        """What it worked on at its last report."""
        return set(self.heard.fresh or ()) if self.heard else set()

    def count(self, name: str) -> int:
        """One of its counters at the last report."""
        return self.heard.counts.get(name, 0) if self.heard else 0

    def log(self) -> str:
        return self._log.read_text()

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def working(self, partitions: int = 1) -> Any:
        """Wait until it works on so many partitions, at least."""

        def reached() -> bool:
            assert self.process.poll() is None, self.log()
            return len(self.partitions) >= partitions

        return wait(reached, what=f"{partitions} partitions for a worker")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stopped(self) -> bool:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def kill(self) -> None:
        self.process.kill()
        self.ended()

    def stop(self) -> None:
        """End it in good order; it must do so without an error."""
        self.process.terminate()
        assert self.ended() == 0, self.log()

    def ended(self, within_s: float = 90.0) -> int:
        try:
            return self.process.wait(within_s)
        finally:
            self._connection.close()


class State(NamedTuple):
    """Everything that must not depend on what happened to the workers."""

    agents: dict[int, AgentRow]
    decisions: dict[str, Decision]
    alerts: dict[str, str]  # outbox key -> payload
    actions: dict[str, str]  # the same, of what actuators are to bring about
    letters: dict[str, DeadLetter]
    edges: dict[str, str]  # id -> row as JSON


class DistributedTestbed:
    """Topics and a database of one test, and everything that runs on them.

    Args:
        folder: of this test.
        kafka, postgres: running services.
        model: of the world.
        replication: of the topics.
        members: of the settings file, over the defaults of this class.
    """

    def __init__(
        self, folder: Path, kafka: KafkaCluster, postgres: Postgres, model: Path, replication: int = 1, **members: Any
    ) -> None:
        self.folder, self.kafka, self.postgres = folder, kafka, postgres
        with socket.create_server(("127.0.0.1", 0)) as free:  # part of what alerts link to: the same in every run
            self.port = free.getsockname()[1]
        self.name = f"d{secrets.token_hex(4)}"
        self.database = postgres.create_database()
        self._defaults = {
            "folder": folder,
            "model": json.dumps(str(model)),
            "tick_s": 1,
            "residents": 4000,
            "staleness_s": 300,
            "servers": ",".join(f'"{server}"' for server in kafka.bootstrap.split(",")),
            "client": "kafka-python",
            "session_s": SESSION_S,
            "port": self.port,
            "partitions": PARTITIONS,
            "replication": replication,
            "topics": "[]",
            "more": "",
            "events": f"{self.name}.events",
            **members,
        }
        (folder / "password").write_text(re.search(":([^:@]+)@", postgres.url)[1])  # type: ignore[index]
        self.settings_file = self.write_settings("main", self.database, self.name, self.name)
        self.settings = load_process_settings(self.settings_file)
        self.kafka_settings = self.settings.kafka
        with self.admin() as admin:
            admin.create_topics(self.kafka_settings.topic_names, self._defaults["partitions"], replication)
        self.store = open_service_store(self.settings)
        self.workers: list[WorkerProcess] = []
        self._undisturbed = ""

    def admin(self) -> closing[Any]:
        return closing(open_admin(self.kafka_settings))

    def write_settings(self, name: str, database: str, group: str, out: str, **members: Any) -> Path:
        url = re.sub(":[^:@]+@", "@", self.postgres.url_of(database))
        path = self.folder / f"{name}.yaml"
        values = {**self._defaults, "url": url, "group": group, "out": out, **members}
        path.write_text(SETTINGS.format(**values))
        return path

    def worker(self, fault: str = "", settings: Path | None = None) -> WorkerProcess:
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(WorkerProcess(settings or self.settings_file, log, fault))
        return self.workers[-1]

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command of ours that must succeed; its answer (`--json`)."""
        command = [sys.executable, "-m", "trustwatch", *arguments, "--settings", str(self.settings_file), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def logs(self) -> str:
        return "".join(worker.log() for worker in self.workers)

    def offsets(self) -> dict[int, int]:
        """What the state of each partition is made of."""
        return {position.partition: position.offset for position in self.store.partitions.list_positions()}

    def epochs(self) -> dict[int, int]:
        """How often each partition was taken over."""
        return {position.partition: position.epoch for position in self.store.partitions.list_positions()}

    def ends(self) -> dict[int, int]:
        with closing(open_reader(self.kafka_settings, (self.kafka_settings.topic_names.events,))) as reader:
            return {partition: end for (_, partition), end in reader.end_offsets().items()}

    def settle(self, stalled_s: float = 240.0) -> None:
        """Wait until everything that is in the topic now is in the store, as long as more of it gets there."""
        ends = self.ends()

        def lacking() -> dict[int, int]:
            offsets = self.offsets()
            return {at: offsets.get(at, 0) for at, end in ends.items() if offsets.get(at, 0) < end}

        before = lacking()
        while before:
            wait(lambda: lacking() != before, stalled_s, "more applied")  # noqa: B023
            before = lacking()

    def finish(self) -> None:
        """End all workers in good order, and apply what they wrote last: their ticks."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.stop()
        drain_events(self.settings)

    def undisturbed(self, prepare: Callable[[SqlStore], None] = lambda _: None) -> SqlStore:
        """The store of one worker that read the same records from the first one, alone and in peace.

        Args:
            prepare: called with the empty store.
        """
        self._undisturbed = self.postgres.create_database()
        group = f"{self.name}.{UNDISTURBED}"
        path = self.write_settings("undisturbed", self._undisturbed, group, UNDISTURBED, residents=200_000)
        settings = load_process_settings(path)
        with self.admin() as admin:
            admin.create_topics(settings.kafka.topic_names, 8, self._defaults["replication"])
        store = open_service_store(settings)
        prepare(store)
        drain_events(settings)
        return store

    def check_end(self, sent: Counter[tuple[str, str]]) -> State:
        """Hold the end state to an undisturbed run, to what was sent, and to what the topics tell."""
        self.finish()
        with closing(self.undisturbed()) as other:
            ours, theirs = self.state(), state_of(other, self.postgres, self._undisturbed)
        assert_equal(ours, theirs)
        counted = Counter({(row.name.tenant, row.name.agent_id): row.events for row in ours.agents.values()})
        wrong = {name: (counted[name], count) for name, count in sent.items() if counted[name] != count}
        assert not wrong, f"{len(wrong)} of {len(sent)} agents, such as {list(wrong.items())[:5]}"
        assert len(counted) == len(sent)
        self.check_topics(ours)
        return ours

    def state(self) -> State:
        return state_of(self.store, self.postgres, self.database)

    def records(self, *topics: str) -> dict[str, list[TopicRecord]]:
        """All records of *topics* (roles, as in the settings)."""
        names = {getattr(self.kafka_settings.topic_names, role): role for role in topics}
        found: dict[str, list[TopicRecord]] = defaultdict(list)
        with closing(open_reader(self.kafka_settings, tuple(names))) as reader:
            while not reader.at_end():
                for part in reader.poll(0.2):
                    found[names[part.topic]].extend(part.records)
        return found

    def check_topics(self, state: State) -> None:
        """What left by topics is what is stored: nothing is missing, and nothing else was ever told."""
        found = self.records("risk", "decisions", "alerts", "dead_letters")
        told = latest_risk(found["risk"])
        assert told.keys() == state.agents.keys()
        for key, record in told.items():
            assert as_told(record) == as_stored(state.agents[key])
        decisions = {json.loads(raw.value or b"")["id"] for raw in found["decisions"]}
        assert decisions == state.decisions.keys()
        assert {raw.value.decode() for raw in found["alerts"] if raw.value} == set(state.alerts.values())
        assert {raw.key.decode() for raw in found["dead_letters"] if raw.key} == state.letters.keys()

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.kill()
        self.store.close()
        self.postgres.start()
        for database in filter(None, (self.database, self._undisturbed)):
            self.postgres.drop_database(database)


def _without_case(payload: bytes) -> bytes:
    """An alert as the pipeline wrote it: to which case it belongs follows the order of routing, not the log."""
    if b'"case":{' not in payload:
        return payload
    event = msgspec.json.decode(payload)
    event["data"].pop("case", None)
    return msgspec.json.encode(event)


def state_of(store: SqlStore, postgres: Postgres, database: str) -> State:
    keys = [summary.name.key for summary in store.agents.iterate()]
    decisions = [one for partition in range(8) for one in store.decisions.iterate_unpublished(partition, -1)]
    rows = postgres.sql("select kind, key, encode(payload, 'hex') from outbox", database)
    leaving: dict[str, dict[str, str]] = {"alert": {}, ACTION_ROW_KIND: {}}
    for line in rows.splitlines():
        kind, key, payload = line.split("|")
        leaving[kind][key] = _without_case(bytes.fromhex(payload)).decode()
    edges = postgres.sql("select edge_id, row_to_json(edges) from edges", database)
    page = store.dead_letters.page(limit=500)
    letters = list(page.items)
    while page.next_cursor is not None:
        page = store.dead_letters.page(limit=500, cursor=page.next_cursor)
        letters += page.items
    return State(
        store.agents.load(keys),
        {one.decision_id: one for one in decisions},
        leaving["alert"],
        leaving[ACTION_ROW_KIND],
        {one.letter_id: one for one in letters},
        dict(line.split("|", 1) for line in edges.splitlines()),
    )


def assert_equal(ours: State, theirs: State) -> None:
    """Say what differs, in a form that a person can read."""
    for name in State._fields:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine.keys() != other.keys():
            missing, more = len(other.keys() - mine.keys()), len(mine.keys() - other.keys())
            pytest.fail(f"{name}: {missing} of {len(other)} are missing, {more} are too many", pytrace=False)
        differing = [key for key in mine if mine[key] != other[key]]
        assert not differing, (
            f"{name}: {len(differing)} of {len(mine)} differ, first {_difference(mine, other, differing)}"
        )


def _difference(ours: dict[Any, Any], theirs: dict[Any, Any], keys: list[Any]) -> dict[str, Any]:
    one, two = ours[keys[0]], theirs[keys[0]]
    if isinstance(one, str):
        return {"ours": one, "theirs": two}
    return {
        name: (getattr(one, name), getattr(two, name))
        for name in one.__struct_fields__
        if getattr(one, name) != getattr(two, name)
    }


def latest_risk(records: list[TopicRecord]) -> dict[int, RiskRecord]:
    """What a reader of the risk topic holds at the end."""
    latest: dict[int, RiskRecord] = {}
    for raw in records:
        if raw.value is None or (raw.key or b"").startswith(b"{"):
            continue
        record = msgspec.json.decode(raw.value, type=RiskRecord)
        known = latest.get(int(record.agent_key))
        if known is None or (record.epoch, record.offset) >= (known.epoch, known.offset):
            latest[int(record.agent_key)] = record
    return latest


def as_told(record: RiskRecord) -> tuple[Any, ...]:
    """What of a risk record must be as stored; the rest is not sent anew while nothing that is acted on changes."""
    who = (record.tenant, record.issuer, record.agent_id, record.agent_type)
    why = (record.decision_id, bytes(record.reasons), record.counterfactual)
    return *who, record.risk_level, *why, round(record.risk_score, 3), record.due_ms


def as_stored(row: AgentRow | AgentSummary) -> tuple[Any, ...]:
    level = ("unknown", "low", "medium", "high", "critical")[row.level]
    who = (row.name.tenant, row.name.issuer, row.name.agent_id, row.agent_type)
    why = (row.decision_id, row.reasons, row.counterfactual)
    return *who, level, *why, round(row.risk_score, 3), row.due_ms


def tell(what: str) -> None:
    """A figure, for whoever runs with -s or -rP."""
    sys.stdout.write(f"\n{what}\n")


class Template(NamedTuple):
    """An event of the world with holes in it: head, id, middle, time, and so on, in the order of its text."""

    value: dict[str, Any]
    tenant: str
    issuer: str
    agent: str


class Load(threading.Thread):
    """A producer that knows no better than to send a batch again until it is acknowledged.

    Args:
        kafka: where to.
        day: events of the world; each is sent by many agents, which are clones of those it knows.
        rate: events per second; 0 = as fast as it goes.
        clones: of each agent.
        twice: share of the batches that is sent twice, acknowledged or not.
        most: events after which it ends by itself; 0 = none.
        keep: whether to keep what it has sent in `records`.
    """

    def __init__(
        self,
        kafka: KafkaClientSettings,
        day: list[bytes],
        rate: int = 1000,
        *,
        clones: int = 150,
        twice: float = 0.0,
        most: int = 0,
        name: str = "load",
        keep: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._kafka, self._rate, self._clones, self._twice, self._most = kafka, rate, clones, twice, most
        self._keep = keep
        self._day = [_template(raw) for raw in day]
        self._dice = random.Random(name)
        self._ended = threading.Event()
        self.sent: Counter[tuple[str, str]] = Counter()
        self.records: list[Record] = []
        self.total = 0
        self.again = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # told by `end`
            self.failure = error

    def _run(self) -> None:
        started = time.monotonic()
        with self._opened() as send:
            while not self._ended.is_set() and not (self._most and self.total >= self._most):
                batch = [self._record(self.total + number) for number in range(self._rate // 20 or 2000)]
                send(batch)
                if self._twice and self._dice.random() < self._twice:
                    send(batch)
                    self.again += len(batch)
                self.total += len(batch)
                if self._rate:
                    self._ended.wait(max(0.0, started + self.total / self._rate - time.monotonic()))

    @contextmanager
    def _opened(self) -> Iterator[Callable[[list[Record]], None]]:
        """What sends a batch until it is acknowledged."""
        with (
            closing(open_writer(self._kafka)) as writer,
            closing(TopicCommitLog(writer, self._kafka.topic_names.events, 10.0)) as log,
        ):
            yield partial(self._send, log)

    def _send(self, log: TopicCommitLog, batch: list[Record]) -> None:
        while True:
            try:
                log.append(batch)
                log.sync()
            except LogFailed:
                self.again += len(batch)
                log.reopen()
                self._ended.wait(0.1)
            else:
                return

    def _record(self, number: int) -> Record:
        value, tenant, issuer, agent = self._day[number % len(self._day)]
        clone = self._dice.randrange(self._clones)
        agent_id = f"{agent}~{clone}"  # not in the model's history: its count begins with our first event
        now_ms = time.time_ns() // 1_000_000
        agent = {**value["agent"], "id": agent_id}
        event = {**value, "id": f"{self.name}:{number}", "time": _stamp(now_ms), "agent": agent}
        raw = msgspec.json.encode(event)
        self.sent[tenant, agent_id] += 1
        id_hash = unkeyed_event_id_hash(tenant, "load", event["id"], raw)
        record = Record(RecordKind.EVENT, id_hash, now_ms, raw, agent_partition_key(tenant, issuer, agent_id))
        if self._keep:
            self.records.append(record)
        return record

    def reached(self, more: int) -> None:
        """Wait until so many more events are acknowledged."""
        goal = self.total + more

        def sent() -> bool:
            assert self.failure is None, self.failure
            return self.total >= goal or not self.is_alive()

        wait(sent, 60.0, f"{more} more events sent")

    def end(self) -> Counter[tuple[str, str]]:
        """Stop sending; returns the events of each agent."""
        self._ended.set()
        self.join(60.0)
        assert self.failure is None, self.failure
        return self.sent


class Refusal(NamedTuple):
    """An answer of the door that took no events."""

    status: int
    waited_s: float
    retry_after: str


class DoorLoad(Load):
    """The same by HTTP, through the door of a replica.

    Args:
        replica: whose door.
        how: as for `Load`.
    """

    def __init__(self, replica: Serving, kafka: KafkaClientSettings, day: list[bytes], **how: Any) -> None:
        super().__init__(kafka, day, **how)
        self._replica = replica
        self.refusals: list[Refusal] = []

    @contextmanager
    def _opened(self) -> Iterator[Callable[[list[Record]], None]]:
        yield self._post

    def _post(self, batch: list[Record]) -> None:
        body = b"\n".join(record.payload for record in batch)
        while True:
            began = time.monotonic()
            answer = self._replica.post(body)
            if answer.status_code == 202:
                return
            waited_s, retry_after = time.monotonic() - began, answer.headers.get("retry-after", "")
            self.refusals.append(Refusal(answer.status_code, waited_s, retry_after))
            self.again += len(batch)
            self._ended.wait(0.5)


def _template(raw: bytes) -> Template:
    value = msgspec.json.decode(raw)
    return Template(value, value["tenant"], value["agent"].get("issuer", ""), value["agent"]["id"])


def _stamp(ms: int) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000))
    return f"{seconds}.{ms % 1000:03d}Z"


class Serving(Service):
    """`trustwatch serve --api-only` or `--workers-only` on a rig.

    Args:
        rig: whose topics and database.
        option: the part; "" = all of it.
        members: of the settings file.
    """

    def __init__(self, rig: DistributedTestbed, option: str, **members: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        name = f"serve-{self.port}"
        self.folder = rig.folder / name
        self.folder.mkdir()
        self.settings = rig.write_settings(name, rig.database, rig.name, rig.name, port=self.port, **members)
        self.key = LocalSigningKey.open(rig.folder / "data")
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=30.0)
        self.process = None
        self._option = option

    def command(self, *arguments: str) -> list[str]:
        more = (self._option,) if self._option and arguments[0] == "serve" else ()
        return super().command(*arguments, *more)

    def risk(self, agent: str, tenant: str = "acme-corp") -> dict[str, Any]:
        answer = self.get(f"/v1/agents/{quote(agent)}/risk", tenant=tenant)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answers(self, agents: Iterable[AgentName]) -> dict[AgentName, dict[str, Any]]:
        """What it says of each, without how fresh that is and what is not told anew while nothing else changes."""
        found = {}
        for name in agents:
            said = self.risk(name.agent_id, name.tenant)
            fleeting = ("expires_at", "stale", "evaluated_at", "risk_score", "confidence")
            found[name] = {key: said[key] for key in said if key not in fleeting}
        return found


def archive_reaches(folder: Path, ends: dict[int, int]) -> bool:
    """Whether the archive goes up to *ends*."""
    try:
        positions = read_positions(folder) or {}
    except ConfigError:
        return False
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())


def switches_to(rig: Any, version: str) -> list[Any]:
    return [switch for switch in rig.store.models.list_switches() if switch.version == version]


def attacked_event(world: Any) -> dict[str, Any]:
    """An event of an agent that is attacked: it has decisions."""
    tenant, agent = sorted(world.attacked)[0]
    return next(
        event for event in map(json.loads, world.day) if (event["tenant"], event["agent"]["id"]) == (tenant, agent)
    )


def post_json(service: Any, path: str, body: dict[str, Any]) -> Any:
    return service.client.post(path, json=body, headers=service.auth())


def write_events(rig: Any, events: list[dict[str, Any]]) -> None:
    records = []
    for number, event in enumerate(events):
        route = agent_partition_key(event["tenant"], event["agent"]["issuer"], event["agent"]["id"])
        id_hash, raw = hash((event["id"], number)) & (2**63 - 1), json.dumps(event).encode()
        records.append(Record(RecordKind.EVENT, id_hash, event_time_ms(event), raw, route))
    with closing(open_writer(rig.kafka_settings)) as writer:
        log = TopicCommitLog(writer, rig.kafka_settings.topic_names.events)
        log.append(records)
        log.sync()


def event_time_ms(event: dict[str, Any]) -> int:
    return int(msgspec.convert(event["time"], datetime).timestamp() * 1000)
