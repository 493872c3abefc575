"""Acts of people: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from trustwatch.scoring.records.acts import Act, ActKind

from ..http.agent_lookup import AgentResolver, AgentSelector
from ..http.dependencies import AdministratorDep, provided
from ..http.problems import invalid_value_error
from ..http.runtime import Runtime
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
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from ..http.wire import Wire
from .service import ActSearch, ActService


class ActOut(Wire, of=Act):
    """One thing that a person did."""

    agent_id: str | None = Field(description="null = it is about no single agent", examples=["agent-ledger"])
    issuer: str | None = Field(description="of the agent", examples=["https://as.example"])


def act_out(act: Act) -> ActOut:
    """An act as it is answered."""
    _, issuer, agent_id = (None, None, None) if act.agent is None else act.agent.identity
    return ActOut.of(act, agent_id=agent_id, issuer=issuer)


router = APIRouter(tags=["acts"], responses=COMMON_PROBLEMS)

ActServiceDep = Annotated[ActService, Depends(provided(ActService))]


@router.get("/v1/acts", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List what people did")
async def list_acts(
    caller: AdministratorDep,
    acts: ActServiceDep,
    by: Annotated[str | None, Query(max_length=2048, description="who did it, in full")] = None,
    kind: Annotated[ActKind | None, Query(description="only those of that kind")] = None,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    since: Annotated[datetime | None, Query(description="at this time or later; UTC where it says no zone")] = None,
    until: Annotated[datetime | None, Query(description="before this time; UTC where it says no zone")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[ActOut]:
    """Acts of people, with when and why, newest first; a page may be empty and have a next one. Scope `trust.admin`.

    Acts about the deployment, as those about models, are shown to callers of all tenants.
    """
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    times = _milliseconds("since", since), _milliseconds("until", until)
    page = await acts.search(caller, ActSearch(by or "", kind or "", agent, tenant or "", *times), limit, cursor)
    return PageOut(items=[act_out(act) for act in page.items], next_cursor=page.next_cursor)


def _milliseconds(name: str, at: datetime | None) -> int:
    """UTC milliseconds of a time; 0 = none was given. Raises ProblemError (422)."""
    if at is None:
        return 0
    try:
        return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise invalid_value_error(name, "is no time that a clock could show") from None


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    return (ActService(services.get(Runtime), services.get(StoreExecutor), services.get(AgentResolver)),)


SLICE = Slice("acts", routers=(router,), services=_make_services)
