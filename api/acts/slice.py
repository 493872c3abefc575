"""Acts of people: what the slice adds to the application."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from trustwatch.scoring.store.act_store import Act, ActFilters, ActKind

from ..http.agent_lookup import AgentResolver, AgentSelector, visible_tenants
from ..http.dependencies import AdministratorDep, RuntimeDep, provided
from ..http.problems import invalid_value_error
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    AgentParam,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
)
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from ..http.wire import Wire


class ActOut(Wire, of=Act):
    """An act of a person."""

    agent_id: str | None = Field(
        description="agent that the act is about; null if it is not about a single agent", examples=["agent-ledger"]
    )
    issuer: str | None = Field(description="issuer of the agent", examples=["https://as.example"])


router = APIRouter(tags=["acts"], responses=COMMON_PROBLEMS)


@router.get("/v1/acts", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List acts of people")
async def list_acts(
    caller: AdministratorDep,
    runtime: RuntimeDep,
    executor: Annotated[StoreExecutor, Depends(provided(StoreExecutor))],
    agents: Annotated[AgentResolver, Depends(provided(AgentResolver))],
    by: Annotated[
        str | None, Query(max_length=2048, description="Only acts of this person or client. The full name is required.")
    ] = None,
    kind: Annotated[ActKind | None, Query(description="Only those of this kind.")] = None,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    since: Annotated[
        datetime | None, Query(description="At this time or later. UTC unless the time has a zone.")
    ] = None,
    until: Annotated[datetime | None, Query(description="Before this time. UTC unless the time has a zone.")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[ActOut]:
    """Newest first, with time and reason. A page may be empty and have a next one.

    Acts about the deployment, such as those about models, are shown only to callers of all tenants.
    """
    times = _milliseconds("since", since), _milliseconds("until", until)
    tenants, name = visible_tenants(caller, tenant or None), None
    if agent_id is not None:
        name = await agents.find_name(caller, AgentSelector(agent_id, tenant, issuer))
        if name is None:
            return PageOut(items=[], next_cursor=None)
    filters = ActFilters(by or None, kind, name, *times)
    page = await executor(runtime.store.acts.page, tenants, filters, limit, cursor)
    items = []
    for act in page.items:
        _, about_issuer, about = (None, None, None) if act.agent is None else act.agent.identity
        items.append(ActOut.of(act, agent_id=about, issuer=about_issuer))
    return PageOut(items=items, next_cursor=page.next_cursor)


def _milliseconds(name: str, at: datetime | None) -> int:
    """Convert a time to UTC milliseconds; 0 for none. Raises ProblemError (422)."""
    if at is None:
        return 0
    try:
        return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise invalid_value_error(name, "is not a valid time") from None


SLICE = Slice("acts", routers=(router,))
