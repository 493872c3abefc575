"""The real application with its hooks, asked in this process; the pipeline is played by the test."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.access.call_evaluation import LiveCallScorer
from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import ALL_SCOPES, CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.access_settings import CallerSettings, IssuerSettings
from trustwatch.api.settings.enforcement_settings import HookSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.settings import Secret
from trustwatch.models.model_registry import ModelRegistry
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
SECRET = "a secret of 24 letters!!"
BODIES = Path(__file__).parent / "bodies"
CALLERS = (
    CallerSettings(name="as", client_id="as", tenants=("acme",), issuers=(AS,)),
    CallerSettings(name="all", client_id="all", tenants=("*",), issuers=("*",)),
    CallerSettings(name="other", client_id="other", tenants=("globex",), issuers=("*",)),
)


def hook(kind: str, **given: Any) -> HookSettings:
    """One hook of a kind, named as the kind, for agents of tenant acme and issuer AS."""
    own: dict[str, Any] = {} if kind == "authzen" else {"tenant": "acme", "issuer": AS, "secret": Secret(SECRET)}
    return HookSettings(**{"name": kind, "kind": kind, **own, **given})


class HookTestbed:
    """The application, and what it stands on."""

    def __init__(
        self,
        folder: Path,
        database: Path,
        hooks: tuple[HookSettings, ...],
        book: PolicyBook,
        callers: tuple[CallerSettings, ...] = (),
    ) -> None:
        self.now = NOW
        self.runner = asyncio.Runner()
        self.key = LocalSigningKey.open(folder)
        issuer = IssuerSettings(issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json")
        self.settings = Settings(data_dir=folder, issuers=(issuer,), callers=(*CALLERS, *callers), hooks=hooks)
        self.event_log = EventLog(folder / "log")
        self.store = open_store(sqlite_url(database))
        self.view, self.status, self.policy = RiskView(), PipelineStatus(), LivePolicy(book)
        self.calls = LiveCallScorer(ModelRegistry(folder / "models", folder / "model"), {})
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
            new_id=lambda: str(next(self.ids)),
            services=(self.guard, self.calls),
        )
        self.fresh()
        await self.jwks.start()
        self.app = create_app(services, SLICES)
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://localhost")
        self.writing = asyncio.create_task(self.guard.audit_sink.run())
        self.log = log

    def fresh(self) -> None:
        """The pipeline reports that it is up to date."""
        offset = self.status.offset + 1
        update = PipelineUpdate([], [], offset, 0, {}, {}, risk_offset=offset)
        self.status.apply_report(update, int(self.now * 1000))

    def level(self, level: RiskLevel | str, agent: str = "bot", agent_type: str = "Payer") -> None:
        """The pipeline reports an agent at a level."""
        number = RiskLevel[level.upper()] if isinstance(level, str) else level
        name = AgentName(IdentityHasher().agent_key("acme", AS, agent), "acme", AS, agent)
        at_ms = int(self.now * 1000)
        self.view.apply([AgentSummary(name, agent_type, number, 0.5, 0.9, 0.5, 1, 2, at_ms, 0, 12, "", b"[]", "")])

    def send(self, method: str, path: str, content: bytes = b"", **headers: str) -> httpx2.Response:
        """One request; underscores in header names are hyphens."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.runner.run(self.http.request(method, path, content=content, headers=given))

    def ask(self, name: str, body: Any, **headers: str) -> httpx2.Response:
        """One call of a hook, as its product makes it: with the secret in the header, or signed."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if name == "zitadel":
            headers.setdefault("zitadel_signature", self.signature(content))
        return self.send("POST", f"/hooks/{name}", content, **{"x_trustwatch_key": SECRET, **headers})

    def signature(self, content: bytes, at_s: float | None = None, secret: str = SECRET) -> str:
        """As ZITADEL signs."""
        at = str(int(self.now if at_s is None else at_s))
        return f"t={at},v1=" + hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()

    def auth(self, client: str = "as", *scopes: str) -> dict[str, str]:
        token = self.key.issue_token(
            client, client, scopes or ALL_SCOPES, AUDIENCE, 3600, self.now, str(next(self.ids))
        )
        return {"authorization": f"Bearer {token}"}

    def evaluate(self, body: Any, *, several: bool = True, client: str = "as", **headers: str) -> httpx2.Response:
        """One call of the AuthZEN decision point."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = "/access/v1/evaluations" if several else "/access/v1/evaluation"
        sent = {"content_type": "application/json", **self.auth(client), **headers}
        return self.send("POST", path, content, **sent)

    def events(self) -> list[dict[str, Any]]:
        """Audit events that were made durable, without their ids."""
        assert self.runner.run(self.guard.audit_sink.flush(5.0))
        reader = LogReader(self.settings.data_dir / "log")
        reader.seek(0, 0)
        found = []
        while (batch := reader.poll(1000, 0.0)) is not None:
            found += [json.loads(record.payload) for record in batch.records]
        reader.close()
        for event in found:
            event.pop("id")
        return found

    def asked(self) -> list[Intervention]:
        """Approvals that persons were asked for."""
        self.runner.run(self.guard.approval_workflow.close())
        return self.store.interventions.list_open()

    def metric(self, line: str) -> float:
        """Value of a metric with its labels, as written in the exposition; 0 where there is none."""
        lines = self.send("GET", "/metrics", **self.auth("all")).text.splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{line} ")), 0.0)

    def close(self) -> None:
        async def end() -> None:
            await self.http.aclose()
            self.writing.cancel()
            await self.guard.approval_workflow.close()
            await self.jwks.close()
            await self.log.close()

        self.runner.run(end())
        self.runner.close()
        self.event_log.close()
        self.store.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture
def make_desk(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., HookTestbed]]:
    """Makes applications: with hooks (a kind, or settings), a mode, policies by level, and further callers."""
    made: list[HookTestbed] = []

    def make(
        *hooks: HookSettings | str,
        mode: str = "enforce",
        policies: Any = None,
        book: Any = None,
        callers: tuple[CallerSettings, ...] = (),
    ) -> HookTestbed:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        database = folder / "trustwatch.db"
        shutil.copyfile(empty_database, database)
        settings = tuple(hook(one) if isinstance(one, str) else one for one in hooks)
        book = book or PolicyBook(PolicyTable(policies, "3"), modes={"acme": mode})
        made.append(HookTestbed(folder, database, settings, book, callers))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture(scope="session")
def body() -> Callable[[str], Any]:
    """A request as the product sends it; a new one each time."""
    return lambda name: json.loads((BODIES / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def make_hook() -> Callable[..., HookSettings]:
    return hook
