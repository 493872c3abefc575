"""Signals of other products (CAEP, RISC, WISE) as audit events: what each means, and which agent it is about.

`SIGNAL_RULES` is the one table. A verified SET is turned into an event of a type `signal.…`, which is not behavior of
the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from trustwatch_client.events import MAX_ID_LENGTH

from ..timestamps import format_rfc3339
from .expressions import token_id_digest

# Types of security events (SETs) that we send and take: the bases of their URIs, and those about a stream itself.

CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
WISE: Final = "https://schemas.openid.net/secevent/wise/event-type/"
SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"

VERIFICATION: Final = SSF + "verification"
STREAM_UPDATED: Final = SSF + "stream-updated"


Treatment = Literal["hard", "evidence", "change", "note"]
"""A hard signal; evidence, which adds to what there is; a change-point of the agent's habits; on record alone."""

STREAM_EVENTS: Final = (VERIFICATION, STREAM_UPDATED)
"""Events about the stream itself: they are about no agent."""


RISK_CLAIM: Final = "risk_level"
"""The claim by which hooks write a level into tokens. A change reports another party's opinion of the agent, not that
the agent's behavior changes."""

_REVOCATIONS: Final = (
    CAEP + "session-revoked",
    RISC + "sessions-revoked",
    WISE + "credential-revoked",
    WISE + "credential-compromise",
)


class SignalRule(NamedTuple):
    """One row: what an event of a type is believed to be, if its members say *when*."""

    event_type: str  # URI
    treatment: Treatment | None  # what it means for the agent; None = it is about no agent, and is counted alone
    when: tuple[str, ...] = ()  # A member and values of it; the first row of a type that fits counts. Empty = always.
    claim: str = ""  # its statements about claims refer to this one alone. "" = to any.

    @property
    def action(self) -> str:
        """`action` of the audit event: the name of the type, without its base."""
        return self.event_type.rpartition("/")[2]

    @property
    def revokes(self) -> bool:
        """True if a token that its event names may not be used any more: a note moves nothing."""
        return self.event_type in _REVOCATIONS and self.treatment != "note"

    def fits(self, members: Mapping[str, Any]) -> bool:
        """True if an event with these members is one of this row."""
        if self.claim:
            claims = members.get("claims")
            return isinstance(claims, dict) and set(claims) == {self.claim}
        return not self.when or members.get(self.when[0]) in self.when[1:]


