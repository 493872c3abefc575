"""Routes of events: native, CloudEvents and OTLP; dead letters."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field
from starlette.routing import Route

from trustwatch.ingest.described import TenantName
from trustwatch.ingest.extras import install_line
from trustwatch.ingest.formats import otlp
from trustwatch.ingest.formats.bodies import (
    CLOUDEVENT_BATCH_MEDIA_TYPE,
    CLOUDEVENT_MEDIA_TYPE,
    JSON_MEDIA_TYPE,
    NDJSON_MEDIA_TYPES,
    TEXT_MEDIA_TYPE,
    UnsupportedBody,
)
from trustwatch.ingest.formats.otlp import OtlpSignal
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.dead_letters import DeadLetter

from ..http.auth.callers import SCOPE_INGEST, AuthenticatedCaller
from ..http.dependencies import AdministratorDep, SenderDep, authenticate_connection, provided, services_of
from ..http.schemas import COMMON_PROBLEMS, CursorParam, LimitParam, PageOut, TenantParam, problem_responses
from ..http.wire import TimeText, Wire
from .intake import Receipt
from .origin_keys import IssuedOriginKey, OriginKeyIssuer
from .service import DeadLetterService, EventService, body_format_named, check_not_all_rejected

EVENTS_PATH, TRACES_PATH, LOGS_PATH = "/v1/events", "/v1/traces", "/v1/logs"
ORIGIN_KEY_PATH = "/v1/origin-key"

LetterIdParam = Annotated[str, Path(description="id of the dead letter")]
EventServiceDep = Annotated[EventService, Depends(provided(EventService))]
DeadLetterServiceDep = Annotated[DeadLetterService, Depends(provided(DeadLetterService))]
OriginKeyIssuerDep = Annotated[OriginKeyIssuer, Depends(provided(OriginKeyIssuer))]
FormatParam = Annotated[
    str | None, Query(alias="format", description="format of the records; default: as the caller's settings say")
]

EVENT_EXAMPLE: dict[str, Any] = {
    "id": "evt-0193",
    "time": "2026-11-24T22:23:14.123Z",
    "type": "tool.call",
    "tenant": "acme-corp",
    "agent": {"id": "agent-payment-processor-v2.1", "issuer": "https://as.example"},
    "action": "process_payment",
    "effect": "write",
    "resource": {"type": "account", "id": "acct-42"},
    "outcome": "success",
}
_EVENT_SCHEMA = {"$ref": "#/components/schemas/AuditEvent"}
_CLOUDEVENT_EXAMPLE = {
    "specversion": "1.0",
    "id": "evt-0193",
    "source": "urn:gateway:eu-1",
    "type": "io.trustwatch.audit.v1",
    "data": EVENT_EXAMPLE,
}
_EVENT_BODIES: dict[str, Any] = {
    JSON_MEDIA_TYPE: {
        "schema": {"oneOf": [_EVENT_SCHEMA, {"type": "array", "items": _EVENT_SCHEMA, "maxItems": 10_000}]},
        "examples": {"one": {"value": EVENT_EXAMPLE}, "several": {"value": [EVENT_EXAMPLE]}},
    },
    NDJSON_MEDIA_TYPES[0]: {
        "schema": {"type": "string"},
        "example": msgspec.json.encode(EVENT_EXAMPLE).decode() + "\n",
    },
    # Without schemas: generated clients cannot distinguish lists of several kinds, and would send none.
    CLOUDEVENT_MEDIA_TYPE: {"example": _CLOUDEVENT_EXAMPLE},
    CLOUDEVENT_BATCH_MEDIA_TYPE: {"example": [_CLOUDEVENT_EXAMPLE]},
    TEXT_MEDIA_TYPE: {"schema": {"type": "string"}},
}
_EVENT_PROBLEMS = problem_responses(
    {
        400: "Every record was refused (the members are those of the receipt), or the format does not exist.",
        413: "The body has too many bytes or events.",
        415: "The media type, charset or content coding is not supported.",
        429: "Retry after `Retry-After`. Nothing was kept.",
        503: "The disk refuses the write. Nothing was acknowledged.",
    }
)
_UNKNOWN_LETTER_RESPONSES = problem_responses({404: "The dead letter does not exist."})


class ReceiptOut(Wire, of=Receipt):
    """The outcome of a request. Every accepted record is durable."""


class DeadLetterOut(Wire, of=DeadLetter):
    """A record that was refused."""

    size: int = Field(description="bytes of the record", examples=[412])
    raw: str | None = Field(None, description="bytes of the record in base64; only when one dead letter is retrieved")


class OriginKeyOut(Wire, of=IssuedOriginKey):
    """Key of a tenant for keyed hashes of values."""

    tenant: TenantName
    expires_at: TimeText = Field(description="ask again then: within the hour, and when the period ends")


def dead_letter_out(stored: DeadLetter, *, with_raw: bool) -> DeadLetterOut:
    """Convert a dead letter, with its bytes only if they are requested."""
    raw = stored.raw
    return DeadLetterOut.of(stored, size=len(raw), raw=base64.b64encode(raw).decode() if with_raw else None)


router = APIRouter(tags=["events"], responses=COMMON_PROBLEMS)
dead_letters_router = APIRouter(tags=["dead letters"], responses=COMMON_PROBLEMS)


@router.post(
    EVENTS_PATH,
    status_code=202,
    response_model=ReceiptOut,
    responses=_EVENT_PROBLEMS,
    openapi_extra={"requestBody": {"required": True, "content": _EVENT_BODIES}},
    summary="Send audit events",
)
async def send_events(
    request: Request, caller: SenderDep, events: EventServiceDep, record_format: FormatParam = None
) -> Response:
    """Accepts up to 10,000 native events or CloudEvents (structured, batch, or binary by `ce-*` headers) in one body.

    Returns 202 when every accepted event is on disk. An invalid record is rejected alone and becomes a dead letter.
    Retrying is safe: events are identified by tenant, source and ID.

    Records of gateways and authorization servers in their own formats are accepted if the caller's settings or the
    parameter `format` name one: JSON, NDJSON, or (for formats that support it) `text/plain`, one record a line.
    """
    # `DIRECT_EVENTS_ROUTE` comes first and calls this; FastAPI only documents it.
    body_format = body_format_named(caller.binding, record_format or caller.binding.source.format)
    return _receipt_response(await events.receive(caller, dict(request.headers), request.stream(), body_format))


async def send_events_directly(request: Request) -> Response:
    """Handle `send_events` without FastAPI's routing and dependencies, because events are sent often."""
    request.scope["route"] = DIRECT_EVENTS_ROUTE
    services = services_of(request)
    caller = await authenticate_connection(services, request.scope)
    caller.require(SCOPE_INGEST)
    record_format = request.query_params.get("format")
    return await send_events(request, caller, services.get(EventService), record_format)


