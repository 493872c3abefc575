"""Events in, and what became of those that were refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.routing import Route

from ...ingest.errors import ConfigError
from ...ingest.formats.parcel import Parcel, Parsed, Parser
from ...scoring.records import DeadLetter
from ..callers import ANY, INGEST, Caller, SourceBinding, binding_of
from ..edge import foreign_parcels, parcels_of, stored_parcel, stored_parcels
from ..edge.bodies import BY_MEDIA_TYPE, CLOUDEVENT, CLOUDEVENTS, JSON, NDJSON, TEXT
from ..edge.sources import topic_binding
from ..problems import Problem, ProblemError
from .convert import letter_out
from .examples import EVENT_EXAMPLE
from .finding import no_such
from .front import caller_of
from .gate import Admin, Part, Parts, Sender, parts_of
from .route_agents import Cursor, Limit
from .schemas import LetterOut, PageOut, ReceiptOut, problems
from .taking import Split, count, respond, take

Format = Annotated[
    str | None, Query(alias="format", description="format of the records; default: as the caller's settings say")
]

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
    TEXT: {"schema": {"type": "string"}},
}
_PROBLEMS = problems(
    {
        400: "every record was refused (members as of the receipt), or there is no such format",
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
async def events(request: Request, parts: Part, caller: Sender, record_format: Format = None) -> Response:
    """Native events or CloudEvents (structured, batch, or binary by `ce-*` headers), one or up to 10,000 in a body.

    202 when everything that is counted as accepted is on disk. A wrong record rejects only itself and becomes a dead
    letter. Sending the same again is safe: events are known by tenant, source and id. Scope `trust.ingest`.

    Records of gateways and authorization servers in their own formats are taken where the caller's settings or the
    parameter `format` name one: JSON, NDJSON, or (of formats that have such) `text/plain`, one record a line.
    """
    receipt = await take(request, parts, caller, _split(caller, record_format))
    return respond(receipt)


async def take_events(request: Request) -> Response:
    """What `events` does, which declares it: found and called without FastAPI's dependencies, as bodies come often."""
    request.scope["route"] = DIRECT
    parts = parts_of(request)
    caller = await caller_of(parts.services.verifier, request.scope)
    caller.require(INGEST)
    return respond(await take(request, parts, caller, _split(caller, request.query_params.get("format"))))


DIRECT = Route("/v1/events", take_events, methods=["POST"], include_in_schema=False)
"""To be looked at before all other routes."""


def _split(caller: Caller, wanted: str | None) -> Split:
    """How bodies are read: as the request says, else as the caller's settings do."""
    name = wanted or caller.binding.format
    if name in BY_MEDIA_TYPE:
        return Split(lambda headers, body: Parsed(parcels_of(headers.get("content-type", ""), headers, body)))
    parser = _parser(caller.binding, name)
    return Split(lambda headers, body: foreign_parcels(headers.get("content-type", ""), body, parser), heavy=True)


def _parser(binding: SourceBinding, name: str) -> Parser:
    try:
        return binding.parser(name)
    except ConfigError as error:
        raise ProblemError(Problem(400, "unknown_format", "Unknown format", str(error))) from None


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
async def replay(letter_id: str, parts: Part, caller: Admin, record_format: Format = None) -> Response:
    """Through the same door, with what this caller may speak for; then marked as replayed. Scope `trust.admin`.

    What came from a foreign topic is read as its mapping says now, and with what that topic may speak for; what came
    from a caller in a format of its own, likewise as that caller, unless `format` says otherwise.
    """
    store = parts.services.store
    found = await parts.read(store.dead_letter, letter_id, visible_sources(caller))
    if found is None:
        raise no_such("dead letter")
    parcels, binding = _once_more(parts, caller, found.letter, record_format)
    receipt = await parts.door.receive(parcels, binding, keep_refused=False)
    count(parts, binding, receipt)
    answer = respond(receipt)
    await parts.read(store.mark_replayed, [letter_id], parts.services.now_ms())
    return answer


def _once_more(
    parts: Parts, caller: Caller, letter: DeadLetter, wanted: str | None
) -> tuple[list[Parcel], SourceBinding]:
    """What is in a dead letter, and whose word it is. Letters of topics are seen by callers of all tenants alone."""
    settings = parts.services.settings
    topic = next((topic for topic in settings.kafka.topics if topic.name == letter.source), None)
    if topic is not None:
        return stored_parcels(letter.raw, topic.parser()), topic_binding(topic)
    sender = next((sender for sender in settings.callers if sender.name == letter.source), None)
    name = wanted or ("native" if sender is None else sender.format)
    if name in BY_MEDIA_TYPE:
        return [stored_parcel(letter.raw)], caller.binding
    # Foreign records name no tenant: they are their sender's word, whoever sends them in again.
    binding = caller.binding if sender is None else binding_of(sender)
    return stored_parcels(letter.raw, _parser(binding, name)), binding
