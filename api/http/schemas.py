"""Bodies, parameters and times that several slices share."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.records.agents import LevelName, RiskLevel
from trustwatch.scoring.records.indicators import IndicatorKind, IndicatorStatus
from trustwatch.scoring.store.database import MAX_PAGE


def format_rfc3339_or_none(at_ms: int) -> str | None:
    """As `format_rfc3339`; None for 0, which stands for never."""
    return format_rfc3339(at_ms) if at_ms else None


T = TypeVar("T")

Level = LevelName
UnitInterval = Annotated[float, Field(ge=0, le=1)]
TimeText = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=["2026-11-24T22:23:14.130Z"])]
AgentId = Annotated[str, Field(min_length=1, max_length=2048)]
NameText = Annotated[str, Field(max_length=2048)]


class ReasonOut(BaseModel):
    """A reason why risk moved."""

    code: str
    feature: str
    observed: str
    usual: str
    contribution: float
    text: str


class IndicatorOut(BaseModel):
    """One thing that the events came with which raised an agent's risk."""

    kind: IndicatorKind
    value: str
    status: IndicatorStatus = Field(
        description="`new`, `known` or `not_remembered` of names that the agent learns; of the others `with_new` where "
        "the event came with a new network or credential, else `not_tracked`"
    )
    at: TimeText = Field(description="when it was first met since the agent was calm, or new within the day before")


class TokenPolicyOut(BaseModel):
    """Token policy of a level."""

    allow: bool
    max_token_lifetime_s: int
    allowed_scopes: list[str] | None = Field(description="scopes or patterns with `*`; null where none is restricted")
    refresh_allowed: bool
    step_up: bool
    revoke: bool
    step_up_scopes: list[str] = Field(description="patterns of the scopes that a person must approve")


class TokenPoliciesOut(BaseModel):
    """The token policy of every level."""

    version: str
    levels: dict[str, TokenPolicyOut]


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


COMMON_PROBLEMS = problem_responses(
    {
        400: "several or malformed Authorization headers, an unreadable body, or a cursor that is none of ours",
        401: "no token, or one that is refused; `WWW-Authenticate` says why",
        403: "the token lacks a scope, or its client is not bound to that tenant",
        413: "the body has more bytes than the route takes",
        421: "neither a bearer token nor a `Host` of this service",
        422: "a parameter or the body is not valid; `errors` says where",
        503: "what answers is away, or does not run in this process; nothing was changed",
    }
)
"""Answers that every route which needs a token may give, whatever else it answers."""


class LivenessOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadinessOut(BaseModel):
    """Readiness of the service, by component."""

    ready: bool
    components: dict[str, Literal["ok", "not ok"]]
    reason: str | None = Field(None, description="why a service that starts is not ready yet")
    learning: bool | None = Field(
        None, description="true while no trained model is in force, and every agent is unknown; else left out"
    )
    waiting_for: str | None = Field(None, description="what a worker that is ready has not got yet; else left out")
    restart_needed: list[str] | None = Field(
        None,
        description="members of the settings that were changed and reloaded, and hold after a restart alone; else "
        "left out",
    )


class PageOut(BaseModel, Generic[T]):
    """Some items, and where the next ones are."""

    items: list[T]
    next_cursor: str | None = Field(description="pass as `cursor`; null = these were the last ones")


def level_word(level: int) -> Any:
    """The word of a level; Any because pydantic, not the type checker, knows the words."""
    return RiskLevel(level).label


def concern_or_none(concern: str) -> Any:
    """A concern, or None for ""; Any because pydantic, not the type checker, knows the words."""
    return concern or None


def token_policies_out(book: PolicyBook) -> TokenPoliciesOut:
    """The token policy of every level as it is answered."""
    levels = {level.label: TokenPolicyOut(**msgspec.to_builtins(book.table[level])) for level in RiskLevel}
    return TokenPoliciesOut(version=book.version, levels=levels)


UNKNOWN_AGENT_RESPONSES = problem_responses({404: "no such agent, or none that the caller may see"})

AMBIGUOUS_AGENT_RESPONSES = problem_responses({409: "several agents have that id: name tenant or issuer"})

TenantParam = Annotated[str | None, Query(max_length=2048, description="tenant of the agent; one of the caller's own")]

IssuerParam = Annotated[
    str | None, Query(max_length=2048, description="issuer of the agent, where its id is not unique")
]

LimitParam = Annotated[int, Query(ge=1, le=MAX_PAGE)]

CursorParam = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the page before")]
