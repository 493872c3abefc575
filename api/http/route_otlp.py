"""OTLP/HTTP: traces and logs from an OpenTelemetry collector, an SDK, or a server that traces itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from ...ingest.formats import otlp_proto
from ...ingest.formats.otlp_proto import OtlpSignal
from ...ingest.formats.parcel import ParsedRecords
from ..callers import AuthenticatedCaller
from ..edge import Receipt, UnsupportedBody, parse_foreign_body
from ..edge.bodies import JSON_MEDIA_TYPE
from .front import LOGS_PATH, TRACES_PATH
from .gate import ApplicationContext, ContextDep, SenderDep
from .schemas import problem_responses
from .taking import BodySplitter, all_rejected, events_rejected_error, receive_body

PROTOBUF_MEDIA_TYPES = ("application/x-protobuf", "application/protobuf")
OTLP_JSON_HINT = (
    "install the extra `otlp` for protobuf, or set the exporter to JSON: OTEL_EXPORTER_OTLP_PROTOCOL=http/json, or "
    "`encoding: json` of the collector's otlphttp exporter"
)

_OTLP_CONTENT: dict[str, Any] = {
    JSON_MEDIA_TYPE: {"schema": {"type": "object"}},
    PROTOBUF_MEDIA_TYPES[0]: {"schema": {"type": "string", "format": "binary"}},
}
_OTLP_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _OTLP_CONTENT}}
_OTLP_PROBLEMS = problem_responses(
    {
        400: "the body is no OTLP; it became a dead letter",
        413: "too many bytes or records",
        415: "another media type or content coding, or protobuf where the extra `otlp` is not installed",
        429: "come again after `Retry-After`; nothing was kept",
        503: "the disk refuses; nothing was acknowledged",
    }
)

otlp_router = APIRouter(tags=["events"])


@otlp_router.post(TRACES_PATH, responses=_OTLP_PROBLEMS, openapi_extra=_OTLP_BODY, summary="Send traces (OTLP/HTTP)")
async def send_traces(request: Request, parts: ContextDep, caller: SenderDep) -> Response:
    """Spans with attributes of generative AI, MCP or A2A, and events of Ory Hydra on spans, become audit events.

    200 when what was taken is on disk. Refused spans are counted in `partialSuccess` and are dead letters; spans of
    other kinds are skipped. Scope `trust.ingest`.
    """
    return await _receive_export(request, parts, caller, "traces")


@otlp_router.post(LOGS_PATH, responses=_OTLP_PROBLEMS, openapi_extra=_OTLP_BODY, summary="Send logs (OTLP/HTTP)")
async def send_logs(request: Request, parts: ContextDep, caller: SenderDep) -> Response:
    """Access logs of agentgateway and Envoy become audit events; as `/v1/traces`. Scope `trust.ingest`."""
    return await _receive_export(request, parts, caller, "logs")


async def _receive_export(
    request: Request, parts: ApplicationContext, caller: AuthenticatedCaller, signal: OtlpSignal
) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = kind in PROTOBUF_MEDIA_TYPES
    if kind != JSON_MEDIA_TYPE and not (binary and otlp_proto.protobuf_available()):
        what = "protobuf is not read here" if binary else "the body must be OTLP"
        raise UnsupportedBody(f"{what}; {OTLP_JSON_HINT} (Content-Type: {JSON_MEDIA_TYPE})")

    def parsed(_: Mapping[str, str], body: bytes) -> ParsedRecords:
        return parse_foreign_body(
            JSON_MEDIA_TYPE,
            otlp_proto.protobuf_to_json(signal, body) if binary else body,
            caller.binding.parser("otlp"),
        )

    receipt = await receive_body(request, parts, caller, BodySplitter(parsed, in_thread=True))
    if all_rejected(receipt):
        raise events_rejected_error(receipt)
    return _otlp_protobuf_response(receipt, signal) if binary else _otlp_json_response(receipt, signal)


def _otlp_json_response(receipt: Receipt, signal: OtlpSignal) -> Response:
    """Numbers of 64 bits are texts in OTLP/JSON."""
    name = "rejectedSpans" if signal == "traces" else "rejectedLogRecords"
    partial = {name: str(receipt.rejected), "errorMessage": _first_rejection(receipt)} if receipt.rejected else {}
    return Response(msgspec.json.encode({"partialSuccess": partial}), media_type=JSON_MEDIA_TYPE)


def _otlp_protobuf_response(receipt: Receipt, signal: OtlpSignal) -> Response:
    return Response(
        otlp_proto.protobuf_response(signal, receipt.rejected, _first_rejection(receipt)),
        media_type=PROTOBUF_MEDIA_TYPES[0],
    )


def _first_rejection(receipt: Receipt) -> str:
    return "" if not receipt.rejections else f"{receipt.rejections[0].reason} - at `{receipt.rejections[0].path}`"
