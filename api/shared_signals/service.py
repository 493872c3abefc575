"""Streams of security event tokens, as their receivers manage and poll them (SSF 1.0, RFC 8936)."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from trustwatch.ingest.described import member
from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.delivery.shared_signals.event_types import EVENTS_SUPPORTED, events_delivered
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import InvalidSubject, check_subject
from trustwatch.scoring.records.security_events import (
    POLL_METHOD,
    PUSH_METHOD,
    EventStream,
    SecurityEvent,
    StreamStatus,
    StreamSubject,
)
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of
from trustwatch.scoring.store.security_event_store import MAX_COMPOUND_SUBJECTS, SecurityEventStore

from ..http.agent_lookup import not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError
from ..http.store_executor import StoreExecutor
from .transmitter_context import MAX_WAITING, TransmitterContext

MAX_POLLED = 100  # SETs in one answer to a poll
DEFAULT_POLLED = 50

StreamId = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256), member("id of the stream", "01KAW4FD1JQ4V1S0Z3Y8M4C2QK")
]
EventTypes = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2048)], ...], msgspec.Meta(max_length=200)]
MAX_TEXT = 1_024  # Characters of a description or a reason that are kept: SSF 1.0 lets a transmitter cut them off
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Jti = Annotated[str, msgspec.Meta(max_length=256)]


def bad_request(detail: str) -> ProblemError:
    """400 for a body that cannot be read or lacks a required member."""
    return ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", detail))


class DeliveryRequest(msgspec.Struct, frozen=True):
    """Delivery as a receiver wants it."""

    method: str
    endpoint_url: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    # Printable ASCII alone: it becomes a header of our requests.
    authorization_header: Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{0,4096}\Z")] = ""


class StreamRequest(msgspec.Struct, frozen=True):
    """Members of a stream as its receiver sends them; null counts as not said."""

    events_requested: Annotated[EventTypes | None, member("types of events", ["https://example.com/event"])] = None
    delivery: Annotated[
        DeliveryRequest | None,
        member("how events are delivered: `method`, and of a push `endpoint_url`", {"method": "urn:ietf:rfc:8936"}),
    ] = None
    description: Annotated[str | None, member("what the stream is for", "tickets of the SOC")] = None


class StreamChange(StreamRequest, frozen=True):
    """The same of one stream, with what is the transmitter's own to say: that must be as it is."""

    stream_id: Annotated[StreamId | UnsetType, member("id of the stream, as it is")] = UNSET
    iss: Annotated[Any, member("Issuer of the stream. Must be unchanged.", "https://trust.example")] = UNSET
    aud: Annotated[Any, member("Audience of the stream. Must be unchanged.", "soc")] = UNSET
    events_supported: Annotated[Any, member("Event types that can be requested. Must be unchanged.")] = UNSET
    events_delivered: Annotated[Any, member("Event types that are delivered. Must be unchanged.")] = UNSET
    min_verification_interval: Annotated[Any, member("least seconds between two verifications; as it is", 60)] = UNSET
    inactivity_timeout: Annotated[Any, member("seconds until an unused stream is paused; as it is", 86400)] = UNSET


class StatusRequest(msgspec.Struct, frozen=True):
    """A status that a receiver gives its stream."""

    stream_id: StreamId
    status: Annotated[Literal["enabled", "paused", "disabled"], member("`enabled`, `paused` or `disabled`", "paused")]
    reason: Annotated[str | None, member("why", "maintenance")] = None


class SubjectRequest(msgspec.Struct, frozen=True):
    """A subject that a receiver adds to its stream, or removes."""

    stream_id: StreamId
    subject: Annotated[Any, member("subject identifier (RFC 9493)", {"format": "opaque", "id": "acct-42"})]
    verified: Annotated[bool | None, member("whether the receiver has verified the subject", True)] = None


class VerificationRequest(msgspec.Struct, frozen=True):
    """A verification that a receiver asks for."""

    stream_id: StreamId
    state: Annotated[Text | None, member("Returned in the verification event.", "VGhpcyBpcw")] = None


