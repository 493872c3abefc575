"""The real application with its checks for gateways, asked in this process; the pipeline is played by the test."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import ALL_SCOPES, CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.access_settings import (
    CallerSettings,
    IssuerSettings,
    ProofSettings,
    VerificationSettings,
)
from trustwatch.api.settings.enforcement_settings import GatewayIssuerSettings, GatewaySettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.scoring.pipeline.ipc import PipelineUpdate
from trustwatch.scoring.pipeline.pipeline_status import PipelineStatus
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook, PolicyTable
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

NOW = 1_764_000_000.0
AUDIENCE = "trustwatch"
AS = "https://as.example"
API = "https://api.example"
CALLERS = (
    CallerSettings(name="gateway", client_id="gateway", tenants=("acme",), issuers=("*",)),
    CallerSettings(name="other", client_id="other", tenants=("globex",), issuers=("*",)),
)
Answer = httpx2.Response


class Issuer:
    """An authorization server, as far as its tokens go."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "as-jwks.json"
        self.publish("k1")

    def publish(self, kid: str) -> None:
        self.kid = kid
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.file.write_text(json.dumps({"keys": [{**public, "kid": kid, "use": "sig"}]}))

    def settings(self, **given: Any) -> GatewayIssuerSettings:
        mine = {"issuer": AS, "audiences": (API, "https://other.example"), "jwks_file": self.file, "tenant": "acme"}
        return GatewayIssuerSettings(**(mine | given))

    def token(self, agent: str = "bot", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A right token but for what is given; None removes a claim."""
        right = {
            "iss": AS,
            "sub": agent,
            "client_id": agent,
            "aud": API,
            "iat": int(NOW),
            "exp": int(NOW) + 300,
            "scope": "tools:read",
        }
        kept = {name: value for name, value in (right | claims).items() if value is not None}
        return jwt.encode(kept, self.key, "ES256", {"typ": "at+jwt", "kid": self.kid, **(header or {})})


class GatewayTestbed:
    """The application, and what it stands on."""

    def __init__(
        self,
        folder: Path,
        database: Path,
        gateway: GatewaySettings,
        issuer: Issuer,
        book: PolicyBook,
        proofs: ProofSettings,
    ) -> None:
        self.now = NOW
        self.issuer = issuer
        self.runner = asyncio.Runner()
        self.key = LocalSigningKey.open(folder)
        own = IssuerSettings(issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json")
        self.settings = Settings(
            data_dir=folder,
            issuers=(own,),
            callers=CALLERS,
            gateway=gateway,
            verification=VerificationSettings(proofs=proofs),
        )
        self.event_log = EventLog(folder / "log")
        self.store = open_store(sqlite_url(database))
        self.view, self.status, self.policy = RiskView(), PipelineStatus(), LivePolicy(book)
        self.ids = iter(range(10**9))
        self.runner.run(self._open())

    async def _open(self) -> None:
        rules = self.settings.verification
        self.jwks = JwksCache(self.settings.issuers, lambda: self.now)
        callers = CallerDirectory(self.settings.callers, [LOCAL_ISSUER])
        log = GroupCommit(self.event_log)
        self.guard = make_decision_point(
            self.settings,
            log,
            self.store,
            self.view,
            self.policy,
            self.status,
            lambda _: None,
            lambda: int(self.now * 1000),
        )
        verifier = TokenVerifier(self.settings.issuers, self.jwks, callers.resolve, rules, lambda: self.now)
        services = Runtime(
            self.settings,
            verifier,
            log,
            self.store,
            self.guard.policy_evaluator,
            self.view,
            self.policy,
            "m",
            self.status,
            clock=lambda: self.now,
            monotonic=lambda: self.now,
            new_id=lambda: str(next(self.ids)),
            services=(self.guard,),
            on_startup=(self.jwks.start,),
            on_shutdown=(self.jwks.close, self.guard.approval_workflow.close, log.close),
        )
        self.fresh()
        self.app = create_app(services, SLICES)
        self.lifespan = Lifespan(self.app)
        await self.lifespan.start()
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://localhost")
        self.writing = asyncio.create_task(self.guard.audit_sink.run())

    def close(self) -> None:
        async def work() -> None:
            self.writing.cancel()
            await self.http.aclose()
            await self.lifespan.end()

        self.runner.run(work())
        self.runner.close()
        self.event_log.close()
        self.store.close()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def fresh(self) -> None:
        """What the pipeline reports while it lives."""
        offset = self.status.offset + 1
        update = PipelineUpdate([], [], offset, 0, {}, {}, risk_offset=offset)
        self.status.apply_report(update, int(self.now * 1000))

    def agent(self, agent: str = "bot", level: RiskLevel = RiskLevel.LOW, **named: Any) -> None:
        """An agent at a level, as the pipeline reports it."""
        given = {"tenant": "acme", "issuer": AS} | named
        name = AgentName(
            IdentityHasher().agent_key(given["tenant"], given["issuer"], agent), given["tenant"], given["issuer"], agent
        )
        at_ms = int(self.now * 1000)
        self.view.apply(
            [AgentSummary(name, "Payer", int(level), 0.5, 0.9, 0.5, 1, at_ms, at_ms, 0, 9, "01J", b"[]", "")]
        )

    def send(self, method: str, path: str, headers: Any = None, **more: Any) -> Answer:
        return self.run(self.http.request(method, path, headers=headers, **more))

    def envoy(self, token: str | None = None, method: str = "GET", path: str = "/mcp", **more: Any) -> Answer:
        """What Envoy asks about a call."""
        headers = more.pop("headers", {}) | ({} if token is None else {"authorization": f"Bearer {token}"})
        return self.send(method, f"/ext-authz{path}", headers, **more)

    def forward(self, token: str | None = None, method: str = "GET", uri: str = "/mcp", **headers: str) -> Answer:
        """What Caddy and others ask: always GET."""
        given = {"x-forwarded-method": method, "x-forwarded-uri": uri, "x-forwarded-host": "api.example"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(
            "GET", "/forward-auth", given | ({} if token is None else {"authorization": f"Bearer {token}"})
        )

    def introspect(self, token: str, client: str = "gateway", **headers: str) -> Answer:
        """What an introspection plugin asks."""
        return self.send("POST", "/introspect", self.auth(client) | headers, data={"token": token})

    def auth(self, client: str = "gateway", *scopes: str) -> dict[str, str]:
        made = self.key.issue_token(client, client, scopes or ALL_SCOPES, AUDIENCE, 3600, self.now, str(next(self.ids)))
        return {"authorization": f"Bearer {made}"}

    def events(self) -> list[dict[str, Any]]:
        """Audit events that were written."""
        assert self.run(self.guard.audit_sink.flush(5.0))
        reader = LogReader(self.settings.data_dir / "log")
        reader.seek(0, 0)
        found: list[dict[str, Any]] = []
        while (batch := reader.poll(1000, 0.0)) is not None:
            found += [json.loads(record.payload) for record in batch.records]
        reader.close()
        return found

    def waiting(self) -> list[Intervention]:
        """Approvals that wait for a person."""
        self.run(self.guard.approval_workflow.close())
        return self.store.interventions.list_open()

    def metrics(self) -> str:
        return str(self.send("GET", "/metrics").text)


class Lifespan:
    """Starts and ends an application as a server does."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._app({"type": "lifespan"}, self._told.get, self._said.put))
        await self._tell("startup")

    async def end(self) -> None:
        await self._tell("shutdown")
        await self._task

    async def _tell(self, what: str) -> None:
        await self._told.put({"type": f"lifespan.{what}"})
        assert (await self._said.get())["type"] == f"lifespan.{what}.complete"


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database to copy."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


@pytest.fixture
def new_desk(tmp_path: Path, database: Path, issuer: Issuer) -> Iterator[Callable[..., GatewayTestbed]]:
    desks: list[GatewayTestbed] = []

    def make(
        *issuers: GatewayIssuerSettings,
        mode: str = "enforce",
        table: Any = None,
        none: bool = False,
        proofs: ProofSettings = ProofSettings(),  # noqa: B008
        **gateway: Any,
    ) -> GatewayTestbed:
        folder = tmp_path / str(len(desks))
        folder.mkdir()
        shutil.copyfile(database, folder / "trustwatch.db")
        given = GatewaySettings(issuers=() if none else issuers or (issuer.settings(),), **gateway)
        book = PolicyBook(PolicyTable(table, version="7"), modes={"acme": mode})  # type: ignore[dict-item]
        desks.append(GatewayTestbed(folder, folder / "trustwatch.db", given, issuer, book, proofs))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(new_desk: Callable[..., GatewayTestbed]) -> GatewayTestbed:
    return new_desk()
