"""OTLP/HTTP: traces and logs from an OpenTelemetry collector, an SDK, or a server that traces itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from ...ingest.formats import otlp_proto
from ...ingest.formats.otlp_proto import Signal
from ...ingest.formats.parcel import Parsed
from ..callers import Caller
from ..edge import Receipt, UnsupportedBody, foreign_parcels
from ..edge.bodies import JSON
from .front import LOGS, TRACES
from .gate import Part, Parts, Sender
from .schemas import problems
from .taking import Split, all_rejected, rejected, take

PROTOBUF = ("application/x-protobuf", "application/protobuf")
ONLY_JSON = (
    "install the extra `otlp` for protobuf, or set the exporter to JSON: OTEL_EXPORTER_OTLP_PROTOCOL=http/json, or "
    "`encoding: json` of the collector's otlphttp exporter"
)

_CONTENT: dict[str, Any] = {
    JSON: {"schema": {"type": "object"}},
    PROTOBUF[0]: {"schema": {"type": "string", "format": "binary"}},
}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _CONTENT}}
_PROBLEMS = problems(
    {
        400: "the body is no OTLP; it became a dead letter",
        413: "too many bytes or records",
        415: "another media type or content coding, or protobuf where the extra `otlp` is not installed",
        429: "come again after `Retry-After`; nothing was kept",
        503: "the disk refuses; nothing was acknowledged",
    }
)

router = APIRouter(tags=["events"])


@router.post(TRACES, responses=_PROBLEMS, openapi_extra=_BODY, summary="Send traces (OTLP/HTTP)")
async def traces(request: Request, parts: Part, caller: Sender) -> Response:
    """Spans with attributes of generative AI, MCP or A2A, and events of Ory Hydra on spans, become audit events.

    200 when what was taken is on disk. Refused spans are counted in `partialSuccess` and are dead letters; spans of
    other kinds are skipped. Scope `trust.ingest`.
    """
    return await _export(request, parts, caller, "traces")


@router.post(LOGS, responses=_PROBLEMS, openapi_extra=_BODY, summary="Send logs (OTLP/HTTP)")
async def logs(request: Request, parts: Part, caller: Sender) -> Response:
    """Access logs of agentgateway and Envoy become audit events; as `/v1/traces`. Scope `trust.ingest`."""
    return await _export(request, parts, caller, "logs")


async def _export(request: Request, parts: Parts, caller: Caller, signal: Signal) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = kind in PROTOBUF
    if kind != JSON and not (binary and otlp_proto.available()):
        what = "protobuf is not read here" if binary else "the body must be OTLP"
        raise UnsupportedBody(f"{what}; {ONLY_JSON} (Content-Type: {JSON})")

    def parsed(_: Mapping[str, str], body: bytes) -> Parsed:
        return foreign_parcels(
            JSON, otlp_proto.to_json(signal, body) if binary else body, caller.binding.parser("otlp")
        )

    receipt = await take(request, parts, caller, Split(parsed, heavy=True))
    if all_rejected(receipt):
        raise rejected(receipt)
    return _binary(receipt, signal) if binary else _json(receipt, signal)


def _json(receipt: Receipt, signal: Signal) -> Response:
    """Numbers of 64 bits are texts in OTLP/JSON."""
    name = "rejectedSpans" if signal == "traces" else "rejectedLogRecords"
    partial = {name: str(receipt.rejected), "errorMessage": _reason(receipt)} if receipt.rejected else {}
    return Response(msgspec.json.encode({"partialSuccess": partial}), media_type=JSON)


def _binary(receipt: Receipt, signal: Signal) -> Response:
    return Response(otlp_proto.response(signal, receipt.rejected, _reason(receipt)), media_type=PROTOBUF[0])


def _reason(receipt: Receipt) -> str:
    return "" if not receipt.rejections else f"{receipt.rejections[0].reason} - at `{receipt.rejections[0].path}`"
