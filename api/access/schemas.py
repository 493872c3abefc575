"""Bodies of answers and requests about containment: approvals, pins, blast radius."""

from typing import Annotated, Any, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from ...ingest.timestamps import DAY_S, format_rfc3339
from ...scoring.delivery.actuators.desired_state import DesiredState, UnreadableAction, decode_desired_state
from ...scoring.records.agents import RiskLevel
from ...scoring.records.containment import Actuation, Intervention
from ..http.schemas import Level, TimeText, TokenPolicyOut, UnitInterval, format_rfc3339_or_none

ReasonText = Annotated[str, Field(min_length=1, max_length=2048, description="why; kept, and part of the audit event")]
ValidityPeriod = Annotated[float, Field(ge=60, le=30 * DAY_S, description="how long it holds, s")]


class InterventionOut(BaseModel):
    """A pin or an approval."""

    intervention_id: str
    kind: Literal["pin", "approval"]
    status: Literal["active", "pending", "approved", "rejected", "ended", "expired"]
    agent_id: str
    tenant: str
    issuer: str
    level: Level = Field(description="of a pin: the level that policy acts on; of an approval: the agent's when asked")
    scopes: list[str] = Field(description="of an approval: scope patterns; `*` is all")
    asked_why: str
    asked_by: str
    asked_at: TimeText
    decided_by: str | None
    decided_at: TimeText | None
    why: str | None
    expires_at: TimeText


class ApprovalIn(BaseModel):
    """A person lets the scopes pass for a while."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"why": "planned migration, CHG-1234"}})

    why: ReasonText
    valid_s: ValidityPeriod = 3600.0


class JustificationIn(BaseModel):
    """Why something is rejected or ended."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"why": "nobody knows of this"}})

    why: ReasonText


class PinIn(BaseModel):
    """A person fixes the level that policy acts on."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"level": "critical", "why": "key leaked", "valid_s": 86400}}
    )

    level: Literal["low", "medium", "high", "critical"]
    why: ReasonText
    valid_s: ValidityPeriod = 3600.0


class ReachedAgentOut(BaseModel):
    """One agent that was reached."""

    agent_id: str
    depth: int = Field(description="steps from the agent that was asked about")
    kind: Literal["delegated", "called"] = Field(description="`called` where a call was among the steps")
    via: str = Field(description="the agent before it on the shortest way")
    first_seen_at: TimeText
    last_seen_at: TimeText = Field(description="at most an hour old while it goes on")
    risk_level: Level | None = Field(description="its own level; null = never seen")
    edge_risk_score: UnitInterval = Field(description="risk of who acted over the last step to it, decayed until now")


class ReachedPrincipalOut(BaseModel):
    """Somebody on whose behalf the agent acted."""

    principal_id: str
    first_seen_at: TimeText
    last_seen_at: TimeText
    pair_risk_score: UnitInterval = Field(
        description="of the agent while it acted for this principal, decayed until now"
    )


class BlastRadiusOut(BaseModel):
    """Whom an agent reached."""

    agent_id: str
    tenant: str
    issuer: str
    risk_level: Level
    descendants_policy: Level = Field(description="descendants of a `critical` agent are treated as at least at this")
    agents: list[ReachedAgentOut]
    principals: list[ReachedPrincipalOut]
    complete: bool = Field(description="false where more agents were found than are told")


class ActingAgentOut(BaseModel):
    """One agent that acts for a principal."""

    agent_id: str
    risk_level: Level
    risk_score: UnitInterval
    pair_risk_score: UnitInterval = Field(
        description="of the agent while it acted for this principal, decayed until now"
    )
    last_seen_at: TimeText


class PrincipalRiskOut(BaseModel):
    """Risk of a principal: that of the riskiest agent that acted for it."""

    principal_id: str
    tenant: str
    issuer: str
    risk_level: Level
    risk_score: UnitInterval
    agents: list[ActingAgentOut]


class TokenPoliciesOut(BaseModel):
    """The token policy of every level."""

    version: str
    levels: dict[str, TokenPolicyOut]


def intervention_out(made: Intervention) -> InterventionOut:
    """A pin or an approval as it is answered."""
    agent = made.agent
    return InterventionOut(
        intervention_id=made.intervention_id,
        kind=made.kind,
        status=made.status,
        agent_id=agent.agent_id,
        tenant=agent.tenant,
        issuer=agent.issuer,
        level=_level_word(RiskLevel(made.level)),
        scopes=list(made.scopes),
        asked_why=made.asked_why,
        asked_by=made.asked_by,
        asked_at=format_rfc3339(made.asked_ms),
        decided_by=made.decided_by or None,
        decided_at=format_rfc3339_or_none(made.decided_ms),
        why=made.why or None,
        expires_at=format_rfc3339(made.expires_ms),
    )


def _level_word(level: RiskLevel) -> Any:
    return level.label


def _kind_word(kind: str) -> Any:
    return kind


class DesiredStateOut(BaseModel):
    """What is to hold for the agent's client."""

    risk_level: Level
    allow: bool
    max_token_lifetime_s: int | None = Field(description="null = no ceiling")
    refresh_allowed: bool
    revoke: bool


class ActuationOut(BaseModel):
    """One agent at one actuator."""

    target: str
    agent_id: str
    tenant: str
    issuer: str
    status: Literal["wanted", "applied", "confirmed", "restored", "failed"] = Field(
        description="`applied`: accepted by a receiver that nobody can ask"
    )
    version: int = Field(description="of what is wanted; higher ones replace lower ones")
    desired: DesiredStateOut | None = Field(description="null = written by another version of the service")
    original: Any = Field(description="what the server had before, as its actuator keeps it; null = nothing is lowered")
    error: str | None = Field(description="of the last attempt")
    decision_id: str | None
    caused_at: TimeText | None = Field(description="time of the event that led to it; null = time or a person did")
    wanted_at: TimeText
    confirmed_at: TimeText | None = Field(description="when the server said, asked for it, that it is so")
    updated_at: TimeText


class ReconciliationOut(BaseModel):
    """How many agents are looked at."""

    agents: int


def actuation_out(one: Actuation) -> ActuationOut:
    """An actuation as it is answered."""
    wish = _decode_desired_state(one)
    return ActuationOut(
        target=one.target,
        agent_id=one.agent.agent_id,
        tenant=one.agent.tenant,
        issuer=one.agent.issuer,
        status=one.status,
        version=one.version,
        desired=None if wish is None else desired_state_out(wish),
        original=_decode_original(one.original),
        error=one.error or None,
        decision_id=None if wish is None else wish.decision_id or None,
        caused_at=format_rfc3339_or_none(one.caused_ms),
        wanted_at=format_rfc3339(one.wanted_ms),
        confirmed_at=format_rfc3339_or_none(one.confirmed_ms),
        updated_at=format_rfc3339(one.updated_ms),
    )


def desired_state_out(wish: DesiredState) -> DesiredStateOut:
    return DesiredStateOut(
        risk_level=cast(Any, wish.level),
        allow=wish.allow,
        max_token_lifetime_s=wish.max_token_lifetime_s,
        refresh_allowed=wish.refresh_allowed,
        revoke=wish.revoke,
    )


def _decode_desired_state(one: Actuation) -> DesiredState | None:
    try:
        return decode_desired_state(one.desired)
    except UnreadableAction:
        return None


def _decode_original(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None
