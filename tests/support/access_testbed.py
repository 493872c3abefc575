"""The real application with hooks or gateways, asked in this process; the pipeline is played by the test."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2

from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import ALL_SCOPES, CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.access_settings import IssuerSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

NOW = 1_764_000_000.0
AUDIENCE = "trustwatch"
AS = "https://as.example"


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


class AccessTestbed:
    """The application, and its parts. *settings* are in addition to the folder and the local issuer."""

    def __init__(
        self, folder: Path, database: Path, book: PolicyBook, services: tuple[object, ...] = (), **settings: Any
    ) -> None:
        self.now = NOW
        self.runner = asyncio.Runner()
        self.key = LocalSigningKey.open(folder)
        issuer = IssuerSettings(issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json")
        self.settings = Settings(data_dir=folder, issuers=(issuer,), **settings)
        self.event_log = EventLog(folder / "log")
        self.store = open_store(sqlite_url(database))
        self.view, self.status, self.policy = RiskView(), PipelineStatus(), LivePolicy(book)
        self.ids = iter(range(10**9))
        self.runner.run(self._open(services))

    async def _open(self, services: tuple[object, ...]) -> None:
        self.jwks = JwksCache(self.settings.issuers, lambda: self.now)
        callers = CallerDirectory(self.settings.callers, [LOCAL_ISSUER])
        self.log = GroupCommit(self.event_log)
        parts = self.settings, self.log, self.store, self.view, self.policy, self.status
        self.guard = make_decision_point(*parts, lambda _: None, lambda: int(self.now * 1000))
        rules = self.settings.verification
        runtime = Runtime(
            self.settings,
            TokenVerifier(self.settings.issuers, self.jwks, callers.resolve, rules, lambda: self.now),
            self.log,
            self.store,
            self.guard.policy_evaluator,
            self.view,
            self.policy,
            "m",
            self.status,
            clock=lambda: self.now,
            monotonic=lambda: self.now,
            new_id=lambda: str(next(self.ids)),
            services=(self.guard, *services),
            on_startup=(self.jwks.start,),
            on_shutdown=(self.jwks.close, self.guard.approval_workflow.close, self.log.close),
        )
        self.fresh()
        self.app = create_app(runtime, SLICES)
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
        """The pipeline reports that it is up to date."""
        offset = self.status.offset + 1
        update = PipelineUpdate([], [], offset, 0, {}, {}, risk_offset=offset)
        self.status.apply_report(update, int(self.now * 1000))

    def agent(
        self,
        agent: str = "bot",
        level: RiskLevel = RiskLevel.LOW,
        agent_type: str = "Payer",
        *,
        tenant: str = "acme",
        issuer: str = AS,
    ) -> None:
        """The pipeline reports an agent at a level."""
        name = AgentName(IdentityHasher().agent_key(tenant, issuer, agent), tenant, issuer, agent)
        at_ms = int(self.now * 1000)
        self.view.apply([AgentSummary(name, agent_type, int(level), 0.5, 0.9, 0.5, 1, 2, at_ms, 0, 12, "", b"[]", "")])

    def auth(self, client: str, *scopes: str) -> dict[str, str]:
        token_id = str(next(self.ids))
        token = self.key.issue_token(client, client, scopes or ALL_SCOPES, AUDIENCE, 3600, self.now, token_id)
        return {"authorization": f"Bearer {token}"}

    def events(self) -> list[dict[str, Any]]:
        assert self.run(self.guard.audit_sink.flush(5.0))
        reader = LogReader(self.settings.data_dir / "log")
        reader.seek(0, 0)
        found: list[dict[str, Any]] = []
        while (batch := reader.poll(1000, 0.0)) is not None:
            found += [json.loads(record.payload) for record in batch.records]
        reader.close()
        return found

    def asked(self) -> list[Intervention]:
        self.run(self.guard.approval_workflow.close())
        return self.store.interventions.list_open()
