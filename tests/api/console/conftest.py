"""A real console on loopback: uvicorn in a thread, real store and log, and a test OpenID provider."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import jwt
import msgspec
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import drop_cached_answers, make_decision_point
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.effective import ReloadStatus
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import (
    ConsoleGrantSettings,
    ConsoleOidcSettings,
    ConsoleSettings,
    ListenSettings,
    TenantSettings,
)
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.pipeline.ipc import LevelChange, PipelineStatus, PipelineUpdate
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook, PolicyTable
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentRow, AgentSummary
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ...support.console_records import NOW, decision_of, row_of

T = TypeVar("T")
SHOWN = AgentSummary.__struct_fields__[:14]
"""Members of an agent that lists show and every row has."""
CLIENT, SECRET = "trustwatch-console", "a secret: with signs+in it"
READ, FEEDBACK, ADMIN = "trust.score:read", "trust.feedback", "trust.admin"
GRANTS = (
    ConsoleGrantSettings(name="admins", value="trust-admins", scopes=(READ, FEEDBACK, ADMIN), tenants=("*",)),
    ConsoleGrantSettings(name="soc", value="soc", scopes=(READ, FEEDBACK), tenants=("acme",)),
    ConsoleGrantSettings(name="readers", value="readers", scopes=(READ,), tenants=("acme",)),
    ConsoleGrantSettings(name="blind", value="blind", scopes=(ADMIN,), tenants=("acme",)),
    ConsoleGrantSettings(name="deep", claim="realm.roles", value="watch", scopes=(READ,), tenants=("globex",)),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Served:
    def __init__(self, listener: socket.socket, app: Any) -> None:
        config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=2)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()


class Provider:
    """An OpenID provider that checks what it is given, and answers what the test says.

    Attributes:
        claims: of the next ID token, beside those that every one has; a value None takes one away.
        metadata: members that replace those of the description.
        userinfo: what its userinfo endpoint tells.
        asked: forms that came to the token endpoint.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.asked: list[dict[str, str]] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.key_id = "k1"
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        routes = [
            Route("/.well-known/openid-configuration", self._description),
            Route("/jwks", self._jwks),
            Route("/token", self._token, methods=["POST"]),
            Route("/userinfo", self._userinfo),
        ]
        self.served = Served(listener, Starlette(routes=routes))

    def settings(self, **more: Any) -> ConsoleOidcSettings:
        given = {"client_secret": Secret(SECRET), "grants": GRANTS, **more}
        return ConsoleOidcSettings(issuer=self.url, client_id=CLIENT, **given)

    def approve(self, url: str, **answer: str) -> str:
        """What a browser is sent back with, once the person behind *url* has said yes."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        given = {"code": code, "state": asked["state"], "iss": self.url, **answer}
        return asked["redirect_uri"] + "?" + urlencode({name: value for name, value in given.items() if value})

    async def _description(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "jwks_uri": f"{self.url}/jwks",
                "token_endpoint": f"{self.url}/token",
                "userinfo_endpoint": f"{self.url}/userinfo",
                "authorization_response_iss_parameter_supported": True,
                **self.metadata,
            }
        )

    async def _jwks(self, _: Request) -> Response:
        jwk = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**jwk, "kid": self.key_id, "alg": "ES256", "use": "sig"}]})

    async def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.asked.append({**form, "authorization": request.headers.get("authorization", "")})
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {
            "iss": self.url,
            "sub": "u-1",
            "aud": CLIENT,
            "iat": int(self.clock.now),
            "exp": int(self.clock.now) + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": self.key_id})
        return JSONResponse({"id_token": token, "access_token": "at", "token_type": "Bearer"})

    async def _userinfo(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer at":
            return JSONResponse({}, 401)
        return JSONResponse(self.userinfo)


class ConsoleService:
    def __init__(self, folder: Path, database: Path, provider: Provider, clock: Clock, **console: Any) -> None:
        self.clock, self.provider = clock, provider
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        more = {name: console.pop(name) for name in ("archive", "kafka", "webhooks", "callers") if name in console}
        given = {"enabled": True, "oidc": provider.settings(), **console}
        self.settings = Settings(
            data_dir=folder,
            listen=ListenSettings(port=port),
            console=ConsoleSettings(**given),
            tenants={"acme": TenantSettings(mode="enforce")},
            **more,
        )
        self.event_log = EventLog(folder / "log")
        self.store = open_store(sqlite_url(database))
        self.view, self.status, self.reloads = RiskView(), PipelineStatus(), ReloadStatus()
        self.ids = iter(range(10**9))
        self.position = self.store.partitions.claim(0)
        self.app = create_app(self._services(), SLICES)
        self.served = Served(listener, self.app)
        self.browser = self.new_browser()
        self.browser.get("/healthz").raise_for_status()

    def _services(self) -> Runtime:
        jwks = JwksCache((), self.clock)
        callers = CallerDirectory((), [])
        self.log = GroupCommit(self.event_log)
        policy = LivePolicy(PolicyBook(PolicyTable(version="3"), modes={"acme": "enforce"}))
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
        return Runtime(
            policy_evaluator=self.guard.policy_evaluator,
            services=(self.guard,),
            settings=self.settings,
            event_log=self.log,
            store=self.store,
            risk_view=self.view,
            live_policy=policy,
            verifier=TokenVerifier((), jwks, callers.resolve, self.settings.verification, self.clock),
            model_version="m1",
            pipeline_status=self.status,
            settings_reloads=self.reloads,
            clock=self.clock,
            monotonic=self.clock,
            new_id=lambda: str(next(self.ids)),
            on_startup=(self._running,),
            on_shutdown=(self._ended, self.log.close),
        )

    async def _running(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.writing = asyncio.create_task(self.guard.audit_sink.run())
        await self.guard.approval_workflow.load_open()

    async def _ended(self) -> None:
        await self.guard.approval_workflow.close()
        await self.guard.audit_sink.flush(5.0)
        self.writing.cancel()

    def new_browser(self) -> httpx2.Client:
        """Another browser: cookies of its own; redirects are looked at, not followed."""
        return httpx2.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def close(self) -> None:
        self.browser.close()
        self.served.close()
        self.event_log.close()
        self.store.close()

    def sign_in(
        self, *groups: str, back: str = "/console/", browser: httpx2.Client | None = None, **claims: Any
    ) -> Any:
        """Sign in as somebody of those groups; the answer to the callback."""
        browser = browser or self.browser
        self.provider.claims = {"groups": list(groups), "name": "Ada", **claims}
        sent = browser.get("/console/sign-in/start", params={"next": back})
        assert sent.status_code == 303, sent.text
        return browser.get(self.provider.approve(sent.headers["location"]))

    def form_token(self, browser: httpx2.Client | None = None) -> str:
        page = (browser or self.browser).get("/console/sign-in", follow_redirects=True).text
        return page.partition('"X-CSRF-Token": "')[2].partition('"')[0]

    def post(self, path: str, **form: str) -> httpx2.Response:
        return self.browser.post(path, data={"csrf_token": self.form_token(), **form})

    def inside(self, work: Callable[[], T]) -> T:
        async def call() -> T:
            return work()

        return self.wait(call())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def know(self, *rows: AgentRow, decisions: tuple[Decision, ...] = ()) -> None:
        before, after = self.position, msgspec.structs.replace(self.position, offset=self.position.offset + 1)
        self.store.commit(Commit(before, after, list(rows), list(decisions), [], []))
        self.position = Position(0, before.epoch, after.offset)
        summaries = [AgentSummary(*(getattr(row, name) for name in SHOWN)) for row in rows]
        changes = [
            LevelChange(
                d.decision_id,
                d.agent.tenant,
                d.agent.agent_id,
                d.previous_level,
                d.level,
                d.risk_score,
                "",
                d.event_time_ms,
                d.decided_ms,
            )
            for d in decisions
        ]
        done = {"events": after.offset * 10}
        update = PipelineUpdate(summaries, changes, after.offset, 0, done, {}, risk_offset=after.offset)

        def work() -> None:
            self.view.apply(update.agents)
            self.status.apply_report(update, int(self.clock.now * 1000))

        self.inside(work)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def provider(clock: Clock) -> Iterator[Provider]:
    made = Provider(clock)
    yield made
    made.served.close()


@pytest.fixture
def _as_it_was(clock: Clock, provider: Provider) -> None:
    clock.now = NOW
    provider.metadata, provider.claims, provider.userinfo, provider.key_id = {}, {}, {"sub": "u-1"}, "k1"
    provider.asked.clear()


@pytest.fixture
def new_site(
    tmp_path: Path, database: Path, provider: Provider, clock: Clock, _as_it_was: None
) -> Iterator[Callable[..., ConsoleService]]:
    sites: list[ConsoleService] = []

    def make(**console: Any) -> ConsoleService:
        copy = tmp_path / f"{len(sites)}.db"
        shutil.copyfile(database, copy)
        sites.append(ConsoleService(tmp_path / f"data{len(sites)}", copy, provider, clock, **console))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture(scope="module")
def _shared(
    tmp_path_factory: pytest.TempPathFactory, database: Path, provider: Provider, clock: Clock
) -> Iterator[ConsoleService]:
    folder = tmp_path_factory.mktemp("console")
    shutil.copyfile(database, folder / "trustwatch.db")
    made = ConsoleService(folder, folder / "trustwatch.db", provider, clock)
    yield made
    made.close()


@pytest.fixture
def site(_shared: ConsoleService, _as_it_was: None) -> ConsoleService:
    """One for all tests of a module that start with a new browser and do not mind each other's agents."""
    _shared.browser.close()
    _shared.browser = _shared.new_browser()
    return _shared


@pytest.fixture
def make_row() -> Callable[..., AgentRow]:
    return row_of


@pytest.fixture
def make_decision() -> Callable[..., Decision]:
    return decision_of
