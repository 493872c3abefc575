"""Answers about agents and calls (docs/api.md), which client and service share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from .described import (
    CONCERN,
    INDICATORS,
    MODE,
    REASONS,
    AgentId,
    AnomalyScore,
    Confidence,
    Counterfactual,
    DecisionId,
    IssuerName,
    ModelVersionName,
    PolicyVersion,
    RiskScore,
    TenantName,
    member,
)
from .trust_errors import FailureCause

AnswerLevel = Literal["unknown", "low", "medium", "high", "critical"]
AnswerMode = Literal["shadow", "enforce"]
AnswerSource = Literal["service", "cache", "last_known", "fail_open"]


class Question(msgspec.Struct, frozen=True):
    """Agent to query. Without tenant or issuer the service searches those of the caller."""

    agent_id: str
    tenant: str | None = None
    issuer: str | None = None


class Reason(msgspec.Struct, frozen=True):
    """Reason of a change of risk: one feature or hard signal, with what was seen and what is usual."""

    code: Annotated[str, member("code of the reason", "first_seen_resource")]
    feature: Annotated[str, member("feature that it is about", "resource_surprise")] = ""
    observed: Annotated[str, member("what was seen", "acct-9001")] = ""
    usual: Annotated[str, member("what is usual", "42 known resources of this agent")] = ""
    contribution: Annotated[float, member("share of the evidence", 0.41)] = 0.0
    text: Annotated[str, member("the reason as a sentence", "new resource acct-9001 (very unusual)")] = ""


KIND = member("kind; `target` is an external destination, `key` a thumbprint")
VALUE = member("value, such as the network or address, without secrets", "AS65537")
STATUS = member(
    "`new`, `known` or `not_remembered` of names that the agent learns; of the others `with_new` if the event came "
    "with a new network or credential, else `not_tracked`"
)
MET_AT = member("when it was first seen since the agent was last quiet", "2026-11-24T22:23:14.130Z")


class Indicator(msgspec.Struct, frozen=True):
    """One thing that the events came with which raised the risk, such as a network; see docs/risk.md."""

    kind: Annotated[str, KIND]
    value: Annotated[str, VALUE] = ""
    status: Annotated[str, STATUS] = ""
    at: Annotated[str, MET_AT] = ""


class TokenPolicy(msgspec.Struct, frozen=True):
    """Effect of a level on the tokens of an agent. `allowed_scopes`: glob patterns; None restricts nothing."""

    allow: bool
    max_token_lifetime_s: int
    allowed_scopes: tuple[str, ...] | None
    refresh_allowed: bool
    step_up: bool
    revoke: bool
    step_up_scopes: tuple[str, ...] = ()


UNKNOWN_POLICY = TokenPolicy(True, 300, None, True, False, False)
"""The service's default policy of *unknown* (docs/risk.md); settings of the client may name another."""


class Pin(msgspec.Struct, frozen=True):
    """A level that a person has fixed for policy to act on."""

    level: Annotated[str, member("level that policy acts on", "high")]
    by: Annotated[str, member("who pinned it", "analyst")]
    why: Annotated[str, member("the reason given", "its key may have leaked")]
    expires_at: Annotated[str, member("until when it is valid", "2026-11-25T08:00:00.000Z")]


