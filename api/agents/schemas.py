"""Bodies of the routes of agents."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.scoring.records.agents import AgentName, AgentSummary, ConcernName

from ..http.reasons import MAX_REASON_LENGTH
from ..http.schemas import (
    AgentId,
    IndicatorOut,
    Level,
    NameText,
    ProblemOut,
    ReasonOut,
    TimeText,
    TokenPolicyOut,
    UnitInterval,
    concern_or_none,
    format_rfc3339_or_none,
    level_word,
)
from .baseline_profile import BaselineProfile
from .risk_answer_cache import shows_reasons

MAX_QUESTIONS = 1000

RISK_EXAMPLE: dict[str, Any] = {
    "agent_id": "agent-payment-processor-v2.1",
    "tenant": "acme-corp",
    "issuer": "https://as.example",
    "risk_level": "high",
    "risk_score": 0.87,
    "concern": "compromise",
    "confidence": 0.94,
    "evaluated_at": "2026-11-24T22:23:14.130Z",
    "reasons": [
        {
            "code": "first_seen_resource",
            "feature": "resource_surprise",
            "observed": "acct-9001",
            "usual": "42 known resources of this agent",
            "contribution": 0.41,
            "text": "new resource acct-9001 (very unusual); 42 known resources of this agent",
        }
    ],
    "indicators": [
        {"kind": "network", "value": "AS65537", "status": "new", "at": "2026-11-24T22:21:40.000Z"},
        {"kind": "address", "value": "203.0.113.7", "status": "with_new", "at": "2026-11-24T22:21:40.000Z"},
        {"kind": "software", "value": "curl/8.9.1", "status": "with_new", "at": "2026-11-24T22:21:40.000Z"},
    ],
    "counterfactual": "medium had the resource been usual",
    "pin": {
        "level": "high",
        "by": "analyst",
        "why": "its key may have leaked",
        "expires_at": "2026-11-25T08:00:00.000Z",
    },
    "critical_ancestor": "agent-orchestrator",
    "token_policy": {
        "allow": True,
        "max_token_lifetime_s": 60,
        "allowed_scopes": ["payments:read"],
        "refresh_allowed": False,
        "step_up": True,
        "revoke": False,
        "step_up_scopes": ["*"],
    },
    "holds_at": [
        {
            "by": "actuator",
            "name": "hydra-eu",
            "kind": "hydra",
            "max_token_lifetime_s": 60,
            "text": "shortens new tokens of the client to at most 60 s, unless they were shorter",
        },
    ],
    "decision_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
    "model_version": "2026-11-24.1",
    "policy_version": "3",
    "mode": "enforce",
    "expires_at": "2026-11-24T22:28:14.130Z",
    "stale": False,
}


class PinOut(BaseModel):
    """A person's word on the level that policy acts on, until it expires."""

    level: Level
    by: str
    why: str
    expires_at: TimeText


class EnforcementPointOut(BaseModel):
    """One server of the agent, and what it really does with new tokens at the level that policy acts on."""

    by: Literal["hook", "actuator", "gateway"]
    name: str = Field(description="of the hook or actuator in the settings; of a gateway the issuer")
    kind: str = Field(description="the product")
    max_token_lifetime_s: int | None = Field(
        description="what it holds new tokens to, s; null: they live as long as the server gives them"
    )
    text: str = Field(description="the same in words")


class RiskOut(BaseModel):
    """The risk of one agent, as of `evaluated_at`."""

    model_config = ConfigDict(json_schema_extra={"example": RISK_EXAMPLE}, protected_namespaces=())

    agent_id: str
    tenant: str | None
    issuer: str | None
    risk_level: Level
    risk_score: UnitInterval
    concern: ConcernName | None = Field(description="what the level is about, from `medium` on")
    confidence: UnitInterval
    evaluated_at: TimeText
    reasons: list[ReasonOut]
    indicators: list[IndicatorOut]
    counterfactual: str | None
    pin: PinOut | None = Field(description="a person's word on the level that `token_policy` follows")
    critical_ancestor: str | None = Field(
        description="a `critical` agent that delegated to this one, where the policy minds"
    )
    token_policy: TokenPolicyOut
    holds_at: list[EnforcementPointOut] = Field(
        description="servers at which the policy of the agent is brought about, as far as each can; empty: none is told"
    )
    decision_id: str | None
    model_version: str
    policy_version: str
    mode: Literal["shadow", "enforce"]
    expires_at: TimeText
    stale: bool = Field(description="the answer does not take recent events into account: it is past `expires_at`")


class RiskQuestionIn(BaseModel):
    """Name of the agent whose risk is asked for."""

    model_config = ConfigDict(extra="forbid")

    agent_id: AgentId
    tenant: NameText | None = None
    issuer: NameText | None = None