SIGNAL_RULES: Final = (
    SignalRule(CAEP + "session-revoked", "note", ("initiating_entity", "user")),
    SignalRule(CAEP + "session-revoked", "evidence"),
    SignalRule(CAEP + "credential-change", "evidence", ("change_type", "revoke")),
    SignalRule(CAEP + "credential-change", "note"),
    SignalRule(CAEP + "token-claims-change", "note", claim=RISK_CLAIM),
    SignalRule(CAEP + "token-claims-change", "change"),
    SignalRule(CAEP + "assurance-level-change", "evidence", ("change_direction", "decrease")),
    SignalRule(CAEP + "assurance-level-change", "note"),
    SignalRule(CAEP + "device-compliance-change", "evidence", ("current_status", "not-compliant")),
    SignalRule(CAEP + "device-compliance-change", "note"),
    SignalRule(CAEP + "risk-level-change", "evidence", ("current_level", "HIGH")),
    SignalRule(CAEP + "risk-level-change", "note"),
    SignalRule(CAEP + "session-established", "note"),
    SignalRule(CAEP + "session-presented", "note"),
    SignalRule(RISC + "credential-compromise", "hard"),
    SignalRule(RISC + "account-disabled", "hard", ("reason", "hijacking")),
    SignalRule(RISC + "account-disabled", "evidence"),
    SignalRule(RISC + "account-credential-change-required", "evidence"),
    SignalRule(RISC + "sessions-revoked", "evidence"),
    SignalRule(RISC + "account-enabled", "note"),
    SignalRule(RISC + "account-purged", "note"),
    SignalRule(WISE + "workload-compromised", "hard"),
    SignalRule(WISE + "anomalous-behavior-detected", "note", ("severity", "low")),
    SignalRule(WISE + "anomalous-behavior-detected", "evidence"),
    SignalRule(WISE + "credential-compromise", "hard"),
    SignalRule(WISE + "credential-revoked", "hard", ("reason", "compromise", "key_compromise")),
    SignalRule(WISE + "credential-revoked", "evidence", ("reason", "policy_violation")),
    SignalRule(WISE + "credential-revoked", "note"),
    SignalRule(WISE + "credential-issued", "note"),
    SignalRule(WISE + "credential-rotated", "note"),
    SignalRule(
        WISE + "credential-renewal-failure",
        "evidence",
        ("failure_reason", "posture_evaluation_failed", "policy_denied"),
    ),
    SignalRule(WISE + "credential-renewal-failure", "note"),
    SignalRule(WISE + "workload-disabled", "hard", ("reason", "compromise")),
    SignalRule(WISE + "workload-disabled", "evidence", ("reason", "policy_violation")),
    SignalRule(WISE + "workload-disabled", "note"),
    SignalRule(WISE + "workload-enabled", "note"),
    SignalRule(WISE + "workload-purged", "note"),
    SignalRule(WISE + "workload-baseline-changed", "change"),
    SignalRule(WISE + "workload-provenance-changed", "evidence", ("change_type", "revoked", "verification_failed")),
    SignalRule(WISE + "workload-provenance-changed", "change"),
    SignalRule(WISE + "workload-vulnerability-status-changed", "note"),
    SignalRule(WISE + "posture-evaluation-failed", "evidence"),
    SignalRule(WISE + "posture-evaluation-succeeded", "note"),
    SignalRule(WISE + "trust-anchor-added", None),
    SignalRule(WISE + "trust-anchor-rotated", None),
    SignalRule(WISE + "trust-anchor-revoked", None),
    SignalRule(WISE + "trust-domain-federation-established", None),
    SignalRule(WISE + "trust-domain-federation-updated", None),
    SignalRule(WISE + "trust-domain-federation-revoked", None),
    SignalRule(WISE + "issuance-policy-changed", None),
    SignalRule(WISE + "posture-evaluation-policy-changed", None),
    SignalRule(WISE + "validation-policy-changed", None),
    SignalRule(VERIFICATION, None),
    SignalRule(STREAM_UPDATED, None),
)


def find_signal_rule(event_type: str, members: Mapping[str, Any]) -> SignalRule | None:
    """The row of an event; None = the type is not known, and means nothing here."""
    return next((rule for rule in SIGNAL_RULES if rule.event_type == event_type and rule.fits(members)), None)


class SignalSubject(NamedTuple):
    """Whom a signal is about. "" = the signal does not say."""

    agent_id: str
    issuer: str = ""  # issuer, agent_id: the agent
    principal: str = ""  # for whom it acts
    session: str = ""  # session, token_id: what of it
    token_id: str = ""
    tenant: str = ""  # whose it is
    token_issuer: str = ""  # of the token


MAX_ALIASES: Final = 50
_AGENT_MEMBERS: Final = ("application", "workload", "agent")
"""Members of a complex subject that may name the agent, in the order in which they are tried; without any, `user`."""


def read_signal_subjects(sub_id: object) -> list[SignalSubject]:
    """Agents that a subject identifier (RFC 9493, SSF 1.0) may mean, those that are likelier first.

    Names of `aliases` are all of the same one; those with an issuer come first. E-mail addresses, phone numbers and
    accounts are people's; addresses and SAML assertions name no agent.
    """
    if not isinstance(sub_id, dict):
        return []
    if sub_id.get("format") == "complex":
        return _complex_subjects(sub_id)
    named = [sub_id]
    if sub_id.get("format") == "aliases":
        identifiers = sub_id.get("identifiers")
        named = identifiers[:MAX_ALIASES] if isinstance(identifiers, list) else []
    subjects = [subject for identifier in named if (subject := _simple_subject(identifier)) is not None]
    return sorted(subjects, key=lambda subject: not subject.issuer)


def _simple_subject(identifier: object) -> SignalSubject | None:
    if not isinstance(identifier, dict):
        return None
    match identifier.get("format"):
        case "iss_sub":
            issuer, agent_id = _text(identifier.get("iss")), _text(identifier.get("sub"))
            return SignalSubject(agent_id, issuer) if issuer and agent_id else None
        case "uri":
            agent_id = _text(identifier.get("uri"))
        case "did":
            agent_id = _text(identifier.get("url"))
        case "opaque":
            agent_id = _text(identifier.get("id"))
        case _:
            return None
    return SignalSubject(agent_id) if agent_id else None