def _receipt_response(receipt: Receipt) -> Response:
    check_not_all_rejected(receipt)
    return Response(msgspec.json.encode(receipt), 202, media_type="application/json")


DIRECT_EVENTS_ROUTE = Route(EVENTS_PATH, send_events_directly, methods=["POST"], include_in_schema=False)
"""Route that is matched before all others."""


@router.get(ORIGIN_KEY_PATH, summary="Retrieve the key for hashes of arguments")
async def get_origin_key(
    caller: SenderDep, issuer: OriginKeyIssuerDep, response: Response, tenant: TenantParam = None
) -> OriginKeyOut:
    """Returns the key of a tenant for hashing the values of `arguments` before they are sent.

    All senders of the tenant get the same key until its period ends. Request it again at `expires_at`.
    """
    response.headers["Cache-Control"] = "no-store"
    named = caller.require_tenant(tenant)
    issued = await asyncio.to_thread(issuer.issue, named)
    return OriginKeyOut.of(issued, tenant=named, expires_at=format_rfc3339(int(issued.expires_at * 1000)))


@dead_letters_router.get("/v1/dead-letters", summary="List refused records")
async def list_dead_letters(
    caller: AdministratorDep,
    dead_letters: DeadLetterServiceDep,
    replayed: Annotated[bool | None, Query(description="Only those that were, or were not, sent again.")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DeadLetterOut]:
    """Newest first. A caller bound to `*` sees all dead letters, any other caller its own."""
    page = await dead_letters.list(caller, replayed, limit, cursor)
    return PageOut(items=[dead_letter_out(item, with_raw=False) for item in page.items], next_cursor=page.next_cursor)


@dead_letters_router.get(
    "/v1/dead-letters/{letter_id}", responses=_UNKNOWN_LETTER_RESPONSES, summary="Retrieve a refused record"
)
async def get_dead_letter(
    letter_id: LetterIdParam, caller: AdministratorDep, dead_letters: DeadLetterServiceDep
) -> DeadLetterOut:
    """Returns one dead letter with its bytes in base64."""
    return dead_letter_out(await dead_letters.get(caller, letter_id), with_raw=True)


@dead_letters_router.post(
    "/v1/dead-letters/{letter_id}/replay",
    status_code=202,
    response_model=ReceiptOut,
    responses=_EVENT_PROBLEMS | _UNKNOWN_LETTER_RESPONSES,
    summary="Send a refused record again",
)
async def replay_dead_letter(
    letter_id: LetterIdParam,
    caller: AdministratorDep,
    dead_letters: DeadLetterServiceDep,
    record_format: FormatParam = None,
) -> Response:
    """Sends the record through the same intake, with this caller's bindings, and marks it as replayed.

    A record from an external topic is read with the topic's current mapping and bindings. A record in a caller's own
    format is read as that caller's, unless `format` is given.
    """
    return _receipt_response(await dead_letters.replay(caller, letter_id, record_format))


# OTLP/HTTP: traces and logs from an OpenTelemetry collector, an SDK, or a server that traces itself.

PROTOBUF_MEDIA_TYPES = ("application/x-protobuf", "application/protobuf")
OTLP_JSON_HINT = (
    f"install the extra `otlp` for protobuf ({install_line('otlp')}), or set the exporter to JSON: "
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/json, or `encoding: json` of the collector's otlphttp exporter"
)

_OTLP_CONTENT: dict[str, Any] = {
    JSON_MEDIA_TYPE: {"schema": {"type": "object"}},
    PROTOBUF_MEDIA_TYPES[0]: {"schema": {"type": "string", "format": "binary"}},
}
_OTLP_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _OTLP_CONTENT}}
_OTLP_PROBLEMS = _EVENT_PROBLEMS | problem_responses(
    {
        400: "The body is not OTLP. It became a dead letter.",
        413: "The body has too many bytes or records.",
        415: "another media type or content coding, or protobuf where the extra `otlp` is not installed",
    }
)

