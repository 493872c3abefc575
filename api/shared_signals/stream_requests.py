"""Bodies that receivers send, read from JSON. What SSF 1.0 and RFC 8936 do not know in them is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from trustwatch.ingest.described import member
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import InvalidSubject, check_subject

from ..http.problems import ProblemDetails, ProblemError

MAX_POLLED = 100
"""SETs in one answer to a poll."""
DEFAULT_POLLED = 50

StreamId = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256), member("id of the stream", "01KAW4FD1JQ4V1S0Z3Y8M4C2QK")
]
EventTypes = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2048)], ...], msgspec.Meta(max_length=200)]
MAX_TEXT = 1_024
"""Characters of a description or a reason that are kept: SSF 1.0 lets a transmitter cut them off."""
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Jti = Annotated[str, msgspec.Meta(max_length=256)]


def bad_request(detail: str) -> ProblemError:
    """400 for a body that can not be read or does not say what it must."""
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
    iss: Annotated[Any, member("issuer of the stream; as it is", "https://trust.example")] = UNSET
    aud: Annotated[Any, member("audience of the stream; as it is", "soc")] = UNSET
    events_supported: Annotated[Any, member("types that can be requested; as they are")] = UNSET
    events_delivered: Annotated[Any, member("types that are delivered; as they are")] = UNSET
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
    state: Annotated[Text | None, member("given back in the verification event", "VGhpcyBpcw")] = None


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


def read_subject(subject: object) -> dict[str, Any]:
    """A subject identifier. Raises ProblemError, 400."""
    try:
        return check_subject(subject)
    except InvalidSubject as error:
        raise bad_request(str(error)) from None