def _complex_subjects(sub_id: Mapping[str, Any]) -> list[SignalSubject]:
    user, session, tenant = (_simple_subject(sub_id.get(part)) for part in ("user", "session", "tenant"))
    agents = [subject for name in _AGENT_MEMBERS if (subject := _simple_subject(sub_id.get(name))) is not None]
    tokens = [part for part in sub_id.values() if isinstance(part, dict) and part.get("format") == "jwt_id"]
    token = tokens[0] if tokens else {}
    shared = {
        "principal": user.agent_id if user is not None and agents else "",
        "session": "" if session is None else session.agent_id,
        "tenant": "" if tenant is None else tenant.agent_id,
        "token_id": _text(token.get("jti")),
        "token_issuer": _text(token.get("iss")),
    }
    return [agent._replace(**shared) for agent in agents or ([] if user is None else [user])]


KEPT_MEMBERS: Final = (
    "anomaly_type",
    "change_direction",
    "change_type",
    "credential_type",
    "current_level",
    "current_status",
    "detection_method",
    "evaluation_type",
    "failure_reason",
    "initiating_entity",
    "previous_level",
    "previous_status",
    "reason",
    "severity",
    "status",
    "vulnerability_id",
)
"""Members of a signal that its event keeps. All others may hold texts about people, or credentials."""

MAX_MEMBER_LENGTH: Final = 200
_JTI_PREFIX: Final = "jti:"
_EARLIEST_S, _LATEST_S = 0.0, 4e9


def build_signal_event(
    claims: Mapping[str, Any],
    rule: SignalRule,
    subject: SignalSubject,
    treatment: Treatment,
    source: str,
    now_s: float,
    *,
    stale: bool = False,
) -> dict[str, Any]:
    """The audit event of a SET. It names a token only if that is revoked: the engine revokes each named token.

    Its time is now; attributes have the times of the SET and of what happened. Risk decays, and levels fall due, from
    the time of an event, so a compromise that is reported late would otherwise restrict no agent.
    """
    members = claims["events"][rule.event_type]
    event: dict[str, Any] = {
        "id": claims["jti"],
        "source": source,
        "time": format_rfc3339(int(now_s * 1000)),
        "type": f"signal.{treatment}",
        "agent": {"id": subject.agent_id, **({"issuer": subject.issuer} if subject.issuer else {})},
        "action": rule.action,
        "outcome": "success",
        "attributes": {
            "event_type": rule.event_type,
            "issuer": claims["iss"],
            **_kept_members(members),
            **_times(claims, members, now_s),
        },
    }
    token_id = _revoked_token(rule, subject, members) if rule.revokes and not stale else ""
    optional = {
        "tenant": subject.tenant,
        "session": subject.session,
        "txn": _text(claims.get("txn")),
        "principal": {"id": subject.principal} if subject.principal else None,
        "credential": {"token_id": token_id} if token_id else None,
    }
    return event | {name: value for name, value in optional.items() if value}


def _revoked_token(rule: SignalRule, subject: SignalSubject, members: Mapping[str, Any]) -> str:
    """Digest of the token's id from the subject or a WISE event, whose identifiers name their kind (`jti:…`).

    A token of another issuer does not belong to the agent.
    """
    if subject.token_id and subject.token_issuer == subject.issuer:
        return token_id_digest(subject.token_id)
    named = _text(members.get("credential_id")) if rule.event_type.startswith(WISE) else ""
    token_id = named.removeprefix(_JTI_PREFIX)
    return token_id_digest(token_id) if token_id and token_id != named else ""


def _times(claims: Mapping[str, Any], members: Mapping[str, Any], now_s: float) -> dict[str, str]:
    """Times of a SET: when it was made, and when its event (else its `toe`) happened; neither later than now."""
    said = [("happened_at", members.get("event_timestamp")), ("happened_at", claims.get("toe"))]
    times: dict[str, str] = {}
    for name, at_s in (("told_at", claims["iat"]), *said):
        if isinstance(at_s, int | float) and not isinstance(at_s, bool) and _EARLIEST_S < at_s < _LATEST_S:
            times.setdefault(name, format_rfc3339(int(min(at_s, now_s) * 1000)))
    return times


def _kept_members(members: Mapping[str, Any]) -> dict[str, str]:
    named = ((name, members.get(name)) for name in KEPT_MEMBERS)
    return {name: value[:MAX_MEMBER_LENGTH] for name, value in named if isinstance(value, str)}


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH else ""
