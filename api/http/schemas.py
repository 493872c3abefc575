"""Bodies, parameters and times that several slices share."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import Indicator
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.store.database import MAX_PAGE

from .wire import Wire

T = TypeVar("T")

AgentIdText = Annotated[
    str, Field(min_length=1, max_length=2048, description="id of the agent", examples=["agent-payment-processor-v2.1"])
]
NameText = Annotated[str, Field(max_length=2048)]


class ReasonOut(Wire, of=RiskReason):
    """A reason for a change of risk."""


class IndicatorOut(Wire, of=Indicator):
    """An indicator in the events that raised an agent's risk."""


class TokenPolicyOut(Wire, of=LevelTokenPolicy):
    """Token policy of a level."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "allow": True,
                "max_token_lifetime_s": 60,
                "allowed_scopes": ["payments:read"],
                "refresh_allowed": False,
                "step_up": True,
                "revoke": False,
                "step_up_scopes": ["*"],
            }
        }
    )


class ProblemOut(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URN of the problem", examples=["urn:trustwatch:problem:invalid_token"])
    title: str = Field(description="short summary of the problem", examples=["Invalid token"])
    status: int = Field(description="status of the answer", examples=[401])
    detail: str = Field(description="what is wrong, where, and what to do", examples=["the token has expired"])
    code: str = Field(description="stable code of the problem, for programs", examples=["invalid_token"])


def problem_responses(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Answers that are problem documents, by status, as FastAPI takes them."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {status: {"description": text, "content": content} for status, text in descriptions.items()}


COMMON_PROBLEMS = problem_responses(
    {
        400: "The Authorization header is malformed or repeated, the body is unreadable, or the cursor is invalid.",
        401: "The token is missing or invalid. `WWW-Authenticate` states the reason.",
        403: "The token lacks a scope, or its client is not bound to the tenant.",
        413: "The body is larger than the route accepts.",
        421: "The request has neither a bearer token nor a `Host` of this service.",
        422: "A parameter or the body is invalid. `errors` lists where.",
        503: "A required part of the service is unavailable. Nothing was changed.",
    }
)
"""Answers that every route which needs a token may give, whatever else it answers."""


NEXT_CURSOR: Any = Field(
    description="pass as `cursor` to get the next page; null on the last page", examples=["WzE3NjQwMDAwMDAsIkQxIl0"]
)


class PageOut(BaseModel, Generic[T]):
    """A page of items, and the cursor of the next one."""

    items: list[T] = Field(description="the items of this page")
    next_cursor: str | None = NEXT_CURSOR


UNKNOWN_AGENT_RESPONSES = problem_responses({404: "The agent does not exist, or the caller may not see it."})

AMBIGUOUS_AGENT_RESPONSES = problem_responses({409: "Several agents have this ID. Name the tenant or issuer."})

TenantParam = Annotated[str | None, Query(max_length=2048, description="tenant of the agent; one of the caller's own")]

IssuerParam = Annotated[
    str | None, Query(max_length=2048, description="Issuer of the agent. Required if its ID is not unique.")
]

LimitParam = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of items on the page.")]

AgentParam = Annotated[str | None, Query(max_length=2048, description="id of the agent, as its issuer knows it")]

CursorParam = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the previous page.")]