otlp_router = APIRouter(tags=["events"], responses=COMMON_PROBLEMS)


@otlp_router.post(TRACES_PATH, responses=_OTLP_PROBLEMS, openapi_extra=_OTLP_BODY, summary="Send traces (OTLP/HTTP)")
async def send_traces(request: Request, caller: SenderDep, events: EventServiceDep) -> Response:
    """Spans with attributes of generative AI, MCP or A2A, and Ory Hydra's events on spans, become audit events.

    Returns 200 when every accepted span is on disk. Refused spans are counted in `partialSuccess` and become dead
    letters. Other spans are skipped.
    """
    return await _receive_export(request, caller, events, "traces")


@otlp_router.post(LOGS_PATH, responses=_OTLP_PROBLEMS, openapi_extra=_OTLP_BODY, summary="Send logs (OTLP/HTTP)")
async def send_logs(request: Request, caller: SenderDep, events: EventServiceDep) -> Response:
    """Access logs of agentgateway and Envoy become audit events. Otherwise the same as `/v1/traces`."""
    return await _receive_export(request, caller, events, "logs")


async def _receive_export(
    request: Request, caller: AuthenticatedCaller, events: EventService, signal: OtlpSignal
) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = kind in PROTOBUF_MEDIA_TYPES
    if kind != JSON_MEDIA_TYPE and not (binary and otlp.protobuf_available()):
        what = "protobuf is not supported here" if binary else "the body must be OTLP"
        raise UnsupportedBody(f"{what}; {OTLP_JSON_HINT} (Content-Type: {JSON_MEDIA_TYPE})")

    body_format = body_format_named(caller.binding, "otlp")._replace(protobuf=signal if binary else None)
    receipt = await events.receive(caller, dict(request.headers), request.stream(), body_format)
    check_not_all_rejected(receipt)
    message = "" if not receipt.rejections else f"{receipt.rejections[0].reason} - at `{receipt.rejections[0].path}`"
    if binary:
        content = otlp.protobuf_response(signal, receipt.rejected, message)
        return Response(content, media_type=PROTOBUF_MEDIA_TYPES[0])
    name = "rejectedSpans" if signal == "traces" else "rejectedLogRecords"
    # In OTLP/JSON, 64-bit numbers are strings.
    partial = {name: str(receipt.rejected), "errorMessage": message} if receipt.rejected else {}
    return Response(msgspec.json.encode({"partialSuccess": partial}), media_type=JSON_MEDIA_TYPE)