class SetError(msgspec.Struct, frozen=True):
    """Reason for which a receiver does not take a SET."""

    err: str
    description: str = ""


class PollRequest(msgspec.Struct, frozen=True, rename="camel"):
    """A poll (RFC 8936)."""

    max_events: Annotated[Annotated[int, msgspec.Meta(ge=0)] | None, member("most events of the answer", 50)] = None
    return_immediately: Annotated[bool | None, member("do not wait for events", True)] = None
    ack: Annotated[
        Annotated[tuple[Jti, ...], msgspec.Meta(max_length=5_000)] | None,
        member("ids of events that were accepted", ["4d3559ec67504aaba65d40b0363faad8"]),
    ] = None
    set_errs: Annotated[
        Annotated[Mapping[Jti, SetError], msgspec.Meta(max_length=5_000)] | None,
        member("ids of events that were refused, with `err` and `description`", {}),
    ] = None


T = TypeVar("T")


def read_body(body: bytes, kind: type[T]) -> T:
    """The body of a request. Raises ProblemError, 400."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not what is expected here: {str(error)[:300]}") from None


CHANGE_ATTEMPTS: Final = 5  # A change is made to what was read; if another one came between, it is read again
MAX_STREAMS: Final = 10  # Streams of one receiver: one for each product of it
MAX_SUBJECTS: Final = 10_000  # Subjects that one stream may name: all of them are looked at for each event
MAX_POLLS: Final = 200  # Long polls that wait in one process, each on a connection; a further one is answered at once
POLL_WAIT_S: Final = 30.0  # Longest wait of a long poll: proxies close connections that are silent for a minute
POLL_SHARE: Final = 10
"""Part of the long polls that one receiver may have waiting: one of so many, and one for each of its streams."""
MAX_LOGGED_CODES: Final = 10
TRANSMITTER_MEMBERS: Final = (
    "iss",
    "aud",
    "events_supported",
    "events_delivered",
    "min_verification_interval",
    "inactivity_timeout",
)
"""Members of a stream that the transmitter sets; we never set `inactivity_timeout`."""
LOOK_AGAIN_S = 0.5  # Interval at which a long poll looks for SETs that another process has queued, s
PATHS: Final[Mapping[str, str]] = {
    "jwks_uri": "/ssf/jwks.json",
    "configuration_endpoint": "/ssf/stream",
    "status_endpoint": "/ssf/status",
    "add_subject_endpoint": "/ssf/subjects:add",
    "remove_subject_endpoint": "/ssf/subjects:remove",
    "verification_endpoint": "/ssf/verify",
}
OAUTH: Final = "urn:ietf:rfc:6749"
MTLS: Final = "urn:ietf:rfc:8705"
POLL_PATH: Final = "/ssf/poll/"

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class SharedSignalsService:
    """Streams of the caller alone: to other callers they do not exist. For one event loop."""

    _context: TransmitterContext
    _store: SecurityEventStore
    _executor: StoreExecutor
    _audiences: Mapping[str, str]
    _now_ms: Callable[[], int]
    _monotonic: Callable[[], float]

    def metadata(self, path: str) -> dict[str, Any]:
        """Metadata of the transmitter (SSF 1.0, section 7). Raises ProblemError: 404, the issuer has another path."""
        context = self._context
        if path.rstrip("/") != context.metadata_path:
            raise not_found_error("issuer")
        methods = [PUSH_METHOD, POLL_METHOD] if context.settings.push_hosts else [POLL_METHOD]
        schemes = [OAUTH, MTLS] if context.takes_certificates else [OAUTH]
        return {
            "spec_version": "1_0",
            "issuer": context.issuer,
            **{name: context.base_url + at for name, at in PATHS.items()},
            "delivery_methods_supported": methods,
            "authorization_schemes": [{"spec_urn": urn} for urn in schemes],
            "default_subjects": "ALL",
        }

    async def jwks(self) -> bytes:
        """Keys that verify SETs. Raises ConfigError."""
        return await self._executor(self._context.keys.jwks)

    async def create(self, caller: AuthenticatedCaller, asked: StreamRequest) -> dict[str, Any]:
        """Make a stream. Raises TenantNotAllowed, ProblemError."""
        visible_tenants(caller, None)
        now = self._now_ms()
        method, url, authorization = await self._delivery(asked.delivery)
        stream = EventStream(
            stream_id=secrets.token_hex(16),
            owner=caller.name,
            audience=self._audiences.get(caller.name) or caller.client_id or caller.subject,
            created_ms=now,
            updated_ms=now,
            events_requested=asked.events_requested or (),
            method=method,
            endpoint_url=url,
            authorization=authorization,
            description=(asked.description or "")[:MAX_TEXT],
        )
        if not await self._executor.write(self._store.add_stream, stream, MAX_STREAMS):
            detail = f"this receiver has {MAX_STREAMS} streams already; delete one"
            raise ProblemError(ProblemDetails(409, "too_many_streams", "Too many streams", detail))
        return self._document(stream)

    async def read(self, caller: AuthenticatedCaller, stream_id: str) -> dict[str, Any]:
        """Configuration of a stream. Raises ProblemError: 404."""
        return self._document(await self._own_stream(caller, stream_id))

    async def read_all(self, caller: AuthenticatedCaller) -> Sequence[dict[str, Any]]:
        """Configurations of all streams of the caller."""
        streams = await self._executor(self._store.list_streams, caller.name)
        return [self._document(stream) for stream in streams]

    async def change(self, caller: AuthenticatedCaller, asked: StreamChange, *, replace: bool) -> dict[str, Any]:
        """Change members of a stream; with *replace*, omitted members are reset.

        Raises ProblemError: 400, it sets members that a receiver may not set; 404; 409, others keep changing it.
        """
        for _ in range(CHANGE_ATTEMPTS):
            if asked.stream_id is UNSET:
                raise bad_request("$.stream_id: missing; the body names the stream")
            stream = await self._own_stream(caller, asked.stream_id)
            changed = await self._changed(stream, asked, replace=replace)
            if await self._executor.write(self._store.change_configuration, changed, stream.updated_ms):
                return self._document(changed)
        detail = "this stream was changed by others at the same time; read it and try again"
        raise ProblemError(ProblemDetails(409, "stream_changed", "Stream was changed", detail))

    async def _changed(self, stream: EventStream, asked: StreamChange, *, replace: bool) -> EventStream:
        ours = self._document(stream)
        for name in TRANSMITTER_MEMBERS:
            said = getattr(asked, name)
            if said is not UNSET and said is not None and _comparable(said) != _comparable(ours.get(name)):
                raise bad_request(f"$.{name}: only the transmitter sets it; leave it out, or send it unchanged")
        values: dict[str, Any] = {"updated_ms": max(self._now_ms(), stream.updated_ms + 1)}
        if asked.events_requested is not None or replace:
            values["events_requested"] = asked.events_requested or ()
        if asked.description is not None or replace:
            values["description"] = (asked.description or "")[:MAX_TEXT]
        if asked.delivery is not None or replace:
            delivery = await self._delivery(asked.delivery, self._poll_url(stream))
            values |= dict(zip(("method", "endpoint_url", "authorization"), delivery, strict=True))
        changed = msgspec.structs.replace(stream, **values)
        if not replace and changed.endpoint_url == stream.endpoint_url and not changed.authorization:
            # A receiver that sends back what it read sends no header, since none is returned; it means the one it gave.
            changed = msgspec.structs.replace(changed, authorization=stream.authorization)
        return changed

    async def delete(self, caller: AuthenticatedCaller, stream_id: str) -> None:
        """Remove a stream and what waits in it. Raises ProblemError: 404."""
        if not await self._executor.write(self._store.delete_stream, caller.name, stream_id):
            raise not_found_error("stream")
        self._context.ring()

    async def status(self, caller: AuthenticatedCaller, stream_id: str) -> dict[str, str]:
        """Status of a stream. Raises ProblemError: 404."""
        stream = await self._own_stream(caller, stream_id)
        return _status_document(stream_id, stream.status, stream.status_reason)

    async def set_status(self, caller: AuthenticatedCaller, asked: StatusRequest) -> dict[str, str]:
        """Set the status of a stream; one that is disabled keeps nothing of what waits. Raises ProblemError: 404."""
        stream = await self._own_stream(caller, asked.stream_id)
        at, reason = max(self._now_ms(), stream.updated_ms + 1), (asked.reason or "")[:MAX_TEXT]
        if not await self._executor.write(self._store.change_status, asked.stream_id, asked.status, reason, at):
            raise not_found_error("stream")
        self._context.ring()
        return _status_document(asked.stream_id, asked.status, reason)

    async def set_subject(self, caller: AuthenticatedCaller, asked: SubjectRequest, *, wanted: bool) -> None:
        """Add a subject to a stream, or remove it.

        Raises ProblemError: 400, it is not a subject identifier; 404; 429, the stream names too many.
        """
        try:
            subject = check_subject(asked.subject)
        except InvalidSubject as error:
            raise bad_request(str(error)) from None
        stream = await self._own_stream(caller, asked.stream_id)
        said = StreamSubject(subject, wanted, self._now_ms())
        if not await self._executor.write(self._store.put_subject, stream, said, MAX_SUBJECTS):
            detail = (
                f"this stream names {MAX_SUBJECTS} subjects already, or "
                f"{MAX_COMPOUND_SUBJECTS} that are `complex` or `aliases`; remove some, or make another stream"
            )
            raise ProblemError(ProblemDetails(429, "too_many_subjects", "Too many subjects", detail))

    async def verify(self, caller: AuthenticatedCaller, asked: VerificationRequest) -> None:
        """Queue a verification; a disabled stream gets none.

        Raises ProblemError: 404; 429, too much waits.
        """
        stream = await self._own_stream(caller, asked.stream_id)
        if stream.status == "disabled":
            return
        event = self._context.deriver.verification(stream, secrets.token_hex(16), asked.state, self._now_ms())
        if not await self._executor.write(self._store.add_verification, event, MAX_WAITING):
            detail = "too many events of this stream wait; take them first"
            headers = {"Retry-After": "1"}
            raise ProblemError(ProblemDetails(429, "too_many_requests", "Too many requests", detail, headers))
        self._context.outcomes["queued"] += 1
        self._context.ring()

    async def poll(
        self, caller: AuthenticatedCaller, stream_id: str, asked: PollRequest, is_gone: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any]:
        """Take acknowledgements and errors, then give what waits, or wait for it.

        What is acknowledged is deleted before anything else happens; what is not comes again.
        Raises ProblemError, Unavailable.
        """
        stream = await self._polled_stream(caller, stream_id)
        await self._settle(stream, asked)
        most = min(DEFAULT_POLLED if asked.max_events is None else asked.max_events, MAX_POLLED)
        ends_at = self._monotonic() + POLL_WAIT_S
        share = min(MAX_POLLS, max(MAX_STREAMS, MAX_POLLS // POLL_SHARE))
        waiting = self._context.waiting_polls
        busy = waiting.total() >= MAX_POLLS or waiting[stream.owner] >= share
        at_once = bool(asked.return_immediately) or most == 0 or busy
        while True:
            events = await self._read_waiting(stream, caller, most + 1)
            left_s = ends_at - self._monotonic()
            if events or at_once or left_s <= 0 or self._context.closing:
                break
            await self._context.wait_for_ring(min(left_s, LOOK_AGAIN_S), stream.owner)
            if await is_gone():
                return {"sets": {}}
            stream = await self._polled_stream(caller, stream_id)

        def sign_all() -> dict[str, str]:
            return {one.jti: self._context.sign(stream.owner, msgspec.json.decode(one.claims)) for one in events[:most]}

        sets = await self._executor(sign_all)
        return {"sets": sets, "moreAvailable": True} if len(events) > most else {"sets": sets}

    async def _settle(self, stream: EventStream, asked: PollRequest) -> None:
        if asked.ack:
            taken = await self._executor.write(self._store.settle, stream.stream_id, asked.ack)
            self._context.outcomes["acknowledged"] += taken
        if asked.set_errs:
            refused = await self._executor.write(self._store.settle, stream.stream_id, tuple(asked.set_errs))
            self._context.outcomes["failed"] += refused
            if refused:  # in one line: a receiver may send any text of any length
                codes = sorted({printable_line(error.err, 64) for error in asked.set_errs.values()})[:MAX_LOGGED_CODES]
                _log.warning("set_refused", stream=stream.stream_id, owner=stream.owner, sets=refused, errors=codes)

    async def _read_waiting(self, stream: EventStream, caller: AuthenticatedCaller, limit: int) -> list[SecurityEvent]:
        """Events that wait and may leave; those of tenants that were taken from the caller are dropped."""
        while True:
            # The stream is the caller's, and what it may see of it is chosen here.
            with reads_of(WHOLE_DEPLOYMENT):
                events = await self._executor(self._store.waiting, stream, limit)
            withdrawn = [event.jti for event in events if not self._context.may_hear(caller.name, event.tenant)]
            if not withdrawn:
                return events
            dropped = await self._executor.write(self._store.settle, stream.stream_id, withdrawn)
            self._context.outcomes["withdrawn"] += dropped

    async def _own_stream(self, caller: AuthenticatedCaller, stream_id: str) -> EventStream:
        stream = await self._executor(self._store.find_stream, caller.name, stream_id) if caller.name else None
        if stream is None:
            raise not_found_error("stream")
        return stream

    async def _polled_stream(self, caller: AuthenticatedCaller, stream_id: str) -> EventStream:
        stream = await self._own_stream(caller, stream_id)
        if stream.method != POLL_METHOD:
            raise not_found_error("stream that is polled")
        return stream

    async def _delivery(self, asked: DeliveryRequest | None, poll_url: str | None = None) -> tuple[str, str, str]:
        """Method, address and sealed authorization of a delivery; poll if none is requested."""
        if asked is None or asked.method == POLL_METHOD:
            if asked is not None and poll_url is not None and asked.endpoint_url not in ("", poll_url):
                raise bad_request("$.delivery.endpoint_url: the transmitter sets where SETs are polled; leave it out")
            return POLL_METHOD, "", ""
        if asked.method != PUSH_METHOD:
            raise bad_request(f"$.delivery.method: expected `{PUSH_METHOD}` or `{POLL_METHOD}`")
        if not self._context.settings.may_push_to(asked.endpoint_url):
            raise bad_request(
                "$.delivery.endpoint_url: expected an https URL whose host this service may call; its operator names "
                "hosts of receivers in `shared_signals.push_hosts`"
            )
        sealed = await self._executor(self._context.keys.seal, asked.authorization_header)
        return PUSH_METHOD, asked.endpoint_url, sealed

    def _poll_url(self, stream: EventStream) -> str:
        return self._context.base_url + POLL_PATH + stream.stream_id

    def _document(self, stream: EventStream) -> dict[str, Any]:
        """The stream's configuration. The receiver's own Authorization header is not returned."""
        url = self._poll_url(stream) if stream.method == POLL_METHOD else stream.endpoint_url
        document: dict[str, Any] = {
            "stream_id": stream.stream_id,
            "iss": self._context.issuer,
            "aud": stream.audience,
            "events_supported": list(EVENTS_SUPPORTED),
            "events_requested": list(stream.events_requested),
            "events_delivered": events_delivered(stream.events_requested),
            "delivery": {"method": stream.method, "endpoint_url": url},
        }
        return document | ({"description": stream.description} if stream.description else {})


def _comparable(value: object) -> object:
    """Lists are sets here: the order of event types means nothing. One audience is a text or a list (RFC 7519)."""
    return sorted(map(str, value if isinstance(value, list) else [value])) if value is not None else None


def _status_document(stream_id: str, status: StreamStatus, reason: str) -> dict[str, str]:
    document = {"stream_id": stream_id, "status": status}
    return document | ({"reason": reason} if reason else {})
