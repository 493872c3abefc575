"""Routes of the transmitter: public metadata and keys, and streams for their receivers.

Bodies are read here, not by FastAPI: SSF 1.0 answers 400 to one that is not as it must be.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Security
from starlette.responses import Response

from trustwatch.scoring.store.read_scope import restrict_reads

from ..http.agent_lookup import not_found_error
from ..http.auth.callers import AuthenticatedCaller, InsufficientScope
from ..http.dependencies import authenticate_connection, declared, oauth2_scheme, services_of
from ..http.schemas import COMMON_PROBLEMS, problem_responses
from .service import (
    PollRequest,
    SharedSignalsService,
    StatusRequest,
    StreamChange,
    StreamRequest,
    SubjectRequest,
    VerificationRequest,
    bad_request,
    read_body,
)
from .signal_receiver import SignalReceiver
from .transmitter_context import METADATA_PATH

SCOPE_SSF_READ: Final = "ssf.read"
SCOPE_SSF_MANAGE: Final = "ssf.manage"
SCOPE_SSF_POLL: Final = "ssf.manage.poll"  # A scope for the credential of a poller that is to change no stream
SCOPE_WORDS: Final = {
    SCOPE_SSF_READ: "Read the caller's own streams of security events.",
    SCOPE_SSF_MANAGE: "Create, change, delete and poll the caller's own streams.",
    SCOPE_SSF_POLL: "Poll the caller's own streams.",
}
NO_STORE: Final = {"cache-control": "no-store"}
JWKS_MAX_AGE_S: Final = 3_600


class RequireSsfScope:
    """A dependency: the caller, whose token has one of *scopes*; it reads nothing but its own from then on."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = list(scopes)

    async def __call__(self, request: Request, _: Annotated[Any, Security(oauth2_scheme)]) -> AuthenticatedCaller:
        caller = await authenticate_connection(services_of(request), request.scope)
        if caller.scopes.isdisjoint(self.scopes):
            raise InsufficientScope(self.scopes[0])
        restrict_reads(caller.read_scope)
        return caller


def _transmitter(request: Request) -> SharedSignalsService:
    service = services_of(request).find(SharedSignalsService)
    if service is None:
        raise not_found_error("transmitter: `shared_signals.enabled` of the settings is false")
    return service


TransmitterDep = Annotated[SharedSignalsService, Depends(_transmitter)]
ReceiverDep = Annotated[AuthenticatedCaller, declared(RequireSsfScope(SCOPE_SSF_READ, SCOPE_SSF_MANAGE))]
ManagerDep = Annotated[AuthenticatedCaller, declared(RequireSsfScope(SCOPE_SSF_MANAGE))]
PollerDep = Annotated[AuthenticatedCaller, declared(RequireSsfScope(SCOPE_SSF_MANAGE, SCOPE_SSF_POLL))]
StreamIdParam = Annotated[str | None, Query(description="id of the stream")]

_ISSUER_PATH: Final[dict[str, Any]] = {
    "name": "issuer_path",
    "in": "path",
    "required": True,
    "description": "path of the issuer, slashes included",
    "schema": {"type": "string"},
}
_NOT_FOUND = problem_responses({404: "The receiver has no such stream, or this service does not transmit events."})
_OPEN_PROBLEMS = problem_responses(
    {
        400: "The request does not have exactly one `Host`.",
        404: "This service does not transmit events, or its issuer is a different one.",
        421: "The request has neither a bearer token nor a `Host` of this service.",
    }
)
_TOO_MANY = problem_responses({429: "There are too many requests, or the last one was too recent."})
_CHANGED = problem_responses({409: "The stream is being changed by another request."})
_CREATED: Any = {201: {"description": "the configuration of the new stream"}}
_NO_CONTENT: Any = {204: {"description": "done"}}

router = APIRouter(tags=["shared signals"], responses=_OPEN_PROBLEMS, default_response_class=Response)
streams = APIRouter(
    tags=["shared signals"], responses={**COMMON_PROBLEMS, **_NOT_FOUND}, default_response_class=Response
)


