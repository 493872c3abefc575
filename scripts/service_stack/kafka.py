"""A KRaft cluster of one or three brokers (controllers at the same time) on loopback."""

from __future__ import annotations

import base64
import contextlib
import secrets
import shutil
import signal
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from .certificates import make_certificates
from .kafka_configuration import LOG4J, BrokerNode, server_properties
from .kafka_jars import KAFKA_VERSION, java, kafka_jars
from .kafka_metadata import ClusterMetadata, ask_metadata
from .system import (
    ServerProcess,
    ServiceError,
    free_ports,
    last_lines,
    locked,
    read_json,
    run,
    write_json,
    write_private,
)

__all__ = ["KAFKA_VERSION", "KafkaCluster", "TlsListeners"]

HOST = "127.0.0.1"
FORMAT_S, START_S, STOP_S = 60.0, 90.0, 15.0


class TlsListeners(NamedTuple):
    """What a client needs for the listeners with TLS.

    Attributes:
        tls: `host:port` of the listener with TLS alone.
        sasl: `host:port` of the listener with TLS and SASL: PLAIN and SCRAM-SHA-512, same user and password.
        ca: file with the certificate of the CA; the brokers' names are `localhost` and 127.0.0.1.
        user: name of the one user.
        password: password of the one user.
    """

    tls: str
    sasl: str
    ca: Path
    user: str
    password: str


def cluster_id() -> str:
    """A new id as Kafka makes them: a UUID in URL-safe base64 that no program takes for an option."""
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


