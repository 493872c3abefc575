"""OTLP/HTTP as JSON: traces and logs from an OpenTelemetry collector or SDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from ...ingest.formats.parcel import Parsed
from ..callers import Caller
from ..edge import Receipt, UnsupportedBody, foreign_parcels
from ..edge.bodies import JSON
from .front import LOGS, TRACES
from .gate import Part, Parts, Sender
from .schemas import problems
from .taking import Split, all_rejected, take
from .taking import rejected as problem

PROTOBUF = ("application/x-protobuf", "application/protobuf")

_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
_PROBLEMS = problems(
    {
        400: "the body is no OTLP/JSON; it became a dead letter",
        413: "too many bytes or records",
        415: "protobuf, or another media type or content coding",
        429: "come again after `Retry-After`; nothing was kept",
        503: "the disk refuses; nothing was acknowledged",
    }
)

router = APIRouter(tags=["events"])


@router.post(TRACES, responses=_PROBLEMS, openapi_extra=_BODY, summary="Send traces (OTLP/HTTP, JSON)")
async def traces(request: Request, parts: Part, caller: Sender) -> Response:
    """Spans with attributes of generative AI, MCP or A2A, and events of Ory Hydra on spans, become audit events.

    200 when what was taken is on disk. Refused spans are counted in `partialSuccess` and are dead letters; spans of
    other kinds are skipped. Scope `trust.ingest`.
    """
    return await _export(request, parts, caller, "rejectedSpans")


@router.post(LOGS, responses=_PROBLEMS, openapi_extra=_BODY, summary="Send logs (OTLP/HTTP, JSON)")
async def logs(request: Request, parts: Part, caller: Sender) -> Response:
    """Access logs of agentgateway and Envoy become audit events; as `/v1/traces`. Scope `trust.ingest`."""
    return await _export(request, parts, caller, "rejectedLogRecords")


async def _export(request: Request, parts: Parts, caller: Caller, rejected: str) -> Response:
    def parsed(headers: Mapping[str, str], body: bytes) -> Parsed:
        return foreign_parcels(headers.get("content-type", ""), body, caller.binding.parser("otlp"))

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        hint = "set the exporter to JSON: OTEL_EXPORTER_OTLP_PROTOCOL=http/json, or `encoding: json` of the collector's"
        what = "protobuf is not read" if kind in PROTOBUF else "the body must be OTLP/JSON"
        raise UnsupportedBody(f"{what}; {hint} otlphttp exporter (Content-Type: {JSON})")
    receipt = await take(request, parts, caller, Split(parsed, heavy=True))
    if all_rejected(receipt):
        raise problem(receipt)
    return Response(msgspec.json.encode({"partialSuccess": _partial(receipt, rejected)}), media_type=JSON)


def _partial(receipt: Receipt, rejected: str) -> dict[str, str]:
    """Empty where all is well. Numbers of 64 bits are texts in OTLP/JSON."""
    if not receipt.rejected:
        return {}
    first = receipt.rejections[0]
    return {rejected: str(receipt.rejected), "errorMessage": f"{first.reason} - at `{first.path}`"}
