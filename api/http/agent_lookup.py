"""Finds the agent that a caller names and checks the caller's rights. Answers, histories and releases share the rules.

- If the request names a tenant, it must be one of the caller's: else 403, whether or not the agent exists.
- Otherwise only the caller's own tenants are searched. Agents of other tenants seem not to exist.
- If several agents match, the answer is 409 with the members that distinguish them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

from starlette.convertors import PathConvertor, register_url_convertor

from trustwatch.scoring.policy.risk_view import RiskView, RiskViewEntry
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.store.sql_store import SqlStore

from ..settings.access_settings import ANY_NAME
from .auth.callers import AuthenticatedCaller
from .problems import ProblemDetails, ProblemError
from .store_executor import StoreExecutor

MAX_CANDIDATES = 20


class AgentSelector(NamedTuple):
    """The agent that a request names; None leaves the tenant or issuer open."""

    agent_id: str
    tenant: str | None = None
    issuer: str | None = None


@dataclass(eq=False, repr=False)
class AgentResolver:
    """Finds the agent that a caller names, in memory, or in the store if memory no longer has it.

    Every method raises TenantNotAllowed (see `visible_tenants`) and ProblemError (409: several agents are meant); those
    that look into the store raise Unavailable.
    """

    _risk_view: RiskView
    _store: SqlStore
    _executor: StoreExecutor

    def entry(self, caller: AuthenticatedCaller, agent: AgentSelector) -> RiskViewEntry | None:
        """Return the agent in memory, or None if this caller knows no such agent."""
        return find_agent_entry(self._risk_view, caller, *agent)

    async def find_name(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentName | None:
        """Return the full name of the agent, or None if this caller knows no such agent."""
        if agent.tenant is not None and agent.issuer is not None:
            return self._store.edges.agent_name(agent.tenant, agent.issuer, agent.agent_id)
        found = await self._find(caller, agent)
        return None if found is None else found.name

    def name(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentName:
        """Return the name of the agent. An agent that was never seen must be named in full, else ProblemError (404)."""
        entry = self.entry(caller, agent)
        if entry is not None:
            return entry.summary.name
        tenant = agent.tenant if agent.tenant is not None else caller.binding.default_tenant
        issuer = agent.issuer if agent.issuer is not None else caller.binding.default_issuer
        if tenant is None or issuer is None:
            raise not_found_error("agent")
        return self._store.edges.agent_name(tenant, issuer, agent.agent_id)

    async def summary(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentSummary:
        """Return the current state of the agent. Raises ProblemError (404) if it was never seen."""
        found = await self._find(caller, agent)
        if found is None:
            raise not_found_error("agent, or none that you may see")
        return found

    async def _find(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentSummary | None:
        entry = self.entry(caller, agent)
        if entry is not None:
            return entry.summary
        tenants = visible_tenants(caller, agent.tenant)
        namesakes = await self._executor(self._store.agents.find, agent.agent_id, tenants)
        summaries = [namesake for namesake in namesakes if agent.issuer is None or namesake.name.issuer == agent.issuer]
        if len(summaries) > 1:
            raise ambiguous_agent_error([summary.name for summary in summaries])
        return summaries[0] if summaries else None


def require_all_tenants(caller: AuthenticatedCaller) -> None:
    """Refuse a caller that is not bound to all tenants. Raises ProblemError (403)."""
    if ANY_NAME not in caller.tenants:
        detail = "this reaches every tenant; the caller must be bound to all of them (`tenants: ['*']`)"
        raise ProblemError(ProblemDetails(403, "all_tenants_needed", "All tenants needed", detail))


def visible_tenants(caller: AuthenticatedCaller, tenant: str | None) -> Collection[str] | None:
    """Return the tenants that a request of *caller* may read, None for all. Raises TenantNotAllowed."""
    if tenant is not None:
        return (caller.require_tenant(tenant),)
    if ANY_NAME in caller.tenants:
        return None
    if not caller.tenants:
        caller.require_tenant(None)
    return caller.tenants


def find_agent_entry(
    view: RiskView, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None
) -> RiskViewEntry | None:
    """Return the named agent, or None if this caller knows no such agent.

    Raises TenantNotAllowed, ProblemError.
    """
    tenants = visible_tenants(caller, tenant)
    entries = view.find_by_id(agent_id, tenant, issuer, tenants)
    if len(entries) > 1:
        raise ambiguous_agent_error([entry.summary.name for entry in entries])
    return entries[0] if entries else None


def ambiguous_agent_error(names: Sequence[AgentName]) -> ProblemError:
    """Return a 409 with the names that the request must choose from, all of tenants that the caller may see."""
    candidates = [{"tenant": name.tenant, "issuer": name.issuer} for name in names[:MAX_CANDIDATES]]
    missing = [part for part in ("tenant", "issuer") if len({getattr(name, part) for name in names}) > 1]
    detail = f"{len(names)} agents have that id; name its {' and '.join(missing)}"
    members = {"candidates": candidates, "name": missing}
    return ProblemError(ProblemDetails(409, "ambiguous_agent", "Ambiguous agent", detail, members=members))


def not_found_error(what: str) -> ProblemError:
    """Return a 404 for something that does not exist, or that this caller may not see."""
    return ProblemError(ProblemDetails(404, "not_found", "Not found", f"there is no such {what}"))


class NameConvertor(PathConvertor):
    """Matches any text, including slashes and line feeds. Starlette's `path` convertor ends at a line feed."""

    regex = "(?s:.*)"


register_url_convertor("name", NameConvertor())

AGENT_PATH: Final = "/v1/agents/{agent_id:name}"
PRINCIPAL_PATH: Final = "/v1/principals/{principal_id:name}"


def decode_agent_id(raw: bytes) -> str:
    """Decode the agent ID of a path once from percent-encoding, for routes in front of FastAPI.

    Ids that are URLs come as `https%3A%2F%2F…`, or as they are. Raises ProblemError.
    """
    if not raw:
        raise _invalid_request("the path names no agent id")
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise _invalid_request("the agent id in the path is not UTF-8") from None


def parse_agent_selection(query: bytes) -> tuple[str | None, str | None]:
    """Parse `tenant` and `issuer` of a query string; None if they are absent. Raises ProblemError."""
    try:
        members = parse_qs(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        members = {"tenant": ["", ""]}
    named: dict[str, Any] = {name: members.get(name, [None]) for name in ("tenant", "issuer")}
    if any(len(values) > 1 for values in named.values()):
        raise _invalid_request("the query must be UTF-8 and name `tenant` and `issuer` at most once")
    return named["tenant"][0], named["issuer"][0]


def _invalid_request(detail: str) -> ProblemError:
    return ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", detail))
