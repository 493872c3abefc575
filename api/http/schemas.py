"""Bodies, parameters and times that several slices share."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.described import PolicyVersion
from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.records.indicators import Indicator
from trustwatch.scoring.store.database import MAX_PAGE

from .wire import Wire

T = TypeVar("T")

AgentIdText = Annotated[
    str, Field(min_length=1, max_length=2048, description="id of the agent", examples=["agent-payment-processor-v2.1"])
]
NameText = Annotated[str, Field(max_length=2048)]


class ReasonOut(Wire, of=RiskReason):
    """A reason why risk moved."""


class IndicatorOut(Wire, of=Indicator):
    """One thing that the events came with which raised an agent's risk."""


class TokenPolicyOut(Wire, of=LevelTokenPolicy):
    """Token policy of a level."""


class TokenPoliciesOut(Wire):
    """The token policy of every level."""

    version: PolicyVersion
    levels: dict[str, TokenPolicyOut] = Field(description="token policy by level")


class ProblemOut(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URN of the problem", examples=["urn:trustwatch:problem:invalid_token"])
    title: str = Field(description="the problem in a few words", examples=["Invalid token"])
    status: int = Field(description="status of the answer", examples=[401])
    detail: str = Field(description="what is wrong, where, and what to do", examples=["the token has expired"])
    code: str = Field(description="stable code of the problem, for programs", examples=["invalid_token"])


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

    status: Literal["ok"] = Field(default="ok", description="the process answers")


class ReadinessOut(BaseModel):
    """Readiness of the service, by component."""

    ready: bool = Field(description="true if every component is `ok`")
    components: dict[str, Literal["ok", "not ok"]] = Field(
        description="state by component", examples=[{"store": "ok", "pipeline": "ok"}]
    )
    reason: str | None = Field(None, description="why a service that starts is not ready yet")
    learning: bool | None = Field(None, description="true while no trained model is active; else left out")
    waiting_for: str | None = Field(None, description="what a worker that is ready has not got yet; else left out")
    restart_needed: list[str] | None = Field(
        None,
        description="members of the settings that were changed and reloaded, and hold after a restart alone; else "
        "left out",
    )


NEXT_CURSOR: Any = Field(
    description="pass as `cursor`; null = these were the last ones", examples=["WzE3NjQwMDAwMDAsIkQxIl0"]
)


class PageOut(BaseModel, Generic[T]):
    """A page of items, and where the next ones are."""

    items: list[T] = Field(description="the items of this page")
    next_cursor: str | None = NEXT_CURSOR


def token_policies_out(book: PolicyBook) -> TokenPoliciesOut:
    """The token policy of every level as it is answered."""
    levels = {level.label: TokenPolicyOut.of(book.table[level]) for level in RiskLevel}
    return TokenPoliciesOut(version=book.version, levels=levels)


UNKNOWN_AGENT_RESPONSES = problem_responses({404: "no such agent, or none that the caller may see"})

AMBIGUOUS_AGENT_RESPONSES = problem_responses({409: "several agents have that id: name tenant or issuer"})

TenantParam = Annotated[str | None, Query(max_length=2048, description="tenant of the agent; one of the caller's own")]

IssuerParam = Annotated[
    str | None, Query(max_length=2048, description="issuer of the agent, where its id is not unique")
]

LimitParam = Annotated[int, Query(ge=1, le=MAX_PAGE, description="most items of a page")]

AgentParam = Annotated[str | None, Query(max_length=2048, description="id of the agent, as its issuer knows it")]

CursorParam = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the page before")]
