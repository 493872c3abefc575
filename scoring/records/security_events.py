"""Streams of security event tokens (SETs) to receivers, and the SETs that wait in them. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

PUSH_METHOD = "urn:ietf:rfc:8935"
POLL_METHOD = "urn:ietf:rfc:8936"

StreamStatus = Literal["enabled", "paused", "disabled"]
"""Statuses of SSF 1.0: SETs are sent, wait, or are not kept."""


class EventStream(msgspec.Struct, frozen=True):
    """One stream of SETs to one receiver.

    Attributes:
        owner: name of the caller in the settings that created it; no other caller sees it.
        audience: `aud` of its SETs.
        events_requested: event types as the receiver requested them.
        method: `PUSH_METHOD` or `POLL_METHOD`.
        endpoint_url: where SETs are pushed; "" = they are polled.
        authorization: sealed value of the Authorization header of a push; "" = none.
        status_reason: reason of the last change of status, if any.
        failures: pushes that failed one after the other.
        failing_since_ms: first of them; 0 = the last one was accepted.
        next_push_ms: earliest time of the next push.
        verified_ms: when the receiver last requested a verification.
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
    """A subject, and whether its receiver wants SETs about it, as of its last change."""

    subject: dict[str, Any]
    wanted: bool
    changed_ms: int


class SecurityEvent(msgspec.Struct, frozen=True):
    """A SET that waits for its receiver; it is signed when it is sent, with the key of that time.

    Attributes:
        jti: identifier; the same however often it is sent.
        claims: claims of the token, JSON.
        agent_key, tenant: of the agent that it is about; 0 and "" = it is about the stream itself.
        announces_status: it reports that the stream was stopped, so it is sent although the stream is stopped.
    """

    stream_id: str
    jti: str
    claims: bytes
    queued_ms: int
    agent_key: int = 0
    tenant: str = ""
    announces_status: bool = False