class RiskQueryIn(BaseModel):
    """Questions about several agents."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"agents": [{"agent_id": "agent-payment-processor-v2.1", "tenant": "acme-corp"}]}
        },
    )

    agents: list[RiskQuestionIn] = Field(max_length=MAX_QUESTIONS)


class RiskFailureOut(BaseModel):
    """One question of several that has no answer."""

    agent_id: str
    problem: ProblemOut


class RiskAnswersOut(BaseModel):
    """Answers in the order of the questions."""

    answers: list[RiskOut | RiskFailureOut]


class AgentOut(BaseModel):
    """One agent in a list."""

    agent_id: str
    tenant: str
    issuer: str
    agent_type: str
    risk_level: Level
    risk_score: UnitInterval
    confidence: UnitInterval
    anomaly_score: UnitInterval
    first_seen_at: TimeText | None
    last_seen_at: TimeText | None
    evaluated_at: TimeText | None
    events: int
    decision_id: str | None
    reasons: list[ReasonOut]
    indicators: list[IndicatorOut]
    counterfactual: str | None
    concern: ConcernName | None


class DistinctCountOut(BaseModel):
    """Different names of a kind that an agent has learned."""

    name: str = Field(description="kind of name", examples=["destinations"])
    number: int = Field(description="different ones that are known", examples=[12])
    complete: bool = Field(description="false: there may be more than are counted")


class UsualRangeOut(BaseModel):
    """A figure of an agent: its mean and the band of one standard deviation; older events count less."""

    name: str = Field(description="the figure", examples=["time between events"])
    unit: str = Field(description="its unit; empty where it has none", examples=["s"])
    mean: float = Field(description="its mean", examples=[20.0])
    low: float = Field(description="one standard deviation below the mean", examples=[12.0])
    high: float = Field(description="one standard deviation above the mean", examples=[33.0])


class BaselineOut(BaseModel):
    """Usual behaviour of an agent, as it was stored with the last commit that moved it."""

    agent_id: str
    tenant: str
    issuer: str
    learned: int | None = Field(
        description="events that were learned, with those of the model's history; null: nothing is stored yet, or "
        "another version of Trustwatch wrote it",
        examples=[4_210],
    )
    known: list[DistinctCountOut] = Field(description="kinds of names of which the agent has learned some")
    usual: list[UsualRangeOut] = Field(description="figures that the agent has shown")
    notes: list[str] = Field(
        description="what is not judged or learned of it, and why: order, where its events come out of order; habits, "
        "where no token vouches for its events",
        examples=[
            [
                "more than a tenth of its recent work came out of order: order is not judged in 3 of its 4 latest "
                "sessions (reference/detection.md#late-events)"
            ]
        ],
    )


class ReleaseIn(BaseModel):
    """A person vouches for an agent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"note": "new accounts were announced"}})

    note: str = Field("", max_length=MAX_REASON_LENGTH, description="why; kept with the decision")


class ReleaseOut(BaseModel):
    """The release is logged; the decision follows as soon as the pipeline has read it."""

    agent_id: str
    tenant: str
    issuer: str
    by: str


def baseline_out(name: AgentName, profile: BaselineProfile | None) -> BaselineOut:
    """A baseline as it is answered; None = nothing that can be read is stored."""
    parts: dict[str, Any] = {"learned": None, "known": [], "usual": [], "notes": []}
    if profile is not None:
        parts = {
            "learned": profile.learned,
            "known": [count._asdict() for count in profile.distinct_counts],
            "usual": [figure._asdict() for figure in profile.usual],
            "notes": profile.notes,
        }
    return BaselineOut(agent_id=name.agent_id, tenant=name.tenant, issuer=name.issuer, **parts)


def agent_out(summary: AgentSummary) -> AgentOut:
    """An agent for a list."""
    name = summary.name
    return AgentOut(
        agent_id=name.agent_id,
        tenant=name.tenant,
        issuer=name.issuer,
        agent_type=summary.agent_type,
        risk_level=level_word(summary.level),
        risk_score=summary.risk_score,
        confidence=summary.confidence,
        anomaly_score=summary.anomaly_score,
        first_seen_at=format_rfc3339_or_none(summary.first_seen_ms),
        last_seen_at=format_rfc3339_or_none(summary.last_seen_ms),
        evaluated_at=format_rfc3339_or_none(summary.evaluated_ms),
        events=summary.events,
        decision_id=summary.decision_id or None,
        reasons=msgspec.json.decode(summary.reasons) if shows_reasons(summary) else [],
        indicators=msgspec.json.decode(summary.indicators) if shows_reasons(summary) else [],
        counterfactual=summary.counterfactual or None,
        concern=concern_or_none(summary.concern),
    )
