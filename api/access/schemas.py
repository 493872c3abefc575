"""Bodies of answers and requests about containment: approvals, pins, blast radius."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, UnreadableAction, decode_desired_state
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.store.blast_radius import ReachedAgent
from trustwatch.scoring.store.database import Page
from trustwatch_client.events import HASH_PATTERN

from ..http.reasons import MAX_REASON_LENGTH
from ..http.schemas import Level, PageOut, ReasonOut, TimeText, UnitInterval, format_rfc3339_or_none, level_word
from .service import DEFAULT_VALID_S, MAX_VALID_S, MIN_VALID_S, ActingAgent, BlastRadiusReport

ReasonText = Annotated[
    str, Field(min_length=1, max_length=MAX_REASON_LENGTH, description="why; kept, and part of the audit event")
]
ValidityPeriod = Annotated[float, Field(ge=MIN_VALID_S, le=MAX_VALID_S, description="how long it holds, s")]


class InterventionOut(BaseModel):
    """A pin or an approval."""

    intervention_id: str
    kind: Literal["pin", "approval"]
    status: Literal["active", "pending", "approved", "approved_once", "rejected", "ended", "expired", "used"]
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


_EVENT_MEMBER = "#/components/schemas/AuditEvent/properties/"
CALL_QUESTION_SCHEMAS: dict[str, Any] = {
    "CallQuestion": {
        "description": "A call that an agent is about to make, in the shape of its event.",
        "type": "object",
        "required": ["action"],
        "properties": {
            "type": {"enum": ["api.call", "tool.call", "a2a.message"], "default": "tool.call"},
            "agent_type": {"type": "string", "description": "where the agent was never seen; else what is known holds"},
            **{
                name: {"$ref": _EVENT_MEMBER + name}
                for name in ("action", "effect", "resource", "arguments", "principal", "delegation", "task", "peer")
            },
            **{name: {"$ref": _EVENT_MEMBER + name} for name in ("scopes", "client", "credential", "bytes_in")},
            "arguments_hash": {
                "type": "string",
                "pattern": HASH_PATTERN,
                "description": "keyed hash of all arguments to the letter; an approval holds for these alone",
            },
        },
    },
}
CALL_QUESTION_CONTENT: dict[str, Any] = {
    "schema": {"$ref": "#/components/schemas/CallQuestion"},
    "example": {
        "action": "send_money",
        "effect": "write",
        "task": "pay-approved-invoices",
        "resource": {"type": "account", "id": "acct-42"},
        "arguments": [
            {
                "name": "to",
                "origin": "tool",
                "from": 2,
                "from_action": "read_mail",
                "untrusted": True,
                "hash": "3bfecd22",
            }
        ],
    },
}
"""Body of a question about a call, as OpenAPI shows it."""


class CallThresholdOut(BaseModel):
    """Score above which a call waits for a person."""

    anomaly_score: UnitInterval
    effect: str = Field(description="of the held-out calls that it comes from; `all` where the effect's were too few")
    calls_per_1000: float = Field(description="honest calls of the effect that may wait, `risk.challenge_budget`")


class CallVerdictOut(BaseModel):
    """The answer about one call before it is made."""

    agent_id: str
    tenant: str | None
    issuer: str | None
    decision: Literal["allow", "step_up", "deny"] = Field(description="what policy says of the call, whatever the mode")
    allow: bool = Field(description="what to do; always true in shadow mode")
    would_allow: bool = Field(description="true where nothing stands against the call, whatever the mode")
    mode: Literal["shadow", "enforce"]
    reason: str = Field(description="code of the decision", examples=["unusual_call"])
    reasons: list[ReasonOut] = Field(description="what is odd about the call, the strongest first")
    risk_level: Level = Field(description="level of the agent that was acted on")
    p_value: float | None = Field(
        description="share of honest calls of that effect at least as odd; null without model"
    )
    anomaly_score: UnitInterval | None
    threshold: CallThresholdOut | None
    basis: Literal["model", "level"] = Field(description="what the decision rests on")
    basis_detail: str | None = Field(description="why no model was asked; null where one was, or the level decided")
    approval_id: str | None = Field(description="approval of this very call that waits for a person")
    call: str = Field(
        description="digest of kind, action, effect, task, principal, resource and arguments: what is approved"
    )
    stale: bool
    evaluated_at: TimeText
    model_version: str | None
    policy_version: str
    outside_boundary: bool = Field(
        description="true if the agent declares capabilities and none covers the action; `outside_boundary` of the "
        "settings says what follows"
    )


class ApprovalIn(BaseModel):
    """A person lets the scopes pass for a while."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"why": "planned migration, CHG-1234"}})

    why: ReasonText
    valid_s: ValidityPeriod = DEFAULT_VALID_S
    trust_path: bool = Field(
        False,
        description="of an unusual call with a scope `path:…`: its access path (network, credential, delegation "
        "chain) counts as known for as long, also in other calls of the agent",
    )
    one_use: bool = Field(
        False, description="spent by the first permit that rests on it: `approved_once` until then, `used` afterwards"
    )


class JustificationIn(BaseModel):
    """Reason why something is rejected or ended."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"why": "nobody knows of this"}})

    why: ReasonText


class PinIn(BaseModel):
    """A person fixes the level that policy acts on."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"level": "critical", "why": "key leaked", "valid_s": 86400}}
    )

    level: Literal["low", "medium", "high", "critical"]
    why: ReasonText
    valid_s: ValidityPeriod = DEFAULT_VALID_S


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
    """A principal on whose behalf the agent acted."""

    principal_id: str
    first_seen_at: TimeText
    last_seen_at: TimeText
    pair_risk_score: UnitInterval = Field(
        description="of the agent while it acted for this principal, decayed until now"
    )