class KafkaCluster:
    """A cluster whose files are all in *folder*: `KafkaCluster(folder)` finds again what another process started there.

    Nodes are numbered from 1. Ports stay the same for the life of the folder.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        *,
        secure: bool = False,
        heap_mb: int = 384,
        port: int | None = None,
        bound: bool = False,
    ) -> None:
        """Read the state of *folder*; nothing starts yet.

        Args:
            folder: made if it does not exist.
            nodes: 1 or 3 brokers; if the folder has a cluster already, that counts.
            secure: with listeners for TLS and SASL; if the folder has a cluster already, that counts.
            heap_mb: Java heap of each broker, MiB.
            port: of the first broker, the others follow; None takes free ones.
            bound: whether brokers started here end with this process, however that ends.
        """
        self.folder = folder.absolute()
        self._file = self.folder / "state.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            self._state = read_json(self._file) or self._plan(nodes, secure, heap_mb, port)
        self._bound = bound
        self._processes = {node.number: self._process(node) for node in self._nodes()}

    @property
    def nodes(self) -> int:
        """How many brokers the cluster has."""
        return len(self._state["nodes"])

    @property
    def bootstrap(self) -> str:
        """`host:port` of all plain listeners, with commas between them: `bootstrap.servers`."""
        return str(self._state["bootstrap"])

    @property
    def secured(self) -> TlsListeners:
        """The listeners with TLS and SASL of a cluster made with *secure*."""
        known = self._state["secured"]
        if known is None:
            raise ServiceError(f"{self.folder}: this cluster was made without TLS and SASL")
        (node,) = self._nodes()
        tls, sasl = f"localhost:{node.tls_port}", f"localhost:{node.sasl_port}"
        return TlsListeners(tls, sasl, Path(known["ca"]), known["user"], known["password"])

    def start(self) -> None:
        """Start every broker that does not run, wake the paused, and wait until all of them are in the cluster.

        Raises:
            Unavailable: no Java, or Kafka cannot be fetched.
            ServiceError: a broker ends or does not answer in time.
        """
        with locked(self.folder / "lock"):
            for number, process in self._processes.items():
                process.signal(signal.SIGCONT)
                if not process.alive():
                    self._launch(number)
            self._save()
        for number in self._processes:
            self._wait_member(number, set(self._processes))

    def start_node(self, number: int) -> None:
        """Start one broker again after `kill_node`, and wait until it is in the cluster."""
        with locked(self.folder / "lock"):
            if not self._processes[number].alive():
                self._launch(number)
                self._save()
        self._wait_member(number, {number})

    def stop(self) -> None:
        """End all brokers in good order, or by force after a while. Data stay."""
        for process in self._processes.values():
            process.signal(signal.SIGTERM)
        for process in self._processes.values():
            if not process.wait_gone(STOP_S):
                process.kill()

    def kill(self) -> None:
        """kill -9 of all brokers."""
        for number in self._processes:
            self.kill_node(number)

    def kill_node(self, number: int) -> None:
        """kill -9 of one broker."""
        self._processes[number].kill()

    def pause_node(self, number: int) -> None:
        """SIGSTOP: connections stay open without an answer."""
        self._processes[number].pause()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def alive(self) -> dict[int, bool]:
        """For each node whether its process runs."""
        return {number: process.alive() for number, process in self._processes.items()}

    def metadata(self, *topics: str) -> ClusterMetadata:
        """What a broker that runs believes of the cluster and of *topics*.

        Raises:
            ServiceError: no broker answers.
        """
        for node in self._nodes():
            if self._processes[node.number].alive():
                with contextlib.suppress(OSError):
                    return ask_metadata(HOST, node.port, topics)
        raise ServiceError(f"{self.folder}: no broker answers; logs are in {self.folder}/node-*/broker.log")

    def leader(self, topic: str, partition: int) -> int:
        """Node that leads a partition; -1 if it has no leader now.

        Raises:
            ServiceError: no broker answers, or the partition does not exist.
        """
        found = self.metadata(topic).leaders.get((topic, partition))
        if found is None:
            raise ServiceError(f"{self.folder}: no partition {partition} of topic {topic}")
        return found

    def wait_in_sync(self, topic: str, replicas: int, within_s: float = 30.0) -> None:
        """Wait until every partition of *topic* has *replicas* in sync: only then may the next broker be killed.

        Raises:
            ServiceError: not in time.
        """
        deadline = time.monotonic() + within_s
        while True:
            counts = self.metadata(topic).in_sync
            if counts and min(counts.values()) >= replicas:
                return
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.folder}: replicas in sync of {topic} after {within_s} s: {counts}")
            time.sleep(0.1)

    def remove(self, *, keep_logs: bool = False) -> None:
        """End the brokers at once and delete all data, and *folder* unless the brokers' logs are to be kept."""
        self.kill()
        if not keep_logs:
            shutil.rmtree(self.folder)
            return
        for number in self._processes:
            shutil.rmtree(self._home(number) / "data", ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """The state file, and for each node whether it runs."""
        alive = self.alive()
        return self._state | {
            "service": "kafka",
            "folder": str(self.folder),
            "nodes": [node | {"alive": alive[node["number"]]} for node in self._state["nodes"]],
        }

    def _nodes(self) -> list[BrokerNode]:
        names = BrokerNode._fields
        return [BrokerNode(**{name: node[name] for name in names}) for node in self._state["nodes"]]

    def _plan(self, nodes: int, secure: bool, heap_mb: int, port: int | None) -> dict[str, Any]:
        if nodes not in (1, 3) or (secure and nodes != 1):
            raise ServiceError("a cluster has one broker, with or without TLS, or three without")
        ports = free_ports(nodes * 4)
        plain = ports[:nodes] if port is None else list(range(port, port + nodes))
        numbers = range(1, nodes + 1)
        planned = [
            BrokerNode(number, plain[number - 1], *ports[number * 3 + nodes - 3 : number * 3 + nodes])
            for number in numbers
        ]
        state = {
            "version": KAFKA_VERSION,
            "bootstrap": ",".join(f"{HOST}:{node.port}" for node in planned),
            "cluster_id": cluster_id(),
            "heap_mb": heap_mb,
            "secured": self._plan_secured() if secure else None,
            "nodes": [
                node._asdict() | {"pid": None, "folder": str(self._home(node.number)), "log": str(self._log(node))}
                for node in planned
            ],
        }
        write_json(self._file, state)
        return state

    def _plan_secured(self) -> dict[str, str]:
        store, ca = make_certificates(self.folder / "tls")
        return {"store": str(store), "ca": str(ca), "user": "trustwatch", "password": secrets.token_urlsafe(12)}

    def _home(self, number: int) -> Path:
        return self.folder / f"node-{number}"

    def _log(self, node: BrokerNode) -> Path:
        return self._home(node.number) / "broker.log"

    def _process(self, node: BrokerNode) -> ServerProcess:
        pid = next(known["pid"] for known in self._state["nodes"] if known["number"] == node.number)
        mark = str(self._home(node.number) / "server.properties")
        return ServerProcess(f"Kafka node {node.number}", mark, self._log(node), pid, bound=self._bound)

    def _launch(self, number: int) -> None:
        program, jars, home = java(), kafka_jars(), self._home(number)
        properties = home / "server.properties"
        if not (home / "data" / "meta.properties").exists():
            self._format(number, program, jars)
        heap = f"{self._state['heap_mb']}m"
        command: list[str | Path] = [
            program,
            f"-Xms{heap}",
            f"-Xmx{heap}",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}",
            "-cp",
            f"{jars}/*",
            "kafka.Kafka",
            properties,
        ]
        self._processes[number].start(command, home, {})

    def _format(self, number: int, program: str, jars: Path) -> None:
        home, known = self._home(number), self._state["secured"]
        home.mkdir(exist_ok=True)
        (home / "log4j2.properties").write_text(LOG4J)
        node = self._nodes()[number - 1]
        write_private(home / "server.properties", server_properties(node, self._nodes(), home / "data", known))
        scram = [] if known is None else [f"SCRAM-SHA-512=[name={known['user']},password={known['password']}]"]
        command: list[str | Path] = [
            program,
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}",
            "-cp",
            f"{jars}/*",
            "kafka.tools.StorageTool",
            "format",
            "--cluster-id",
            self._state["cluster_id"],
            "--config",
            home / "server.properties",
            *(word for one in scram for word in ("--add-scram", one)),
        ]
        done = run(command, timeout_s=FORMAT_S)
        if done.returncode != 0:
            raise ServiceError(f"kafka-storage format of {home / 'data'} failed:\n{last_lines(done.stdout)}")

    def _wait_member(self, number: int, wanted: set[int]) -> None:
        """Wait until node *number* answers and knows the *wanted* brokers as members that are not fenced."""
        port = self._nodes()[number - 1].port

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return ask_metadata(HOST, port).brokers >= wanted
            return False

        self._processes[number].wait_ready(ready, START_S)

    def _save(self) -> None:
        for node in self._state["nodes"]:
            node["pid"] = self._processes[node["number"]].pid
        write_json(self._file, self._state)
