"""A real service on loopback: uvicorn in a thread, a real log, store and keys; the pipeline is played by the test."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
import pytest
import uvicorn

from trustwatch.api.access.call_evaluation import LiveCallScorer
from trustwatch.api.composition import new_id as services_id
from trustwatch.api.composition import principal_alias
from trustwatch.api.events.ingest_status import IngestStatus
from trustwatch.api.feedback.preview_runner import PreviewRunner
from trustwatch.api.feedback.service import FeedbackService
from trustwatch.api.http.agent_lookup import AgentResolver
from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import ALL_SCOPES, CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.connection_guard import ConnectionGuard
from trustwatch.api.http.request_traces import trace_requests
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.http.store_executor import StoreExecutor
from trustwatch.api.models.service import ModelService, write_to_each_partition
from trustwatch.api.service.assembly import drop_cached_answers, make_decision_point, make_erasure_service
from trustwatch.api.service.http_server import guarded_protocol
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.access_settings import CallerSettings, IssuerSettings, RegisteredAgent
from trustwatch.api.settings.effective import ReloadStatus
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import TenantSettings
from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuationMetrics
from trustwatch.scoring.pipeline.desired_state_resolver import DesiredStateResolver
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate, make_lag_counter
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook, PolicyTable
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

T = TypeVar("T")
NOW = 1_764_000_000.0
AUDIENCE = "trustwatch"
AS = "https://as.example"

CALLERS = (
    CallerSettings(name="gateway", client_id="gateway", tenants=("acme",), issuers=(AS,), sources=("urn:gw:*",)),
    CallerSettings(name="trusted", client_id="trusted", tenants=("acme",), issuers=(AS,), trusted=True),
    CallerSettings(name="slow", client_id="slow", tenants=("acme",), issuers=(AS,), events_per_s=10.0, silence_s=60.0),
    CallerSettings(name="two", client_id="two", tenants=("acme", "globex"), issuers=("*",)),
    CallerSettings(name="all", client_id="all", tenants=("*",), issuers=("*",), sources=("*",)),
    CallerSettings(name="itself", client_id="itself", tenants=("acme",), issuers=(AS,), agents=("self",)),
    CallerSettings(name="narrow", client_id="narrow", tenants=("acme",), issuers=(AS,), bytes_per_day=4096),
    CallerSettings(name="globex", client_id="globex", tenants=("globex",), issuers=("*",), sources=("*",)),
    CallerSettings(
        name="keycloak",
        client_id="keycloak",
        tenants=("acme",),
        issuers=(AS,),
        format="keycloak",
        mapping={"members": {"attributes.server": "'kc-1'"}},
    ),
    CallerSettings(
        name="otel",
        client_id="otel",
        tenants=("acme",),
        issuers=(AS,),
        format="otlp",
        mapping={"members": {"agent.self_asserted": ""}},
    ),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class ApiService:
    def __init__(self, folder: Path, database: Path, **settings: Any) -> None:
        self.clock = Clock()
        self.key = LocalSigningKey.open(folder)
        issuer = IssuerSettings(issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json")
        registry = (
            RegisteredAgent(
                tenant="acme", issuer=AS, agent="agent-pay*", type="PaymentProcessor", capabilities=("pay",)
            ),
        )
        given = {
            "registry": registry,
            "tenants": {"acme": TenantSettings(mode="enforce")},
            "callers": CALLERS,
            **settings,
        }
        self.settings = Settings(data_dir=folder, issuers=(issuer,), **given)
        self.event_log = EventLog(folder / "log", segment_bytes=20_000)
        self.store = open_store(sqlite_url(database))
        self.view = RiskView()
        self.status = PipelineStatus()
        self.ingest = IngestStatus()
        self.actuations = ActuationMetrics()
        self.reloads = ReloadStatus()
        self.desk: ModelService | None = None
        self.calls = LiveCallScorer(ModelRegistry(folder / "models", folder / "model"), {})
        self.pause = 0.0
        self.preview: Any = None
        """Plays the process of a preview (see `trustwatch.api.feedback.preview_runner.Run`)."""
        self.ids = iter(range(10**9))
        self._start()

    def _services(self) -> Runtime:
        rules = self.settings.verification
        jwks = JwksCache(self.settings.issuers, self.clock)
        callers = CallerDirectory(self.settings.callers, [LOCAL_ISSUER])
        self.connections = ConnectionGuard(time.monotonic)
        self.log = GroupCommit(self.event_log)
        policy = self.policy = LivePolicy(PolicyBook(PolicyTable(version="3"), modes={"acme": "enforce"}))
        executor = StoreExecutor()
        agents = AgentResolver(self.view, self.store, executor)
        self.guard = make_decision_point(
            self.settings,
            self.log,
            self.store,
            self.view,
            policy,
            self.status,
            lambda agents: drop_cached_answers(self.view, agents),
            lambda: int(self.clock() * 1000),
        )
        if self.settings.model_dir.exists():
            shelf = ModelRegistry(self.settings.data_dir / "models", self.settings.model_dir)
            now_ms = lambda: int(self.clock() * 1000)  # noqa: E731
            announce = partial(write_to_each_partition, self.log, now_ms)
            self.desk = ModelService(self.settings, self.store, shelf, announce, executor, now_ms, services_id)
        previews = PreviewRunner(
            self.store,
            lambda job, tell: self.preview(job, tell),  # noqa: PLW0108 - set later
            lambda: int(self.clock() * 1000),
            services_id,
        )
        self.feedback = FeedbackService(
            self.settings,
            self.store,
            self.log,
            self.guard.audit_sink,
            previews,
            agents,
            executor,
            lambda: int(self.clock() * 1000),
        )
        alias = principal_alias(self.settings)
        self.erasures = make_erasure_service(
            self.settings, self.log, self.store, self.view, self.guard, self.status, agents, executor
        )
        services = (
            self.connections,
            executor,
            agents,
            self.guard,
            self.erasures,
            self.feedback,
            self.desk,
            self.ingest,
            self.calls,
        )
        return Runtime(
            services=tuple(service for service in services if service is not None),
            active_version=None if self.desk is None else lambda: self.desk.version,
            learning=lambda: self.desk is not None and self.desk.learning is not None,
            principal_alias=alias,
            policy_evaluator=self.guard.policy_evaluator,
            settings=self.settings,
            verifier=TokenVerifier(self.settings.issuers, jwks, callers.resolve, rules, self.clock),
            event_log=self.log,
            store=self.store,
            desired_state=DesiredStateResolver(
                self.store, self.guard.policy_evaluator, lambda: int(self.clock() * 1000), services_id
            ),
            actuation_statistics=self.actuations,
            settings_reloads=self.reloads,
            risk_view=self.view,
            live_policy=policy,
            model_version="2026-11-24.1",
            pipeline_status=self.status,
            clock=self.clock,
            monotonic=self.clock,
            new_id=lambda: str(next(self.ids)),
            log_lag=make_lag_counter(self.event_log, self.status),
            on_startup=(jwks.start, self._running),
            on_shutdown=(jwks.close, previews.close, self._guarded, self.log.close),
        )

    async def _running(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.writing = asyncio.create_task(self.guard.audit_sink.run())
        await self.guard.approval_workflow.load_open()

    async def _guarded(self) -> None:
        await self.guard.approval_workflow.close()
        await self.guard.audit_sink.flush(5.0)
        self.writing.cancel()

    def _start(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.runtime = self._services()
        self.app = create_app(self.runtime, SLICES)
        config = uvicorn.Config(
            trace_requests(self.app),
            http=guarded_protocol(self.connections),
            log_level="critical",
            lifespan="on",
            timeout_graceful_shutdown=2,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.client = httpx2.Client(base_url=self.url, timeout=30.0)
        self.client.get("/healthz").raise_for_status()

    def stop(self) -> None:
        """Ask the server to end, which takes it a fifth of a second; `close` waits for it."""
        self.client.close()
        self.server.should_exit = True

    def close(self) -> None:
        self.stop()
        self.thread.join()
        self.event_log.close()
        self.store.close()

    def inside(self, work: Callable[[], T]) -> T:
        """Run *work* on the event loop of the service, as the reader of updates does."""

        async def call() -> T:
            return work()

        return self.wait(call())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def token(self, client: str = "gateway", *scopes: str, audience: str = AUDIENCE, lifetime_s: int = 3600) -> str:
        scopes = scopes or ALL_SCOPES
        number = str(next(self.ids))
        return self.key.issue_token(client, client, scopes, audience, lifetime_s, self.clock.now, number)

    def auth(self, client: str = "gateway", *scopes: str, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(client, *scopes, **claims)}"}

    def get(self, path: str, client: str = "gateway", **params: Any) -> httpx2.Response:
        return self.client.get(path, headers=self.auth(client), params=params or None)

    def send(
        self, body: Any, client: str = "gateway", kind: str = "application/json", **headers: str
    ) -> httpx2.Response:
        """POST /v1/events; *body* is JSON data or bytes; underscores in header names are hyphens."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            "/v1/events", content=content, headers={**self.auth(client), "content-type": kind, **extra}
        )

    def report(
        self, agents: list[AgentSummary] | None = None, offset: int | None = None, behind: int = 0, **more: Any
    ) -> None:
        """What the pipeline would report now; without *offset* it has applied one more record."""
        offset = self.status.offset + 1 if offset is None else offset
        more.setdefault("risk_offset", offset)
        update = PipelineUpdate(
            agents or [], more.pop("changes", []), offset, behind, {"events": 5}, {"apply": 0.5}, **more
        )

        def work() -> None:
            self.view.apply(update.agents)
            self.status.apply_report(update, int(self.clock.now * 1000))

        self.inside(work)

    def logged(self, kind: RecordKind = RecordKind.EVENT) -> list[Record]:
        reader = LogReader(self.settings.data_dir / "log")
        reader.seek(0, 0)
        records: list[Record] = []
        while (batch := reader.poll(1000, 0.0)) is not None:
            records += batch.records
        reader.close()
        return [record for record in records if record.kind == kind]

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(record.payload) for record in self.logged()]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture(scope="session")
def stopped() -> Iterator[list[ApiService]]:
    sites: list[ApiService] = []
    yield sites
    for site in sites:
        site.close()


