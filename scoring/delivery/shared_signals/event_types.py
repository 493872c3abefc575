"""The one table of security events: which one follows from which change of level, and what it says.

Types, members and meanings are those of CAEP 1.0 and of the WISE profile (draft 03).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from trustwatch.ingest.formats.security_event_types import CAEP, WISE

from ...policy.access_evaluation import LEVEL_CLAIM
from ...records.agents import RiskLevel
from .announced_decision import PIN_CAUSE, AnnouncedDecision

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
"""CAEP knows three levels. A fall to `unknown` is told as LOW, since nothing is held against the agent any more: else
receivers would hold it for what it was. `trustwatch_level` has our own word."""

REASON_LANGUAGE: Final = "en"
_CAUSES_OF_PEOPLE: Final = frozenset({"release", "feedback", PIN_CAUSE})


class EventWording(NamedTuple):
    """Limits that an operator sets to what events say.

    Attributes:
        principal: the kind of entity that `risk-level-change` speaks of.
        with_texts: whether reasons are told in sentences, which may name resources, or by their codes alone.
    """

    principal: str = "USER"
    with_texts: bool = False


class EventRule(NamedTuple):
    """One row: an event type, the changes that it is sent for, and what it says.

    Attributes:
        follows: whether it is sent for a decision.
        members: of the event, beside those that every event has.
        names_workload: whether its subject is the identifier of the workload, where that is a URI.
    """

    event_type: str
    sent_for: str
    follows: Callable[[AnnouncedDecision], bool]
    members: Callable[[AnnouncedDecision, EventWording], dict[str, Any]]
    names_workload: bool = False


def _changes_level(decision: AnnouncedDecision) -> bool:
    changed = decision.level != decision.previous_level
    return changed and max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM and not decision.overruled


def _changes_claims(decision: AnnouncedDecision) -> bool:
    return decision.in_claims and _changes_level(decision)


def _revokes(decision: AnnouncedDecision) -> bool:
    return decision.rises and decision.revokes and decision.enforced and not decision.overruled


def _rises_to_alert(decision: AnnouncedDecision) -> bool:
    return decision.rises and decision.level >= RiskLevel.MEDIUM and decision.cause != PIN_CAUSE


def _risk_members(decision: AnnouncedDecision, wording: EventWording) -> dict[str, Any]:
    members = {"principal": wording.principal, "current_level": CAEP_LEVELS[decision.level]}
    if decision.previous_level != RiskLevel.UNKNOWN:
        members["previous_level"] = CAEP_LEVELS[decision.previous_level]
    reason = decision.reasons[0][0] if decision.reasons else decision.cause
    return members | {"risk_reason": reason, "trustwatch_level": decision.level.label}


def _claims_members(decision: AnnouncedDecision, _: EventWording) -> dict[str, Any]:
    return {"claims": {LEVEL_CLAIM: decision.level.label}}


def _anomaly_members(decision: AnnouncedDecision, _: EventWording) -> dict[str, Any]:
    anomaly = decision.reasons[0][0] if decision.reasons else decision.concern or decision.cause
    return {"anomaly_type": anomaly, "severity": decision.level.label}


def _compromise_members(decision: AnnouncedDecision, _: EventWording) -> dict[str, Any]:
    return {"detection_method": "human_decision" if decision.cause == PIN_CAUSE else "behavioral_analysis"}


def _no_members(_: AnnouncedDecision, __: EventWording) -> dict[str, Any]:
    return {}


EVENT_RULES: Final = (
    EventRule(
        RISK_LEVEL_CHANGE,
        "every change from or to `medium` and above of the level that policy acts on",
        _changes_level,
        _risk_members,
    ),
    EventRule(
        SESSION_REVOKED,
        "a rise to a level whose policy revokes, where the policy is enforced",
        _revokes,
        _no_members,
    ),
    EventRule(
        TOKEN_CLAIMS_CHANGE,
        "the same changes as `risk-level-change`, where a hook with `claims` writes the level into the agent's tokens",
        _changes_claims,
        _claims_members,
    ),
    EventRule(
        ANOMALOUS_BEHAVIOR,
        "a rise of what was measured to `medium` or above",
        _rises_to_alert,
        _anomaly_members,
        names_workload=True,
    ),
    EventRule(
        WORKLOAD_COMPROMISED,
        "a rise to a level whose policy revokes, where the policy is enforced",
        _revokes,
        _compromise_members,
        names_workload=True,
    ),
)
"""In the order in which the events of one decision are sent."""

EVENTS_SUPPORTED: Final = tuple(rule.event_type for rule in EVENT_RULES)
CAEP_EVENTS_SUPPORTED: Final = tuple(event_type for event_type in EVENTS_SUPPORTED if event_type.startswith(CAEP))


def events_delivered(requested: Sequence[str], supported: Sequence[str] = EVENTS_SUPPORTED) -> list[str]:
    """The event types of *requested* that a stream supports, each once, in our order."""
    return [event_type for event_type in supported if event_type in requested]


def event_members(rule: EventRule, decision: AnnouncedDecision, wording: EventWording) -> dict[str, Any]:
    """The whole event that *rule* makes of *decision*."""
    common = {
        "event_timestamp": int(decision.at_s),
        "initiating_entity": "admin" if decision.cause in _CAUSES_OF_PEOPLE else "policy",
        "reason_admin": {REASON_LANGUAGE: _reason_sentence(decision, wording)},
    }
    return rule.members(decision, wording) | common


def _reason_sentence(decision: AnnouncedDecision, wording: EventWording) -> str:
    reasons = [text if wording.with_texts and text else code for code, text in decision.reasons]
    because = f": {'; '.join(reasons)}" if reasons else ""
    about = f" ({decision.concern})" if decision.concern else ""
    return f"risk {decision.level.label}{about}, was {decision.previous_level.label}, by {decision.cause}{because}"