class EnforcementPoint(msgspec.Struct, frozen=True):
    """A server that applies the policy. *max_token_lifetime_s* is None if it keeps its own lifetime."""

    by: Annotated[str, member("who queries this service, or is notified by it", "actuator")]
    name: Annotated[str, member("name of the hook or actuator in the settings; for a gateway, its issuer", "hydra-eu")]
    kind: Annotated[str, member("the product", "hydra")]
    max_token_lifetime_s: Annotated[int | None, member("longest lifetime of new tokens, s; null: the server's own", 60)]
    text: Annotated[str, member("the same information as text", "shortens new tokens of the client to at most 60 s")]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The risk of one agent.

    Attributes:
        risk_score, confidence: 0 to 1.
        concern: what the level is about: `compromise`, `malfunction` or `overreach`; None below `medium`, and from
            services of before concerns.
        evaluated_at, expires_at: UTC; None in an answer that did not come from the service.
        source: `service`; `cache`: from the service up to `cache_s` ago; `last_known`: older, since there is no
            new one; `fail_open`: the service did not answer.
        age_s: seconds since the service gave it.
    """

    agent_id: AgentId
    tenant: TenantName | None = None
    issuer: IssuerName | None = None
    risk_level: Annotated[AnswerLevel, member("measured level", "high")]
    risk_score: RiskScore
    concern: Annotated[str | None, CONCERN] = None
    confidence: Confidence
    evaluated_at: Annotated[datetime | None, member("when risk was last computed", "2026-11-24T22:23:14.130Z")] = None
    reasons: Annotated[tuple[Reason, ...], REASONS] = ()
    indicators: Annotated[tuple[Indicator, ...], INDICATORS] = ()
    counterfactual: Counterfactual | None = None
    pin: Annotated[Pin | None, member("pin of the level that `token_policy` follows, if any")] = None
    critical_ancestor: Annotated[
        str | None, member("a `critical` agent that delegated to this one", "agent-orchestrator")
    ] = None
    token_policy: Annotated[TokenPolicy, member("token policy of the level")]
    holds_at: Annotated[tuple[EnforcementPoint, ...], member("servers that apply the policy, as far as each can")] = ()
    decision_id: DecisionId | None = None
    policy_version: PolicyVersion = ""
    mode: Annotated[AnswerMode, MODE] = "enforce"
    expires_at: Annotated[datetime | None, member("until when it is valid", "2026-11-24T22:23:14.130Z")] = None
    stale: Annotated[bool, member("true after `expires_at`, when recent events are not included", False)] = False
    model_version: ModelVersionName = ""
    source: AnswerSource = msgspec.field(default="service", name="_source")
    age_s: float = msgspec.field(default=0.0, name="_age_s")


class CallThreshold(msgspec.Struct, frozen=True):
    """Score above which a call waits for a person."""

    anomaly_score: AnomalyScore
    effect: Annotated[str, member("effect of the calls that it comes from; `all` if those were too few", "write")]
    calls_per_1000: Annotated[float, member("honest calls of the effect that may wait, `risk.challenge_budget`", 1.0)]


class CallVerdict(msgspec.Struct, frozen=True):
    """Answer about one call before it is made. What has no default is in every answer; the rest is the service's.

    Attributes:
        reason: code of the decision.
        would_allow: what `allow` is in mode `enforce`; None = the service did not answer.
        mode: None = the service did not answer.
    """

    decision: Annotated[
        Literal["allow", "step_up", "deny"], member("decision of the policy, regardless of the mode", "allow")
    ]
    allow: Annotated[bool, member("whether to make the call; always true in shadow mode", True)]
    reason: Annotated[str, member("code of the decision", "unusual_call")] = ""
    approval_id: Annotated[
        str | None, member("approval of this call that waits for a person", "01KAW4CD1JQ4V1S0Z3Y8M4C2QK")
    ] = None
    would_allow: Annotated[bool | None, member("true if the policy allows the call, regardless of the mode", True)] = (
        None
    )
    mode: Annotated[AnswerMode | None, MODE] = None
    reasons: Annotated[tuple[Reason, ...], member("what is anomalous about the call, the strongest first")] = ()
    p_value: Annotated[
        float | None, member("share of honest calls that are at least as anomalous; null without a model", 0.0004)
    ] = None
    agent_id: AgentId = ""
    tenant: TenantName | None = None
    issuer: IssuerName | None = None
    risk_level: Annotated[str, member("level of the agent that the policy used", "high")] = ""
    anomaly_score: AnomalyScore | None = None
    threshold: Annotated[CallThreshold | None, member("score above which a call waits; null without a model")] = None
    basis: Annotated[str, member("what the decision is based on", "model")] = ""
    basis_detail: Annotated[str | None, member("why no model was used; null if one was, or the level decided")] = None
    call: Annotated[str, member("digest of the members that an approval is bound to")] = ""
    stale: Annotated[bool, member("true if the answer does not take recent events into account", False)] = False
    evaluated_at: Annotated[str, member("when it was computed", "2026-11-24T22:23:14.130Z")] = ""
    model_version: ModelVersionName | None = None
    policy_version: PolicyVersion = ""
    outside_boundary: Annotated[bool, member("true if none of the agent's declared capabilities covers the action")] = (
        False
    )


class ServiceProblem(msgspec.Struct, frozen=True):
    """A problem document (RFC 9457), as far as the client reads it."""

    status: int = 0
    code: str = ""
    detail: str = ""


class _ProblemAnswer(msgspec.Struct, frozen=True):
    problem: ServiceProblem


class _AnswerBatch(msgspec.Struct, frozen=True):
    answers: list[dict[str, Any]]


_answers_decoder = msgspec.json.Decoder(_AnswerBatch)
_problem_decoder = msgspec.json.Decoder(ServiceProblem)


def read_answers(body: bytes) -> list[Answer | ServiceProblem]:
    """Return the answers of `POST /v1/risk/query`, in the order of the queries.

    Raises:
        msgspec.MsgspecError: the reply is invalid.
    """
    return [
        msgspec.convert(item, _ProblemAnswer).problem if "problem" in item else msgspec.convert(item, Answer)
        for item in _answers_decoder.decode(body).answers
    ]


def fail_open_answer(question: Question, policy: TokenPolicy) -> Answer:
    """Return the answer of a client with fail mode `open`: *unknown*, marked `fail_open`."""
    return Answer(
        agent_id=question.agent_id,
        tenant=question.tenant,
        issuer=question.issuer,
        risk_level="unknown",
        risk_score=0.0,
        confidence=0.0,
        token_policy=policy,
        stale=True,
        source="fail_open",
    )


def classify_refusal(status: int, body: bytes) -> tuple[FailureCause, str]:
    """Return the cause and a text for a reply that is not an answer. The text quotes only the reply's code."""
    try:
        code = _problem_decoder.decode(body).code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        code = ""
    said = f"HTTP {status} {code}".strip()
    if status == 429:
        return "throttled", said
    return ("server_error" if status >= 500 else "refused"), said
