"""The real service as a process of its own on loopback, with a model that is trained once per session."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import session_ids, train_model
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.settings import Attack, SimulationSettings

from tests.support.peer_fixtures import *  # noqa: F403 # fixtures count where a conftest has them

AUDIENCE = "trustwatch"
MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
HISTORY = timedelta(days=4)
DOMAINS = {"acme-corp": ["acme-corp.example"], "globex": ["globex.example"]}
SETTINGS = """\
data_dir: data
model_dir: {model}
listen: {{port: {port}}}
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: all, client_id: all, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}
  - {{name: acme, client_id: acme, tenants: [acme-corp], issuers: ["*"], sources: ["urn:*"]}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
pipeline: {{commit_interval_s: 0.2, tick_interval_s: 3600}}
{more}"""


class World(NamedTuple):
    """A trained model, and the day after its history with attacks in it."""

    model: Path
    day: list[bytes]
    attacked: dict[tuple[str, str], str]  # (tenant, agent id) -> scenario


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four simulated days are the model's history, the fifth has the attacks. Fixed dates: the same on any day."""
    attacks = (
        Attack("scope_creep", at=HISTORY + timedelta(hours=10)),
        Attack("stolen_credential", at=HISTORY + timedelta(hours=15)),
    )
    plan = SimulationSettings(
        start=MONDAY,
        duration=HISTORY + timedelta(days=1),
        seed=7,
        agents=30,
        attacks=attacks,
        events_per_agent_day=80.0,
    )
    ends = (MONDAY + HISTORY).timestamp() * 1000
    past, day, attacked = [], [], {}
    for event in simulate(plan):
        (past if event.at_ms < ends else day).append(event.event)
        if event.label.event_label:
            attacked[json.loads(event.event)["tenant"], event.label.agent_id] = event.label.scenario
    salt = b"salt of the service tests"
    columns = ColumnEncoder(salt, DOMAINS).encode([decode_event(raw) for raw in past])
    settings = DetectorSettings(seed=7, trees=50, folds=3)
    model = tmp_path_factory.mktemp("world") / "model"
    trained = train_model(columns, salt, "integration", settings)
    save_trained_model(model, trained, settings, len(set(session_ids(columns).tolist())), int(ends))
    return World(model, day, attacked)


class Service:
    """`trustwatch serve` in *folder*. `start` may be called again after `stop` or `kill`: same port, same data."""

    def __init__(self, folder: Path, model: Path, more: str = "") -> None:
        self.folder = folder
        self.settings = folder / "settings.yaml"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(SETTINGS.format(model=json.dumps(str(model)), port=self.port, more=more))
        self.key = LocalSigningKey.open(folder / "data")
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30.0)
        self.process: subprocess.Popen[bytes] | None = None

    def token(self, client: str = "all", *scopes: str, audience: str = AUDIENCE, lifetime_s: int = 3600) -> str:
        return self.key.issue_token(
            client, client, scopes or ALL_SCOPES, audience, lifetime_s, time.time(), secrets.token_hex(8)
        )

    def auth(self, client: str = "all", *scopes: str, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(client, *scopes, **claims)}"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trustwatch", *arguments]

    def start(self, *, ready: bool = True) -> None:
        with (self.folder / "service.log").open("ab") as log:
            command = self.command("serve", "--settings", str(self.settings))
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        if ready:
            self.wait(self.is_ready, 100.0)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/readyz").status_code == 200
        return False

    def status(self, path: str) -> int | None:
        """Status of an open path; None where nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(path).status_code
        return None

    def wait(self, until: Callable[[], Any], within_s: float = 60.0) -> Any:
        """The first true answer of *until*."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := until():
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {within_s} s: {until}; {self.log()[-3000:]}")

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def run(self, *arguments: str, timeout: float = 100.0, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, **options)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """kill -9 of the service alone: its pipeline process has to notice by itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pipeline_pid(self) -> int | None:
        """The child process of the service that works on events."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def post(
        self, body: bytes, kind: str = "application/x-ndjson", client: str = "all", **headers: str
    ) -> httpx.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/v1/events", content=body, headers={"content-type": kind, **self.auth(client), **more})

    def send(self, events: list[dict[str, Any]], client: str = "all") -> httpx.Response:
        return self.post(json.dumps(events).encode(), "application/json", client)

    def get(self, path: str, client: str = "all", **params: Any) -> httpx.Response:
        return self.client.get(path, params=params or None, headers=self.auth(client))

    def pages(self, path: str, **params: Any) -> list[dict[str, Any]]:
        found, cursor = [], None
        while True:
            given = params | ({} if cursor is None else {"cursor": cursor})
            answer = self.get(path, limit=500, **given)
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return found

    def counts(self, **params: Any) -> dict[str, int]:
        """Events applied by agent id, as the store has them."""
        return {row["agent_id"]: row["events"] for row in self.pages("/v1/agents", **params)}

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def applied(self) -> bool:
        """Whether everything that was logged is committed and in the answers."""
        return self.metric("trustwatch_pipeline_offset") == self.metric("trustwatch_log_next_offset")

    def settle(self, within_s: float = 60.0) -> None:
        self.wait(self.applied, within_s)

    def close(self) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture
def service(tmp_path: Path, world: World) -> Iterator[Service]:
    """A service of this test alone, not started yet."""
    made = Service(tmp_path / "service", world.model)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Service]:
    """A service that runs for all tests of a module; each test uses agents of its own."""
    made = Service(tmp_path_factory.mktemp("service"), world.model)
    made.start()
    yield made
    made.close()


@pytest.fixture
def make_service(tmp_path: Path, world: World) -> Iterator[Callable[..., Service]]:
    """Makes services with further settings (YAML)."""
    made: list[Service] = []

    def make(more: str = "", model: Path | None = None) -> Service:
        made.append(Service(tmp_path / f"service-{len(made)}", model or world.model, more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def make_event() -> Callable[..., dict[str, Any]]:
    """Makes events of now, or `ago_s` seconds before; other members by name."""

    def make(
        agent: str, number: int = 0, *, ago_s: float = 0.0, tenant: str = "acme-corp", **members: Any
    ) -> dict[str, Any]:
        at = datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat(timespec="milliseconds")
        return {
            "id": f"{agent}/{number}",
            "time": at,
            "type": "tool.call",
            "tenant": tenant,
            "action": "read_file",
            "agent": {"id": agent, "issuer": "https://as.example", "type": "Clerk"},
            "outcome": "success",
            **members,
        }

    return make
