"""Acts of people: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.store.act_store import ACT_KINDS, Act, ActFilters, ActKind
from trustwatch.scoring.store.database import Page

from ..http.agent_lookup import AgentResolver, AgentSelector, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
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
from ..http.slice import ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..http.wire import Wire


class ActSearch(NamedTuple):
    """Filters of a request; "" and 0 for all."""

    by: str = ""
    kind: str = ""
    agent: AgentSelector | None = None
    tenant: str = ""
    since_ms: int = 0
    until_ms: int = 0


class ActService:
    """Acts of people that a caller may see: those about its tenants, and about the deployment if it has all tenants.

    For one event loop.
    """

    def __init__(self, runtime: Runtime, executor: StoreExecutor, resolver: AgentResolver) -> None:
        self._runtime = runtime
        self._executor = executor
        self._resolver = resolver

    async def search(
        self, caller: AuthenticatedCaller, search: ActSearch | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Act]:
        """Acts, newest first; a page may be short, or empty, and have a next one.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        given = search or ActSearch()
        tenants, name = visible_tenants(caller, given.tenant or None), None
        kind = _kind_of(given.kind)
        if given.agent is not None:
            name = await self._resolver.find_name(caller, given.agent)
            if name is None:
                return Page([], None)
        filters = ActFilters(given.by or None, kind, name, given.since_ms, given.until_ms)
        return await self._executor(self._runtime.store.acts.page, tenants, filters, limit, cursor)


def _kind_of(word: str) -> ActKind | None:
    """Raises ProblemError (422) for an unknown kind."""
    if not word:
        return None
    for kind in ACT_KINDS:
        if kind == word:
            return kind
    raise invalid_value_error("kind", f"{printable_line(word, 40)} is none: {', '.join(ACT_KINDS)}")


class ActOut(Wire, of=Act):
    """An act of a person."""

    agent_id: str | None = Field(
        description="agent that the act is about; null if it is not about a single agent", examples=["agent-ledger"]
    )
    issuer: str | None = Field(description="issuer of the agent", examples=["https://as.example"])


def act_out(act: Act) -> ActOut:
    """An act as it is answered."""
    _, issuer, agent_id = (None, None, None) if act.agent is None else act.agent.identity
    return ActOut.of(act, agent_id=agent_id, issuer=issuer)


router = APIRouter(tags=["acts"], responses=COMMON_PROBLEMS)

ActServiceDep = Annotated[ActService, Depends(provided(ActService))]


@router.get("/v1/acts", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List acts of people")
async def list_acts(
    caller: AdministratorDep,
    acts: ActServiceDep,
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
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    times = _milliseconds("since", since), _milliseconds("until", until)
    page = await acts.search(caller, ActSearch(by or "", kind or "", agent, tenant or "", *times), limit, cursor)
    return PageOut(items=[act_out(act) for act in page.items], next_cursor=page.next_cursor)


def _milliseconds(name: str, at: datetime | None) -> int:
    """UTC milliseconds of a time; 0 for none. Raises ProblemError (422)."""
    if at is None:
        return 0
    try:
        return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise invalid_value_error(name, "is no time that a clock could show") from None


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    return (ActService(services.get(Runtime), services.get(StoreExecutor), services.get(AgentResolver)),)


SLICE = Slice("acts", routers=(router,), services=_make_services)