class BlastRadiusOut(BaseModel):
    """Agents and principals that an agent reached."""

    agent_id: str
    tenant: str
    issuer: str
    risk_level: Level
    descendants_policy: Level = Field(description="descendants of a `critical` agent are treated as at least at this")
    agents: list[ReachedAgentOut]
    principals: list[ReachedPrincipalOut]
    complete: bool = Field(description="false where more agents were found than shown")


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


def intervention_out(intervention: Intervention) -> InterventionOut:
    """A pin or an approval as it is answered."""
    agent = intervention.agent
    return InterventionOut(
        intervention_id=intervention.intervention_id,
        kind=intervention.kind,
        status=intervention.status,
        agent_id=agent.agent_id,
        tenant=agent.tenant,
        issuer=agent.issuer,
        level=level_word(intervention.level),
        scopes=list(intervention.scopes),
        asked_why=intervention.asked_why,
        asked_by=intervention.asked_by,
        asked_at=format_rfc3339(intervention.asked_ms),
        decided_by=intervention.decided_by or None,
        decided_at=format_rfc3339_or_none(intervention.decided_ms),
        why=intervention.why or None,
        expires_at=format_rfc3339(intervention.expires_ms),
    )


def interventions_out(page: Page[Intervention]) -> PageOut[InterventionOut]:
    """A page of pins and approvals as it is answered."""
    return PageOut(items=[intervention_out(intervention) for intervention in page.items], next_cursor=page.next_cursor)


def blast_radius_out(report: BlastRadiusReport) -> BlastRadiusOut:
    """A blast radius as it is answered."""
    return BlastRadiusOut(
        agent_id=report.name.agent_id,
        tenant=report.name.tenant,
        issuer=report.name.issuer,
        risk_level=level_word(report.level),
        descendants_policy=level_word(report.descendants_level),
        complete=report.radius.complete,
        agents=[_reached_agent_out(agent) for agent in report.radius.agents],
        principals=[
            ReachedPrincipalOut(
                principal_id=edge.target,
                first_seen_at=format_rfc3339(edge.first_ms),
                last_seen_at=format_rfc3339(edge.last_ms),
                pair_risk_score=edge.risk,
            )
            for edge in report.radius.principals
        ],
    )


def _reached_agent_out(agent: ReachedAgent) -> ReachedAgentOut:
    return ReachedAgentOut(
        agent_id=agent.name.agent_id,
        depth=agent.depth,
        kind=cast(Any, agent.kind),
        via=agent.via,
        first_seen_at=format_rfc3339(agent.first_ms),
        last_seen_at=format_rfc3339(agent.last_ms),
        risk_level=None if agent.level is None else level_word(agent.level),
        edge_risk_score=agent.risk,
    )


def principal_risk_out(principal_id: str, tenant: str, issuer: str, agents: Sequence[ActingAgent]) -> PrincipalRiskOut:
    """The risk of a principal as it is answered; *agents* are those that acted for it, the riskiest first."""
    riskiest = agents[0]
    return PrincipalRiskOut(
        principal_id=principal_id,
        tenant=tenant,
        issuer=issuer,
        risk_level=level_word(riskiest.level),
        risk_score=riskiest.risk_score,
        agents=[
            ActingAgentOut(
                agent_id=agent.agent_id,
                risk_level=level_word(agent.level),
                risk_score=agent.risk_score,
                last_seen_at=format_rfc3339(agent.last_ms),
                pair_risk_score=agent.pair_risk,
            )
            for agent in agents
        ],
    )


class DesiredStateOut(BaseModel):
    """State to bring about for the agent's client at an authorization server."""

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
    """Number of agents that a reconciliation looks at."""

    agents: int


def actuation_out(actuation: Actuation) -> ActuationOut:
    """An actuation as it is answered."""
    desired = _decode_desired_state(actuation)
    return ActuationOut(
        target=actuation.target,
        agent_id=actuation.agent.agent_id,
        tenant=actuation.agent.tenant,
        issuer=actuation.agent.issuer,
        status=actuation.status,
        version=actuation.version,
        desired=None if desired is None else desired_state_out(desired),
        original=_decode_original(actuation.original),
        error=actuation.error or None,
        decision_id=None if desired is None else desired.decision_id or None,
        caused_at=format_rfc3339_or_none(actuation.caused_ms),
        wanted_at=format_rfc3339(actuation.wanted_ms),
        confirmed_at=format_rfc3339_or_none(actuation.confirmed_ms),
        updated_at=format_rfc3339(actuation.updated_ms),
    )


def desired_state_out(desired: DesiredState) -> DesiredStateOut:
    """Desired state of a client as the API answers it."""
    return DesiredStateOut(
        risk_level=cast(Any, desired.level),
        allow=desired.allow,
        max_token_lifetime_s=desired.max_token_lifetime_s,
        refresh_allowed=desired.refresh_allowed,
        revoke=desired.revoke,
    )


def _decode_desired_state(actuation: Actuation) -> DesiredState | None:
    try:
        return decode_desired_state(actuation.desired)
    except UnreadableAction:
        return None


def _decode_original(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None
