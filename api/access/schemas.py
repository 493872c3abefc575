"""Bodies of answers and requests about containment: approvals, pins, blast radius."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..http.schemas import Level, TimeText, UnitInterval

DAY_S = 86_400
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
