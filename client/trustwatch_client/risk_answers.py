"""The risk answer (docs/api.md), and where the client got it from."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from .trust_errors import FailureCause

AnswerLevel = Literal["unknown", "low", "medium", "high", "critical"]
AnswerMode = Literal["shadow", "enforce"]
AnswerSource = Literal["service", "cache", "last_known", "fail_open"]


class Question(msgspec.Struct, frozen=True):
    """Agent whose risk is asked for. Without tenant or issuer the service searches those of the caller."""

    agent_id: str
    tenant: str | None = None
    issuer: str | None = None


class Reason(msgspec.Struct, frozen=True):
    """Reason for a change of risk."""

    code: str
    feature: str = ""
    observed: str = ""
    usual: str = ""
    contribution: float = 0.0
    text: str = ""


class Indicator(msgspec.Struct, frozen=True):
    """One thing that the events came with which raised the risk, such as a network; see docs/risk.md."""

    kind: str
    value: str = ""
    status: str = ""
    at: str = ""


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


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The risk of one agent.

    Attributes:
        risk_score, confidence: 0 to 1.
        concern: what the level is about: `compromise`, `malfunction` or `overreach`; None below `medium`, and from
            services of before concerns.
        evaluated_at, expires_at: UTC; None in an answer that the service did not give.
        source: `service`; `cache`: given by the service up to `cache_s` ago; `last_known`: older, since no new one is
            to be had; `fail_open`: nothing is known of the agent.
        age_s: seconds since the service gave it.
    """

    agent_id: str
    tenant: str | None = None
    issuer: str | None = None
    risk_level: AnswerLevel
    risk_score: float
    confidence: float
    token_policy: TokenPolicy
    evaluated_at: datetime | None = None
    expires_at: datetime | None = None
    stale: bool = False
    reasons: tuple[Reason, ...] = ()
    indicators: tuple[Indicator, ...] = ()
    counterfactual: str | None = None
    concern: str | None = None
    decision_id: str | None = None
    model_version: str = ""
    policy_version: str = ""
    mode: AnswerMode = "enforce"
    source: AnswerSource = msgspec.field(default="service", name="_source")
    age_s: float = msgspec.field(default=0.0, name="_age_s")


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
    """Answers of `POST /v1/risk/query`, in the order of the questions.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return [
        msgspec.convert(item, _ProblemAnswer).problem if "problem" in item else msgspec.convert(item, Answer)
        for item in _answers_decoder.decode(body).answers
    ]


def read_problem(body: bytes) -> ServiceProblem:
    """Problem document of a refusal; an empty one if it has none."""
    try:
        return _problem_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ServiceProblem()


def fail_open_answer(question: Question, policy: TokenPolicy) -> Answer:
    """Answer of a client whose fail mode is open: *unknown*, marked `fail_open`."""
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
    """Cause of a reply that is no answer, and what it says; no text of it but the code."""
    problem = read_problem(body)
    said = f"HTTP {status} {problem.code}".strip()
    if status == 429:
        return "throttled", said
    return ("server_error" if status >= 500 else "refused"), said
