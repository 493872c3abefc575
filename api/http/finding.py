"""Which agent a caller means, and what it may know of it. The same rules for answers, histories and releases.

- A tenant that is named must be one of the caller's: else 403, whether or not the agent exists.
- Where none is named, only the caller's own tenants are searched; agents of others are as if they did not exist.
- Several agents of that id and nothing that tells them apart: 409, with what to name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...scoring.records import AgentName
from ...scoring.view import Entry, RiskView
from ..callers import ANY, Caller
from ..problems import Problem, ProblemError

SHOWN = 20


def require_all_tenants(caller: Caller) -> None:
    """What reaches every tenant is for callers that are bound to all of them. Raises ProblemError (403)."""
    if ANY not in caller.tenants:
        detail = "this reaches every tenant; the caller must be bound to all of them (`tenants: ['*']`)"
        raise ProblemError(Problem(403, "all_tenants_needed", "All tenants needed", detail))


def visible_tenants(caller: Caller, tenant: str | None) -> Collection[str] | None:
    """Tenants that a request of *caller* reaches; None = all.

    Raises:
        TenantNotAllowed: it named one that it is not bound to, or is bound to none.
    """
    if tenant is not None:
        return (caller.require_tenant(tenant),)
    if ANY in caller.tenants:
        return None
    if not caller.tenants:
        caller.require_tenant(None)
    return caller.tenants


def find_entry(view: RiskView, caller: Caller, agent_id: str, tenant: str | None, issuer: str | None) -> Entry | None:
    """The one agent that is meant; None = never seen, as far as this caller may know.

    Raises:
        TenantNotAllowed: see `visible_tenants`.
        ProblemError: 409, several are meant.
    """
    tenants = visible_tenants(caller, tenant)
    found = view.find(agent_id, tenant, issuer, tenants)
    if len(found) > 1:
        raise ambiguous([entry.summary.name for entry in found])
    return found[0] if found else None


def ambiguous(names: Sequence[AgentName]) -> ProblemError:
    """409 with the names among which the request has to choose; all are of tenants that the caller may see."""
    candidates = [{"tenant": name.tenant, "issuer": name.issuer} for name in names[:SHOWN]]
    wanted = [part for part in ("tenant", "issuer") if len({getattr(name, part) for name in names}) > 1]
    detail = f"{len(names)} agents have that id; name its {' and '.join(wanted)}"
    return ProblemError(
        Problem(409, "ambiguous_agent", "Ambiguous agent", detail, members={"candidates": candidates, "name": wanted})
    )


def no_such(what: str) -> ProblemError:
    """404 for something that does not exist, or not for this caller."""
    return ProblemError(Problem(404, "not_found", "Not found", f"there is no such {what}"))