def _body_of(kind: Any) -> dict[str, Any]:
    schemas, components = msgspec.json.schema_components([kind])
    schema = components.get(kind.__name__, schemas[0])
    described = {
        "type": "object",
        "title": kind.__name__,
        "properties": {
            name: {key: value for key, value in member.items() if key in ("description", "examples")}
            for name, member in schema.get("properties", {}).items()
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": described}}}}


def _json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, NO_STORE, "application/json")


@router.get(METADATA_PATH, summary="Retrieve the metadata of the transmitter")
@router.get(
    METADATA_PATH + "/{issuer_path:path}",
    operation_id="read_metadata_of_issuer_path",
    openapi_extra={"parameters": [_ISSUER_PATH]},
    summary="Retrieve the metadata of a transmitter whose issuer has a path",
)
async def read_metadata(request: Request, transmitter: TransmitterDep) -> Response:
    """Returns the endpoints of the transmitter, as SSF 1.0 defines them. Needs no token."""
    return Response(msgspec.json.encode(transmitter.metadata(request.url.path)), media_type="application/json")


@router.get("/ssf/jwks.json", summary="Retrieve the keys that verify security event tokens")
async def read_keys(transmitter: TransmitterDep) -> Response:
    """Returns the keys that sign now, will sign soon, or signed recently. Needs no token."""
    headers = {"cache-control": f"max-age={JWKS_MAX_AGE_S}"}
    return Response(await transmitter.jwks(), headers=headers, media_type="application/json")


@router.get(
    "/ssf/receiver-jwks.json",
    responses=problem_responses({404: "No transmitter may send encrypted tokens to this service."}),
    summary="Retrieve the key for encrypted security event tokens",
)
async def read_receiver_keys(request: Request) -> Response:
    """Returns the key (`use: enc`) to which configured transmitters may encrypt what they send here. Needs no token."""
    receiver = services_of(request).find(SignalReceiver)
    if receiver is None or receiver.decryption is None:
        raise not_found_error("encryption key: no transmitter of the settings has `encrypted`")
    headers = {"cache-control": f"max-age={JWKS_MAX_AGE_S}"}
    return Response(await asyncio.to_thread(receiver.decryption.jwks), headers=headers, media_type="application/json")


@streams.post(
    "/ssf/stream",
    status_code=201,
    responses={**_CREATED, **problem_responses({409: "The receiver has the maximum number of streams."})},
    openapi_extra=_body_of(StreamRequest),
    summary="Create a stream",
)
async def create_stream(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """Creates a stream of the caller, which is polled unless the body configures push delivery."""
    return _json(await transmitter.create(caller, read_body(await request.body(), StreamRequest)), 201)


@streams.get("/ssf/stream", summary="Retrieve one stream, or list all")
async def read_streams(caller: ReceiverDep, transmitter: TransmitterDep, stream_id: StreamIdParam = None) -> Response:
    """Returns an object if `stream_id` is given, else an array of the caller's streams."""
    if stream_id is None:
        return _json(await transmitter.read_all(caller))
    return _json(await transmitter.read(caller, stream_id))


@streams.patch("/ssf/stream", responses=_CHANGED, openapi_extra=_body_of(StreamChange), summary="Update a stream")
async def update_stream(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """Changes only the members that the body names."""
    asked = read_body(await request.body(), StreamChange)
    return _json(await transmitter.change(caller, asked, replace=False))


@streams.put("/ssf/stream", responses=_CHANGED, openapi_extra=_body_of(StreamChange), summary="Replace a stream")
async def replace_stream(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """Replaces the configuration. Members that the body omits are reset."""
    asked = read_body(await request.body(), StreamChange)
    return _json(await transmitter.change(caller, asked, replace=True))


@streams.delete("/ssf/stream", status_code=204, responses=_NO_CONTENT, summary="Delete a stream")
async def delete_stream(caller: ManagerDep, transmitter: TransmitterDep, stream_id: StreamIdParam = None) -> Response:
    """Deletes the stream and everything that is queued in it."""
    await transmitter.delete(caller, _required(stream_id))
    return Response(status_code=204)


@streams.get("/ssf/status", summary="Retrieve the status of a stream")
async def read_status(caller: ReceiverDep, transmitter: TransmitterDep, stream_id: StreamIdParam = None) -> Response:
    """Returns whether the stream is enabled, paused or disabled, and why."""
    return _json(await transmitter.status(caller, _required(stream_id)))


@streams.post("/ssf/status", openapi_extra=_body_of(StatusRequest), summary="Set the status of a stream")
async def set_status(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """A paused stream keeps its queue. A disabled stream keeps nothing."""
    return _json(await transmitter.set_status(caller, read_body(await request.body(), StatusRequest)))


@streams.post(
    "/ssf/subjects:add",
    responses=_TOO_MANY,
    openapi_extra=_body_of(SubjectRequest),
    summary="Add a subject to a stream",
)
async def add_subject(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """The stream sends events about the subject from now on. An unknown subject is not an error."""
    await transmitter.set_subject(caller, read_body(await request.body(), SubjectRequest), wanted=True)
    return Response(status_code=200)


@streams.post(
    "/ssf/subjects:remove",
    status_code=204,
    responses={**_NO_CONTENT, **_TOO_MANY},
    openapi_extra=_body_of(SubjectRequest),
    summary="Remove a subject from a stream",
)
async def remove_subject(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """The stream no longer sends events about the subject."""
    await transmitter.set_subject(caller, read_body(await request.body(), SubjectRequest), wanted=False)
    return Response(status_code=204)


@streams.post(
    "/ssf/verify",
    status_code=204,
    responses={**_NO_CONTENT, **_TOO_MANY},
    openapi_extra=_body_of(VerificationRequest),
    summary="Request a verification",
)
async def request_verification(request: Request, caller: ManagerDep, transmitter: TransmitterDep) -> Response:
    """Sends a verification event with the `state` of the body through the stream."""
    await transmitter.verify(caller, read_body(await request.body(), VerificationRequest))
    return Response(status_code=204)


@streams.post("/ssf/poll/{stream_id}", openapi_extra=_body_of(PollRequest), summary="Poll a stream")
async def poll_stream(
    stream_id: Annotated[str, Path(description="id of the stream")],
    request: Request,
    caller: PollerDep,
    transmitter: TransmitterDep,
) -> Response:
    """Acknowledges events, reports errors, and returns queued events or waits for them (RFC 8936)."""
    return _json(
        await transmitter.poll(caller, stream_id, read_body(await request.body(), PollRequest), request.is_disconnected)
    )


def _required(stream_id: str | None) -> str:
    if stream_id is None:
        raise bad_request("query.stream_id: missing")
    return stream_id
