"""The one table of security events: which one follows from which change of level, and what it says.

Types, members and meanings are those of CAEP 1.0 and of the WISE profile (draft 03).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from trustwatch.ingest.formats.received_signals import CAEP, STREAM_UPDATED, VERIFICATION, WISE

from ...policy.access_evaluation import LEVEL_CLAIM
from ...records.agents import RiskLevel
from ...records.security_events import EventStream, SecurityEvent, StreamSubject
from .announced_decision import PIN_CAUSE, AnnouncedDecision
from .subject_identifiers import SubjectFormat, agent_subject, is_wanted

RISK_LEVEL_CHANGE: Final = CAEP + "risk-level-change"
SESSION_REVOKED: Final = CAEP + "session-revoked"
TOKEN_CLAIMS_CHANGE: Final = CAEP + "token-claims-change"
ANOMALOUS_BEHAVIOR: Final = WISE + "anomalous-behavior-detected"
WORKLOAD_COMPROMISED: Final = WISE + "workload-compromised"

CAEP_LEVELS: Final[Mapping[RiskLevel, str]] = {
    RiskLevel.UNKNOWN: "LOW",
    RiskLevel.LOW: "LOW",
    RiskLevel.MEDIUM: "MEDIUM",
    RiskLevel.HIGH: "HIGH",
    RiskLevel.CRITICAL: "HIGH",
}
"""CAEP knows three levels. A fall to `unknown` is reported as LOW, since nothing counts against the agent any more:
otherwise receivers would keep the old level. `trustwatch_level` has our level."""

REASON_LANGUAGE: Final = "en"
_CAUSES_OF_PEOPLE: Final = frozenset({"release", "feedback", PIN_CAUSE})


class EventRule(NamedTuple):
    """One row: an event type, the changes that it is sent for, and its content."""

    event_type: str
    sent_for: str
    follows: Callable[[AnnouncedDecision], bool]
    members: Callable[[AnnouncedDecision], dict[str, Any]]  # in addition to those that every event has
    names_workload: bool = False  # its subject is the identifier of the workload, if that is a URI


def _changes_level(decision: AnnouncedDecision) -> bool:
    changed = decision.level != decision.previous_level
    return changed and max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM and not decision.overruled


def _revokes(decision: AnnouncedDecision) -> bool:
    return decision.rises and decision.acts and not decision.overruled


def _risk_members(decision: AnnouncedDecision) -> dict[str, Any]:
    members = {"principal": "USER", "current_level": CAEP_LEVELS[decision.level]}
    if decision.previous_level != RiskLevel.UNKNOWN:
        members["previous_level"] = CAEP_LEVELS[decision.previous_level]
    reason = decision.reasons[0].code if decision.reasons else decision.cause
    return members | {"risk_reason": reason, "trustwatch_level": decision.level.label}


def _anomaly_members(decision: AnnouncedDecision) -> dict[str, Any]:
    anomaly = decision.reasons[0].code if decision.reasons else decision.concern or decision.cause
    return {"anomaly_type": anomaly, "severity": decision.level.label}


_SENT_FOR_REVOCATION = "a rise to a level whose policy revokes, where the policy is enforced"

EVENT_RULES: Final = (
    EventRule(
        RISK_LEVEL_CHANGE,
        "every change from or to `medium` and above of the level that policy acts on",
        _changes_level,
        _risk_members,
    ),
    EventRule(SESSION_REVOKED, _SENT_FOR_REVOCATION, _revokes, lambda _: {}),
    EventRule(
        TOKEN_CLAIMS_CHANGE,
        "the same changes as `risk-level-change`, where a hook with `claims` writes the level into the agent's tokens",
        lambda decision: decision.in_claims and _changes_level(decision),
        lambda decision: {"claims": {LEVEL_CLAIM: decision.level.label}},
    ),
    EventRule(
        ANOMALOUS_BEHAVIOR,
        "a rise of what was measured to `medium` or above",
        lambda change: change.rises and change.level >= RiskLevel.MEDIUM and change.cause != PIN_CAUSE,
        _anomaly_members,
        names_workload=True,
    ),
    EventRule(
        WORKLOAD_COMPROMISED,
        _SENT_FOR_REVOCATION,
        _revokes,
        lambda change: {"detection_method": "human_decision" if change.cause == PIN_CAUSE else "behavioral_analysis"},
        names_workload=True,
    ),
)
"""In the order in which the events of one decision are sent."""

EVENTS_SUPPORTED: Final = tuple(rule.event_type for rule in EVENT_RULES)


def events_delivered(requested: Sequence[str]) -> list[str]:
    """The event types of *requested* that a stream supports, each once, in our order."""
    return [event_type for event_type in EVENTS_SUPPORTED if event_type in requested]


def event_members(rule: EventRule, decision: AnnouncedDecision) -> dict[str, Any]:
    """The whole event that *rule* makes of *decision*."""
    reasons = [reason.code for reason in decision.reasons]  # receivers may be other companies: texts name resources
    because = f": {'; '.join(reasons)}" if reasons else ""
    about = f" ({decision.concern})" if decision.concern else ""
    was = f"was {decision.previous_level.label}, by {decision.cause}"
    common = {
        "event_timestamp": decision.at_s,
        "initiating_entity": "admin" if decision.cause in _CAUSES_OF_PEOPLE else "policy",
        "reason_admin": {REASON_LANGUAGE: f"risk {decision.level.label}{about}, {was}{because}"},
    }
    return rule.members(decision) | common


@dataclass(eq=False)
class EventDeriver:
    """Makes SETs."""

    _issuer: str  # `iss` of every SET
    _subject_format: SubjectFormat
    _tenants: Mapping[str, frozenset[str]]  # by owner of streams

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
        rules, events = [rule for rule in EVENT_RULES if rule.follows(decision)], []
        more = {"txn": decision.decision_id, "toe": decision.at_s}
        for stream in streams:
            tenants = self._tenants.get(stream.owner, frozenset())
            visible = "*" in tenants or decision.tenant in tenants
            if not visible or stream.status == "disabled" or stream.created_ms > decision.decided_ms:
                continue
            if not is_wanted(decision, subjects.get(stream.stream_id, ())):
                continue
            for rule in rules:
                if rule.event_type in stream.events_requested:
                    subject = agent_subject(decision, self._subject_format, workload=rule.names_workload)
                    jti = _derived_id(stream.stream_id, decision.decision_id, rule.event_type)
                    members = event_members(rule, decision)
                    claims = self._claims(stream, jti, now_ms, subject, rule.event_type, members, more)
                    events.append(SecurityEvent(stream.stream_id, jti, claims, now_ms, agent_key, decision.tenant))
        return events

    def verification(self, stream: EventStream, jti: str, state: str | None, now_ms: int) -> SecurityEvent:
        """The SET that a receiver asked for, with what it is to recognise it by."""
        members = {} if state is None else {"state": state}
        return self._about_stream(stream, jti, now_ms, VERIFICATION, members)

    def stream_updated(self, stream: EventStream, now_ms: int) -> SecurityEvent:
        """Returns the SET that reports the current status of *stream*, after another party than the receiver set it."""
        members = {"status": stream.status, "reason": stream.status_reason}
        jti = _derived_id(stream.stream_id, stream.status, str(stream.updated_ms))
        event = self._about_stream(stream, jti, now_ms, STREAM_UPDATED, members)
        return msgspec.structs.replace(event, announces_status=True)

    def _about_stream(
        self, stream: EventStream, jti: str, now_ms: int, event_type: str, members: dict[str, Any]
    ) -> SecurityEvent:
        subject = {"format": "opaque", "id": stream.stream_id}
        claims = self._claims(stream, jti, now_ms, subject, event_type, members, {})
        return SecurityEvent(stream.stream_id, jti, claims, now_ms)

    def _claims(
        self,
        stream: EventStream,
        jti: str,
        now_ms: int,
        subject: dict[str, Any],
        event_type: str,
        members: dict[str, Any],
        more: dict[str, Any],
    ) -> bytes:
        claims = {"iss": self._issuer, "jti": jti, "iat": now_ms // 1000, "aud": stream.audience, "sub_id": subject}
        return msgspec.json.encode(claims | {"events": {event_type: members}} | more)


def _derived_id(*parts: str) -> str:
    """The same identifier for the same parts, so that what is derived twice is one SET."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
