"""Streams of security event tokens (SETs) to receivers, and the SETs that wait in them. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

PUSH_METHOD = "urn:ietf:rfc:8935"
POLL_METHOD = "urn:ietf:rfc:8936"

StreamStatus = Literal["enabled", "paused", "disabled"]
"""Statuses of SSF 1.0: SETs leave; they wait; none is kept."""


class EventStream(msgspec.Struct, frozen=True):
    """One stream of SETs to one receiver.

    Attributes:
        owner: name of the caller in the settings that made it; nobody else sees it.
        audience: `aud` of its SETs.
        events_requested: event types that the receiver asked for, as it wrote them.
        method: `PUSH_METHOD` or `POLL_METHOD`.
        endpoint_url: where SETs are pushed; "" = they are polled.
        authorization: sealed value of the Authorization header of a push; "" = none.
        status_reason: who changed the status last says why; "" = nothing was said.
        failures: pushes that failed one after the other.
        failing_since_ms: first of them; 0 = the last one was taken.
        next_push_ms: earliest time of the next push.
        verified_ms: when the receiver last asked for a verification.
    """

    stream_id: str
    owner: str
    audience: str
    created_ms: int
    updated_ms: int
    events_requested: tuple[str, ...]
    method: str
    endpoint_url: str
    authorization: str
    description: str
    status: StreamStatus = "enabled"
    status_reason: str = ""
    failures: int = 0
    failing_since_ms: int = 0
    next_push_ms: int = 0
    verified_ms: int = 0


class StreamSubject(NamedTuple):
    """A subject as its receiver spoke of it last: whether it wants SETs about it."""

    subject: dict[str, Any]
    wanted: bool
    changed_ms: int


class SecurityEvent(msgspec.Struct, frozen=True):
    """A SET that waits for its receiver; it is signed when it leaves, under the key of that time.

    Attributes:
        jti: identifier; the same however often it is sent.
        claims: claims of the token, JSON.
        agent_key, tenant: whom it is about; 0 and "" = the stream itself.
        announces_status: it tells that the stream was stopped, so it leaves though the stream is.
    """

    stream_id: str
    jti: str
    claims: bytes
    queued_ms: int
    agent_key: int = 0
    tenant: str = ""
    announces_status: bool = False
