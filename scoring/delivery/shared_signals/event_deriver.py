"""Security event tokens (RFC 8417) for streams: of announced decisions, and of the streams themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import msgspec

from trustwatch.ingest.formats.security_event_types import STREAM_UPDATED, VERIFICATION

from ...records.security_events import EventStream, SecurityEvent, StreamSubject
from .announced_decision import AnnouncedDecision
from .event_types import CAEP_EVENTS_SUPPORTED, EVENT_RULES, EVENTS_SUPPORTED, EventRule, EventWording, event_members
from .subject_identifiers import SubjectFormat, agent_subject, is_wanted


class TransmitterRules(NamedTuple):
    """Rules that hold for all streams.

    Attributes:
        issuer: `iss` of every SET.
        subject_format: how agents are named.
        wanted_by_default: whether a stream is about every agent that its owner may see, until it says otherwise.
        wording: what events say.
        without_wise: owners whose streams leave WISE events out.
    """

    issuer: str
    subject_format: SubjectFormat = "iss_sub"
    wanted_by_default: bool = True
    wording: EventWording = EventWording()
    without_wise: Set[str] = frozenset()


class EventDeriver:
    """Makes SETs."""

    def __init__(self, rules: TransmitterRules, tenants: Mapping[str, frozenset[str]]) -> None:
        self._rules = rules
        self._tenants = tenants

    def derive(
        self,
        decision: AnnouncedDecision,
        agent_key: int,
        streams: Sequence[EventStream],
        subjects: Mapping[str, Sequence[StreamSubject]],
        now_ms: int,
    ) -> list[SecurityEvent]:
        """All SETs that follow from *decision*; those of one stream in the order of the table.

        Streams get nothing that was decided before they were made.
        """
        rules = [rule for rule in EVENT_RULES if rule.follows(decision)]
        return [
            self._make_event(rule, decision, agent_key, stream, now_ms)
            for stream in streams
            if self._may_tell(stream, decision, subjects.get(stream.stream_id, ()))
            for rule in rules
            if rule.event_type in stream.events_requested and rule.event_type in self.supported_events(stream.owner)
        ]

    def supported_events(self, owner: str) -> tuple[str, ...]:
        """Event types that a stream of *owner* can ask for."""
        return CAEP_EVENTS_SUPPORTED if owner in self._rules.without_wise else EVENTS_SUPPORTED

    def _may_tell(self, stream: EventStream, decision: AnnouncedDecision, said: Sequence[StreamSubject]) -> bool:
        tenants = self._tenants.get(stream.owner, frozenset())
        visible = "*" in tenants or decision.tenant in tenants
        return (
            stream.status != "disabled"
            and stream.created_ms <= decision.decided_ms
            and visible
            and is_wanted(decision, said, by_default=self._rules.wanted_by_default)
        )

    def _make_event(
        self, rule: EventRule, decision: AnnouncedDecision, agent_key: int, stream: EventStream, now_ms: int
    ) -> SecurityEvent:
        subject = agent_subject(decision, self._rules.subject_format, workload=rule.names_workload)
        members = event_members(rule, decision, self._rules.wording)
        jti = _derived_id(stream.stream_id, decision.decision_id, rule.event_type)
        claims = self._claims(stream, jti, now_ms, subject, rule.event_type, members)
        claims |= {"txn": decision.decision_id, "toe": int(decision.at_s)}
        return SecurityEvent(stream.stream_id, jti, msgspec.json.encode(claims), now_ms, agent_key, decision.tenant)

    def verification(self, stream: EventStream, jti: str, state: str | None, now_ms: int) -> SecurityEvent:
        """The SET that a receiver asked for, with what it is to recognise it by."""
        members = {} if state is None else {"state": state}
        return self._about_stream(stream, jti, now_ms, VERIFICATION, members)

    def stream_updated(self, stream: EventStream, now_ms: int) -> SecurityEvent:
        """The SET that tells of the status of *stream*, as it is now, since it was not the receiver that set it."""
        members = {"status": stream.status, "reason": stream.status_reason}
        jti = _derived_id(stream.stream_id, stream.status, str(stream.updated_ms))
        event = self._about_stream(stream, jti, now_ms, STREAM_UPDATED, members)
        return msgspec.structs.replace(event, announces_status=True)

    def _about_stream(
        self, stream: EventStream, jti: str, now_ms: int, event_type: str, members: dict[str, Any]
    ) -> SecurityEvent:
        subject = {"format": "opaque", "id": stream.stream_id}
        claims = self._claims(stream, jti, now_ms, subject, event_type, members)
        return SecurityEvent(stream.stream_id, jti, msgspec.json.encode(claims), now_ms)

    def _claims(
        self, stream: EventStream, jti: str, now_ms: int, subject: dict[str, Any], event_type: str, members: Any
    ) -> dict[str, Any]:
        return {
            "iss": self._rules.issuer,
            "jti": jti,
            "iat": now_ms // 1000,
            "aud": stream.audience,
            "sub_id": subject,
            "events": {event_type: members},
        }


def _derived_id(*parts: str) -> str:
    """The same identifier for the same parts, so that what is derived twice is one SET."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
