"""The two servers that `bench_answer` compares, each run as `python -m benchmarks.answer_servers NAME PORT FOLDER`.

`ours` is the real application. `plain` is the same answer as one would first write it: a FastAPI route with a response
model, PyJWT verifying the token on every request, the agents in a dict.
"""

# No postponed annotations here: FastAPI could not read those of the functions inside `plain`.

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jwt
import msgspec
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from trustwatch.api.agents.slice import RiskOut
from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.connection_guard import ConnectionGuard
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.http_server import UvicornServer, listening_socket, make_server
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.access_settings import CallerSettings, IssuerSettings
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ListenSettings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

AUDIENCE, CLIENT, TENANT, ISSUER = "trustwatch", "as", "acme-corp", "https://as.example"
AGENTS = 10_000

RISK_EXAMPLE: dict[str, Any] = {
    "agent_id": "agent-payment-processor-v2.1",
    "tenant": "acme-corp",
    "issuer": "https://as.example",
    "risk_level": "high",
    "risk_score": 0.87,
    "concern": "compromise",
    "confidence": 0.94,
    "evaluated_at": "2026-11-24T22:23:14.130Z",
    "reasons": [
        {
            "code": "first_seen_resource",
            "feature": "resource_surprise",
            "observed": "acct-9001",
            "usual": "42 known resources of this agent",
            "contribution": 0.41,
            "text": "new resource acct-9001 (very unusual); 42 known resources of this agent",
        }
    ],
    "indicators": [
        {"kind": "network", "value": "AS65537", "status": "new", "at": "2026-11-24T22:21:40.000Z"},
        {"kind": "address", "value": "203.0.113.7", "status": "with_new", "at": "2026-11-24T22:21:40.000Z"},
        {"kind": "software", "value": "curl/8.9.1", "status": "with_new", "at": "2026-11-24T22:21:40.000Z"},
    ],
    "counterfactual": "medium had the resource been usual",
    "pin": {
        "level": "high",
        "by": "analyst",
        "why": "its key may have leaked",
        "expires_at": "2026-11-25T08:00:00.000Z",
    },
    "critical_ancestor": "agent-orchestrator",
    "token_policy": {
        "allow": True,
        "max_token_lifetime_s": 60,
        "allowed_scopes": ["payments:read"],
        "refresh_allowed": False,
        "step_up": True,
        "revoke": False,
        "step_up_scopes": ["*"],
    },
    "holds_at": [
        {
            "by": "actuator",
            "name": "hydra-eu",
            "kind": "hydra",
            "max_token_lifetime_s": 60,
            "text": "shortens new tokens of the client to at most 60 s, unless they were shorter",
        },
    ],
    "decision_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
    "model_version": "2026-11-24.1",
    "policy_version": "3",
    "mode": "enforce",
    "expires_at": "2026-11-24T22:28:14.130Z",
    "stale": False,
}


def summaries() -> list[AgentSummary]:
    """Agents with one reason each."""
    reasons = msgspec.json.encode(RISK_EXAMPLE["reasons"])
    ids = [f"agent-{number}" for number in range(AGENTS)]
    names = [AgentName(IdentityHasher().agent_key(TENANT, ISSUER, agent), TENANT, ISSUER, agent) for agent in ids]
    at_ms = int(time.time() * 1000)
    return [
        AgentSummary(
            name,
            "Payer",
            3,
            0.87,
            0.94,
            0.9,
            1,
            2,
            at_ms,
            0,
            9,
            RISK_EXAMPLE["decision_id"],
            reasons,
            RISK_EXAMPLE["counterfactual"],
        )
        for name in names
    ]


def ours(folder: Path, *more: object) -> UvicornServer:
    """The server that `serve` runs, with a view of AGENTS agents, and *more* services."""
    issuer = IssuerSettings(issuer=LOCAL_ISSUER, audiences=(AUDIENCE,), jwks_file=folder / "local-jwks.json")
    settings = Settings(
        data_dir=folder,
        issuers=(issuer,),
        callers=(CallerSettings(name="as", client_id=CLIENT, tenants=(TENANT,), issuers=(ISSUER,)),),
    )
    rules = settings.verification
    jwks = JwksCache([issuer], time.time)
    callers = CallerDirectory(settings.callers, [LOCAL_ISSUER])
    view, status = RiskView(), PipelineStatus()
    view.apply(summaries())
    status.apply_report(PipelineUpdate([], [], 1, 0, {}, {}, risk_offset=1), int(time.time() * 1000))
    log = GroupCommit(EventLog(folder / "log"))
    store = open_store(sqlite_url(folder / "store.db"))
    verifier = TokenVerifier([issuer], jwks, callers.resolve, rules, time.time)
    policy = LivePolicy(PolicyBook())
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
        services=(guard, connections, *more),
        on_startup=(jwks.start,),
        on_shutdown=(jwks.close, log.close),
    )
    return make_server(create_app(services, SLICES), connections)


def serve_ours(port: int, folder: Path, *more: object) -> None:
    """Serve `ours` until killed."""
    with listening_socket(Settings(listen=ListenSettings(port=port))) as listener:
        ours(folder, *more).run([listener])


def plain(folder: Path) -> FastAPI:
    """The same answer, written plainly."""
    app = FastAPI()
    key = LocalSigningKey.open(folder)
    public = jwt.PyJWK(key.jwk, "ES256")
    agents = {
        summary.name.agent_id: {**RISK_EXAMPLE, "agent_id": summary.name.agent_id, "policy_version": "1"}
        for summary in summaries()
    }
    bearer = HTTPBearer()

    async def scopes(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> list[str]:
        try:
            claims = jwt.decode(
                credentials.credentials, public, algorithms=["ES256"], audience=AUDIENCE, issuer=LOCAL_ISSUER
            )
        except jwt.PyJWTError as error:
            raise HTTPException(401) from error
        return str(claims["scope"]).split()

    @app.get("/v1/agents/{agent_id}/risk", response_model=RiskOut)
    async def risk(agent_id: str, granted: Annotated[list[str], Depends(scopes)]) -> Any:
        if "trust.score:read" not in granted:
            raise HTTPException(403)
        return agents[agent_id]

    return app


def main() -> None:
    """Serve until killed."""
    name, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if name == "ours":
        serve_ours(port, folder)
    else:
        uvicorn.run(plain(folder), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
