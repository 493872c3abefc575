"""The two servers that `bench_gateway` compares, each run as `python -m benchmarks.gateway_servers NAME PORT FOLDER`.

`ours` is the real application. `plain` is the same check as one would first write it: a FastAPI route for every method
under the prefix, PyJWT verifying the token at each call, the agent of the claims looked up in a dict, the same answers.
"""

# No postponed annotations here: FastAPI could not read those of the functions inside `plain`.

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import FastAPI, Header, Response

from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.connection_guard import ConnectionGuard
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.http_server import guarded_protocol
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.enforcement_settings import GatewayIssuerSettings, GatewaySettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

AUDIENCE, TENANT = "https://api.example", "acme-corp"
AGENTS, DENIED = 10_000, "agent-denied"
LEVELS = ("unknown", "low", "medium", "high", "critical")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def levels() -> dict[str, int]:
    """Level by agent: all low but one."""
    return {f"agent-{number}": 1 for number in range(AGENTS)} | {DENIED: 4}


def summaries() -> list[AgentSummary]:
    """The same for the view."""
    at_ms = int(time.time() * 1000)
    names = {
        agent: AgentName(IdentityHasher().agent_key(TENANT, LOCAL_ISSUER, agent), TENANT, LOCAL_ISSUER, agent)
        for agent in levels()
    }
    return [
        AgentSummary(names[agent], "Payer", level, 0.1, 0.9, 0.1, 1, 2, at_ms, 0, 9, "01J", b"[]", "")
        for agent, level in levels().items()
    ]


def ours(folder: Path) -> tuple[Any, type[asyncio.Protocol]]:
    """The real application with a view of AGENTS agents."""
    issuer = GatewayIssuerSettings(
        issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json", tenant=TENANT
    )
    settings = Settings(data_dir=folder, gateway=GatewaySettings(issuers=(issuer,), risk_header="X-Risk-Level"))
    jwks = JwksCache([], time.time)
    callers = CallerDirectory([], [])
    view, status = RiskView(), PipelineStatus()
    view.apply(summaries())
    status.apply_report(PipelineUpdate([], [], 1, 0, {}, {}, risk_offset=1), int(time.time() * 1000))
    log = GroupCommit(EventLog(folder / "log"))
    store = open_store(sqlite_url(folder / "store.db"))
    verifier = TokenVerifier([], jwks, callers.resolve, settings.verification, time.time)
    policy = LivePolicy(PolicyBook(default_mode="enforce"))
    guard = make_decision_point(settings, log, store, view, policy, status, lambda _: None)
    connections = ConnectionGuard(time.monotonic)
    services = Runtime(
        settings,
        verifier,
        log,
        store,
        guard.policy_evaluator,
        view,
        policy,
        "m",
        status,
        services=(guard, connections),
        on_shutdown=(log.close,),
    )
    return create_app(services, SLICES), guarded_protocol(connections)


def plain(folder: Path) -> FastAPI:
    """The same check, written plainly."""
    app = FastAPI()
    public = jwt.PyJWK(LocalSigningKey.open(folder).jwk, "ES256")
    known = levels()

    @app.api_route("/ext-authz/{path:path}", methods=METHODS)
    async def check(path: str, authorization: Annotated[str, Header()] = "") -> Response:  # noqa: ARG001
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            claims = jwt.decode(token, public, algorithms=["ES256"], audience=AUDIENCE, issuer=LOCAL_ISSUER)
        except jwt.PyJWTError:
            return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        agent = claims.get("act", {}).get("sub") or claims.get("client_id") or claims["sub"]
        level = known.get(agent, 0)
        if level == 4:
            return Response(status_code=403)
        return Response(status_code=200, headers={"X-Risk-Level": LEVELS[level], "Cache-Control": "no-store"})

    return app


def main() -> None:
    """Serve until killed."""
    name, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if name == "ours":
        app, protocol = ours(folder)
        uvicorn.run(app, host="127.0.0.1", port=port, http=protocol, log_level="warning", access_log=False)
    else:
        uvicorn.run(plain(folder), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
