"""Times in answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..events.schemas import RECEIPT_EXAMPLE, RISK_EXAMPLE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_rfc3339(at_ms: int) -> str:
    """UTC milliseconds since 1970 as RFC 3339.

    >>> iso_ms(1_764_023_054_130)
    '2025-11-24T22:24:14.130Z'
    """
    return (_EPOCH + timedelta(milliseconds=at_ms)).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def format_rfc3339_or_none(at_ms: int) -> str | None:
    """As `format_rfc3339`; None for 0, which stands for never."""
    return format_rfc3339(at_ms) if at_ms else None


# Bodies of answers and requests, as OpenAPI shows them.


T = TypeVar("T")

Level = Literal["unknown", "low", "medium", "high", "critical"]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
TimeText = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=["2026-11-24T22:23:14.130Z"])]
AgentId = Annotated[str, Field(min_length=1, max_length=2048)]
NameText = Annotated[str, Field(max_length=2048)]

MAX_QUESTIONS = 1000


class ReasonOut(BaseModel):
    """Why risk moved."""

    code: str
    feature: str
    observed: str
    usual: str
    contribution: float
    text: str


class TokenPolicyOut(BaseModel):
    """What a level means for the tokens of an agent."""

    allow: bool
    max_token_lifetime_s: int
    allowed_scopes: list[str] | None = Field(description="scopes or patterns with `*`; null where none is restricted")
    refresh_allowed: bool
    step_up: bool
    revoke: bool
    step_up_scopes: list[str] = Field(description="patterns of the scopes that a person must approve")


class PinOut(BaseModel):
    """A person's word on the level that policy acts on, until it expires."""

    level: Level
    by: str
    why: str
    expires_at: TimeText


class RiskOut(BaseModel):
    """The risk of one agent, as of `evaluated_at`."""

    model_config = ConfigDict(json_schema_extra={"example": RISK_EXAMPLE}, protected_namespaces=())

    agent_id: str
    tenant: str | None
    issuer: str | None
    risk_level: Level
    risk_score: UnitInterval
    confidence: UnitInterval
    evaluated_at: TimeText
    reasons: list[ReasonOut]
    counterfactual: str | None
    pin: PinOut | None = Field(description="a person's word on the level that `token_policy` follows")
    critical_ancestor: str | None = Field(
        description="a `critical` agent that delegated to this one, where the policy minds"
    )
    token_policy: TokenPolicyOut
    decision_id: str | None
    model_version: str
    policy_version: str
    mode: Literal["shadow", "enforce"]
    expires_at: TimeText
    stale: bool = Field(description="the answer does not take recent events into account: it is past `expires_at`")


class RiskQuestionIn(BaseModel):
    """Whose risk is asked for."""

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


class ProblemOut(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:trustwatch:problem:invalid_token"])
    title: str
    status: int
    detail: str
    code: str


def problem_responses(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Answers that are problem documents, by status, as FastAPI takes them."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {status: {"description": text, "content": content} for status, text in descriptions.items()}


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
    counterfactual: str | None


class DecisionOut(BaseModel):
    """A change of level, with everything that led to it."""

    model_config = ConfigDict(protected_namespaces=())

    decision_id: str
    agent_id: str
    tenant: str
    issuer: str
    agent_type: str
    decided_at: TimeText
    cause: Literal["event", "tick", "release", "feedback"]
    event_id: str | None
    event_time: TimeText
    previous_level: Level
    level: Level
    risk_score: float
    confidence: float
    anomaly_score: float
    p_value: float
    reasons: list[ReasonOut]
    counterfactual: str | None
    feature_vector: dict[str, float]
    evidence: dict[str, Any]
    model_version: str
    baseline_version: str
    policy_version: str
    mode: str
    partition: int
    offset: int


class ReleaseIn(BaseModel):
    """A person vouches for an agent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"note": "new accounts were announced"}})

    note: str = Field("", max_length=2048, description="why; kept with the decision")


class ReleaseOut(BaseModel):
    """The release is logged; the decision follows as soon as the pipeline has read it."""

    agent_id: str
    tenant: str
    issuer: str
    by: str


class RejectionOut(BaseModel):
    """One record that was refused."""

    index: int = Field(description="place in the body, from 0; skipped records do not count")
    path: str = Field(examples=["$.agent.id"])
    reason: str
    dead_letter_id: str


class ReceiptOut(BaseModel):
    """What became of a body: everything counted here is durable."""

    model_config = ConfigDict(json_schema_extra={"example": RECEIPT_EXAMPLE})

    accepted: int
    duplicate: int
    rejected: int
    skipped: int = Field(description="records that are no audit events by design; of foreign formats alone")
    rejections: list[RejectionOut]
    rejections_omitted: int


class DeadLetterOut(BaseModel):
    """A record that was refused."""

    letter_id: str
    received_at: TimeText
    source: str
    reason: str
    path: str
    size: int
    replayed_at: TimeText | None
    raw: str | None = Field(None, description="base64; only where one dead letter is asked for")


DeliveryStatus = Literal["pending", "delivered", "failed", "suppressed", "dead"]


class DeliveryOut(BaseModel):
    """How one alert fares at one target. `why` says why it was held back, or how the last attempt failed."""

    key: str
    type: str
    subject: str
    target: str
    kind: str
    tenant: str
    level: Level
    reason: str
    created_at: TimeText
    status: DeliveryStatus
    attempts: int
    next_attempt_at: TimeText | None
    last_error: str | None
    why: str | None
    delivered_at: TimeText | None
    suppressed_before: int


class AlertTestIn(BaseModel):
    """Which target of alerts is to be tried."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"target": "soc"}})

    target: str | None = Field(None, max_length=2048, description="its name in the settings; null is all")


class SentAlertTestOut(BaseModel):
    """A test alert that is on its way; `key` is that of its delivery."""

    key: str
    target: str


class AlertTestsOut(BaseModel):
    """Test alerts that are on their way, one per target."""

    items: list[SentAlertTestOut]


class TokenPoliciesOut(BaseModel):
    """The token policy of every level."""

    version: str
    levels: dict[str, TokenPolicyOut]


class LivenessOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadinessOut(BaseModel):
    """Whether the service can do its work, by component."""

    ready: bool
    components: dict[str, Literal["ok", "not ok"]]


class PageOut(BaseModel, Generic[T]):
    """Some items, and where the next ones are."""

    items: list[T]
    next_cursor: str | None = Field(description="pass as `cursor`; null = these were the last ones")
