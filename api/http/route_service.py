"""The service about itself: health, readiness, metrics, schema, policy."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from ...ingest.events import json_schema
from ...scoring.records import RiskLevel
from ..callers import ADMIN
from .gate import LocalOr, Part, Reader
from .schemas import HealthOut, PolicyOut, ReadyOut, TokenPolicyOut
from .services import Services

SILENCE_S = 15.0
"""A pipeline that has not reported for so long is not ready; it reports every half second."""

router = APIRouter(tags=["service"])


@router.get("/healthz", summary="Is the process alive")
async def healthz() -> HealthOut:
    """Open to everybody."""
    return HealthOut()


@router.get("/readyz", response_model=ReadyOut, responses={503: {"model": ReadyOut}}, summary="Can it do its work")
async def readyz(parts: Part) -> Response:
    """Component names and nothing else; open to everybody. 503 unless all are `ok`."""
    states = components(parts.services)
    ready = all(states.values())
    body = ReadyOut(ready=ready, components={name: "ok" if fine else "not ok" for name, fine in states.items()})
    return JSONResponse(body.model_dump(), 200 if ready else 503, {"Cache-Control": "no-store"})


def components(services: Services) -> dict[str, bool]:
    """Which parts of the service can do their work now; an archive counts only where nothing else runs."""
    if services.archive.alone:
        return {"archive": services.archive.ready(), **{name: check() for name, check in services.ready.items()}}
    status = services.status
    silence_ms = services.now_ms() - status.heard_ms
    return {
        "log": not services.log.log.failed,
        "pipeline": status.alive and silence_ms < min(SILENCE_S, services.settings.risk.staleness_s) * 1000,
        **{name: check() for name, check in services.ready.items()},
    }


@router.get("/metrics", response_class=Response, dependencies=[Depends(LocalOr(ADMIN))], summary="Prometheus metrics")
async def metrics(parts: Part) -> Response:
    """From this machine, or with scope `trust.admin`."""
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/v1/schema/audit-event", dependencies=[Depends(LocalOr(""))], summary="JSON Schema of the audit event")
async def schema() -> dict[str, Any]:
    """From this machine, or with any valid token."""
    return json_schema()


@router.get("/openapi.json", dependencies=[Depends(LocalOr(""))], include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """From this machine, or with any valid token."""
    return JSONResponse(request.app.openapi())


@router.get("/v1/policy", summary="Token policy of every level")
async def policy(parts: Part, caller: Reader) -> PolicyOut:  # noqa: ARG001 (the scope is what counts)
    """Scope `trust.score:read`."""
    book = parts.services.policy.book
    levels = {level.label: TokenPolicyOut(**msgspec.to_builtins(book.table[level])) for level in RiskLevel}
    return PolicyOut(version=book.version, levels=levels)
