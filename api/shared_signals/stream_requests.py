"""Bodies that receivers send, read from JSON. What SSF 1.0 and RFC 8936 do not know in them is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from trustwatch.scoring.delivery.shared_signals.subject_identifiers import InvalidSubject, check_subject

from ..http.problems import ProblemDetails, ProblemError

MAX_POLLED = 100
"""SETs in one answer to a poll."""
DEFAULT_POLLED = 50

StreamId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
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

    events_requested: EventTypes | None = None
    delivery: DeliveryRequest | None = None
    description: str | None = None


class StreamChange(StreamRequest, frozen=True):
    """The same of one stream, with what is the transmitter's own to say: that must be as it is."""

    stream_id: StreamId | UnsetType = UNSET
    iss: Any = UNSET
    aud: Any = UNSET
    events_supported: Any = UNSET
    events_delivered: Any = UNSET
    min_verification_interval: Any = UNSET
    inactivity_timeout: Any = UNSET


class StatusRequest(msgspec.Struct, frozen=True):
    """A status that a receiver gives its stream."""

    stream_id: StreamId
    status: Literal["enabled", "paused", "disabled"]
    reason: str | None = None


class SubjectRequest(msgspec.Struct, frozen=True):
    """A subject that a receiver adds to its stream, or removes."""

    stream_id: StreamId
    subject: Any
    verified: bool | None = None


class VerificationRequest(msgspec.Struct, frozen=True):
    """A verification that a receiver asks for."""

    stream_id: StreamId
    state: Text | None = None


class SetError(msgspec.Struct, frozen=True):
    """Reason for which a receiver does not take a SET."""

    err: str
    description: str = ""


class PollRequest(msgspec.Struct, frozen=True, rename="camel"):
    """A poll (RFC 8936)."""

    max_events: Annotated[int, msgspec.Meta(ge=0)] | None = None
    return_immediately: bool | None = None
    ack: Annotated[tuple[Jti, ...], msgspec.Meta(max_length=5_000)] | None = None
    set_errs: Annotated[Mapping[Jti, SetError], msgspec.Meta(max_length=5_000)] | None = None


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