@pytest.fixture
def new_site(tmp_path: Path, database: Path, stopped: list[ApiService]) -> Iterator[Callable[..., ApiService]]:
    sites: list[ApiService] = []

    def make(**settings: Any) -> ApiService:
        for ended in [site for site in stopped if not site.thread.is_alive()]:
            stopped.remove(ended)
            ended.close()
        copy = tmp_path / "trustwatch.db"
        shutil.copyfile(database, copy)
        sites.append(ApiService(tmp_path, copy, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.stop()
    stopped += sites


@pytest.fixture
def site(new_site: Callable[..., ApiService]) -> ApiService:
    return new_site()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[ApiService]:
    """One service for tests that leave its clock alone and do not mind each other's agents."""
    folder = tmp_path_factory.mktemp("shared")
    copy = folder / "trustwatch.db"
    shutil.copyfile(database, copy)
    site = ApiService(folder, copy, shared_signals=SharedSignalsSettings(enabled=True))
    yield site
    site.close()


@pytest.fixture(scope="session")
def event() -> Callable[..., dict[str, Any]]:
    """A native event that the caller `gateway` may send; members of `agent` by prefix `agent_`."""

    def make(number: int = 0, **members: Any) -> dict[str, Any]:
        agent = {"id": "bot", **{name[6:]: members.pop(name) for name in list(members) if name.startswith("agent_")}}
        return {
            "id": f"evt-{number}",
            "time": "2025-11-24T16:00:00Z",
            "type": "tool.call",
            "tenant": "acme",
            "agent": {"issuer": AS, **agent},
            "action": "read_file",
            "outcome": "success",
            **members,
        }

    return make


@pytest.fixture(scope="session")
def summary() -> Callable[..., AgentSummary]:
    def make(agent_id: str = "bot", tenant: str = "acme", issuer: str = AS, **members: Any) -> AgentSummary:
        name = AgentName(IdentityHasher().agent_key(tenant, issuer, agent_id), tenant, issuer, agent_id)
        values: dict[str, Any] = {
            "agent_type": "Payer",
            "level": 3,
            "risk_score": 0.87,
            "confidence": 0.94,
            "anomaly_score": 0.9,
            "first_seen_ms": 1,
            "last_seen_ms": 2,
            "evaluated_ms": int(NOW * 1000) - 60_000,
            "due_ms": 0,
            "events": 12,
            "decision_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
            "reasons": b'[{"code":"c","feature":"f","observed":"o","usual":"u","contribution":0.5,"text":"t"}]',
            "counterfactual": "",
            "indicators": b'[{"kind":"network","value":"AS65537","status":"new","at":"2025-11-24T15:58:00.000Z"}]',
            **members,
        }
        return AgentSummary(name, **values)

    return make
