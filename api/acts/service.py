"""Acts of people, whatever they were about: one list for API and console."""

from __future__ import annotations

from typing import NamedTuple

from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.records.acts import ACT_KINDS, Act, ActKind
from trustwatch.scoring.store.act_store import ActFilters
from trustwatch.scoring.store.database import Page

from ..http.agent_lookup import AgentResolver, AgentSelector, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import invalid_value_error
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor


class ActSearch(NamedTuple):
    """Filters as a request says them; "" and 0 = all."""

    by: str = ""
    kind: str = ""
    agent: AgentSelector | None = None
    tenant: str = ""
    since_ms: int = 0
    until_ms: int = 0


class ActService:
    """Acts of people that a caller may see: those about its tenants, and about the deployment where it has them all.

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

        Raises:
            TenantNotAllowed: see `visible_tenants`.
            ProblemError: 400, the cursor is none of ours; 409, several agents are meant; 422, there is no such kind.
            Unavailable: the store does not answer.
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
    """Raises ProblemError (422) where there is no such kind."""
    if not word:
        return None
    for kind in ACT_KINDS:
        if kind == word:
            return kind
    raise invalid_value_error("kind", f"{printable_line(word, 40)} is none: {', '.join(ACT_KINDS)}")
