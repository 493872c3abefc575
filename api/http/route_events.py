"""Events in, and what became of those that were refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Query, Request, Response

from ...ingest.errors import MalformedEvent
from ...ingest.formats.parcel import Parcel, refused
from ...scoring.records import DeadLetter
from ..callers import ANY, Caller, SourceBinding, TenantNotAllowed
from ..edge import MAX_BODY, BodyTooLarge, Overloaded, Receipt, inflate, parcels_of, stored_parcel
from ..edge.bodies import CLOUDEVENT, CLOUDEVENTS, JSON, NDJSON
from ..edge.limits import Hold
from ..edge.sources import topic_binding
from ..problems import Problem, ProblemError
from .convert import letter_out
from .examples import EVENT_EXAMPLE
from .finding import no_such
from .front import declared_length
from .gate import Admin, Part, Parts, Sender
from .route_agents import Cursor, Limit
from .schemas import LetterOut, PageOut, ReceiptOut, problems

INFLATE_IN_THREAD = 32 * 1024
"""Compressed bytes from which unpacking would hold up other requests."""

_EVENT = {"$ref": "#/components/schemas/AuditEvent"}
_CLOUDEVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "data"],
    "properties": {"data": _EVENT},
}
_BODIES: dict[str, Any] = {
    JSON: {
        "schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT, "maxItems": 10_000}]},
        "examples": {"one": {"value": EVENT_EXAMPLE}, "several": {"value": [EVENT_EXAMPLE]}},
    },
    NDJSON[0]: {"schema": {"type": "string"}, "example": msgspec.json.encode(EVENT_EXAMPLE).decode() + "\n"},
    CLOUDEVENT: {
        "schema": _CLOUDEVENT,
        "example": {
            "specversion": "1.0",
            "id": "evt-0193",
            "source": "urn:gateway:eu-1",
            "type": "io.trustwatch.audit.v1",
            "data": EVENT_EXAMPLE,
        },
    },
    CLOUDEVENTS: {"schema": {"type": "array", "items": _CLOUDEVENT}},
}
_PROBLEMS = problems(
    {
        400: "every record was refused; members as of the receipt",
        413: "too many bytes or events",
        415: "media type, charset or content coding",
        429: "come again after `Retry-After`; nothing was kept",
        503: "the disk refuses; nothing was acknowledged",
    }
)

router = APIRouter(tags=["events"])
letters = APIRouter(tags=["dead letters"])


@router.post(
    "/v1/events",
    status_code=202,
    response_model=ReceiptOut,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": {"required": True, "content": _BODIES}},
    summary="Send audit events",
)
async def events(request: Request, parts: Part, caller: Sender) -> Response:
    """Native events or CloudEvents (structured, batch, or binary by `ce-*` headers), one or up to 10,000 in a body.

    202 when everything that is counted as accepted is on disk. A wrong record rejects only itself and becomes a dead
    letter. Sending the same again is safe: events are known by tenant, source and id. Scope `trust.ingest`.
    """
    binding = caller.binding
    if not binding.tenants:
        raise TenantNotAllowed("this caller is bound to no tenant, so it may send no events")
    try:
        receipt = await _take(request, parts, binding)
    except Overloaded as error:
        parts.metrics.counter("trustwatch_events_refused_requests_total", binding.name, error.cause).inc()
        raise
    _count(parts, binding, receipt)
    parts.silence.heard(binding.name, parts.services.monotonic(), parts.services.now_ms())
    return _respond(receipt)


async def _take(request: Request, parts: Parts, binding: SourceBinding) -> Receipt:
    limits = parts.door.limits
    limits.check(binding)
    headers = {name.lower(): value for name, value in request.headers.items()}
    with limits.hold(binding) as hold:
        body = await _body(request, hold)
        try:
            body = await _inflated(body, headers.get("content-encoding", ""), hold)
            parcels = parcels_of(headers.get("content-type", ""), headers, body)
        except MalformedEvent as error:
            limits.taken(binding, 1)
            return await parts.door.refuse(body, binding, error)
        limits.taken(binding, len(parcels))
        return await parts.door.receive(parcels, binding)


async def _body(request: Request, hold: Hold) -> bytes:
    """The body as it was sent; room in memory is taken as it arrives."""
    too_large = BodyTooLarge(f"the body may have {MAX_BODY} bytes")
    if declared_length(request.scope) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        hold.grow(len(chunk))
        body += chunk
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


async def _inflated(body: bytes, coding: str, hold: Hold) -> bytes:
    if len(body) > INFLATE_IN_THREAD and coding:
        plain = await anyio.to_thread.run_sync(inflate, body, coding)
    else:
        plain = inflate(body, coding)
    if plain is not body:
        hold.grow(len(plain))
    return plain


def _count(parts: Parts, binding: SourceBinding, receipt: Receipt) -> None:
    for outcome in ("accepted", "duplicate", "rejected"):
        count = getattr(receipt, outcome)
        if count:
            parts.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(count)


def _respond(receipt: Receipt) -> Response:
    """202, or 400 where nothing at all could be used."""
    if receipt.rejected and not receipt.accepted and not receipt.duplicate:
        raise all_rejected(receipt)
    return Response(msgspec.json.encode(receipt), 202, media_type="application/json")


def all_rejected(receipt: Receipt) -> ProblemError:
    """400 with the members of the receipt."""
    first = receipt.rejections[0]
    more = f" (and {receipt.rejected - 1} more)" if receipt.rejected > 1 else ""
    detail = f"{first.reason} - at `{first.path}`{more}"
    members = {"path": first.path, **msgspec.to_builtins(receipt)}
    return ProblemError(Problem(400, "events_rejected", "Events rejected", detail, members=members))


def visible_sources(caller: Caller) -> Collection[str] | None:
    """Whose dead letters a caller sees. What could not be read has no tenant: callers of some tenants see their own."""
    return None if ANY in caller.tenants else (caller.name,)


@letters.get("/v1/dead-letters", summary="List refused records")
async def dead_letters(
    parts: Part,
    caller: Admin,
    replayed: Annotated[bool | None, Query(description="only those that were, or were not, sent in again")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[LetterOut]:
    """Newest first. A caller bound to `*` sees all, others what they sent themselves. Scope `trust.admin`."""
    store = parts.services.store
    page = await parts.read(store.list_dead_letters, visible_sources(caller), replayed, limit, cursor)
    return PageOut(items=[letter_out(item, with_raw=False) for item in page.items], next_cursor=page.next_cursor)


@letters.get("/v1/dead-letters/{letter_id}", summary="One refused record")
async def dead_letter(letter_id: str, parts: Part, caller: Admin) -> LetterOut:
    """With its bytes, in base64. Scope `trust.admin`."""
    found = await parts.read(parts.services.store.dead_letter, letter_id, visible_sources(caller))
    if found is None:
        raise no_such("dead letter")
    return letter_out(found, with_raw=True)


@letters.post(
    "/v1/dead-letters/{letter_id}/replay",
    status_code=202,
    response_model=ReceiptOut,
    responses={400: _PROBLEMS[400]},
    summary="Send a refused record in again",
)
async def replay(letter_id: str, parts: Part, caller: Admin) -> Response:
    """Through the same door, with what this caller may speak for; then marked as replayed. Scope `trust.admin`.

    What came from a foreign topic is read as its mapping says now, and with what that topic may speak for.
    """
    store = parts.services.store
    found = await parts.read(store.dead_letter, letter_id, visible_sources(caller))
    if found is None:
        raise no_such("dead letter")
    parcels, binding = _once_more(parts, caller, found.letter)
    receipt = await parts.door.receive(parcels, binding, keep_refused=False)
    _count(parts, binding, receipt)
    answer = _respond(receipt)
    await parts.read(store.mark_replayed, [letter_id], parts.services.now_ms())
    return answer


def _once_more(parts: Parts, caller: Caller, letter: DeadLetter) -> tuple[list[Parcel], SourceBinding]:
    """What is in a dead letter, and whose word it is. Letters of topics are seen by callers of all tenants alone."""
    topic = next((topic for topic in parts.services.settings.kafka.topics if topic.name == letter.source), None)
    if topic is None:
        return [stored_parcel(letter.raw)], caller.binding
    try:
        return topic.parser()(letter.raw, {}).parcels, topic_binding(topic)
    except MalformedEvent as error:
        return [refused(letter.raw, error)], topic_binding(topic)
