"""Privacy: erasures and their proofs, the chain of decisions, exports."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from ...ingest.record_erasure import ErasureSubject
from ...scoring.records.erasures import Erasure
from ...scoring.store.chain_verification import verify_chains
from ..http.agent_lookup import find_agent_entry, not_found_error, require_all_tenants, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import AdministratorDep, ApplicationContext, ContextDep
from ..http.problems import ProblemDetails, ProblemError
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .schemas import ChainOut, ErasureIn, ErasureOut, ProofCheckIn, ProofCheckOut, chain_out, erasure_out
from .service import ErasureService

router = APIRouter(tags=["privacy"])

REFUSED_ERASURE_RESPONSES = problem_responses(
    {409: "it can not be erased as things are; `detail` says why and what to do"}
)


@router.get("/v1/decisions/verify", summary="Verify the chain of decisions")
async def verify_decision_chain(parts: ContextDep, caller: AdministratorDep) -> ChainOut:
    """Walk over all tenants' decisions; takes some 30 µs for each. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    return chain_out(
        await asyncio.to_thread(verify_chains, parts.runtime.store.decisions, parts.runtime.store.erasures)
    )


@router.post(
    "/v1/privacy/erasures",
    status_code=202,
    responses=REFUSED_ERASURE_RESPONSES,
    summary="Erase an agent or a principal",
)
async def order_erasure(parts: ContextDep, caller: AdministratorDep, wish: ErasureIn) -> ErasureOut:
    """Everywhere, in the background, with a proof at the end; asked twice, it is done once.

    Scope `trust.admin`, of all tenants: refused records, for one, belong to nobody, and are searched for the name.
    """
    require_all_tenants(caller)
    tenant = caller.require_tenant(wish.tenant)
    issuer = "" if wish.principal is not None else wish.issuer or caller.binding.default_issuer or ""
    kind, name = ("agent", wish.agent) if wish.agent is not None else ("principal", wish.principal)
    alias = parts.runtime.principal_alias
    if alias is not None and wish.principal is not None and not wish.as_named:
        name = alias(tenant, wish.principal)
    subject = ErasureSubject(kind, tenant, issuer, name or "", "")
    return erasure_out(
        await erasure_service_of(parts).request_erasure(subject, wish.reason, caller.name or caller.subject), None
    )


@router.get("/v1/privacy/erasures", summary="List erasures")
async def list_erasures(
    parts: ContextDep, caller: AdministratorDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ErasureOut]:
    """Newest first, without their proofs. Scope `trust.admin`."""
    page = await erasure_service_of(parts).list(visible_tenants(caller, None), limit, cursor)
    return PageOut(items=[erasure_out(one, None, brief=True) for one in page.items], next_cursor=page.next_cursor)


@router.get(
    "/v1/privacy/erasures/{erasure_id}", responses=problem_responses({404: "no such erasure"}), summary="One erasure"
)
async def get_erasure(erasure_id: str, parts: ContextDep, caller: AdministratorDep) -> ErasureOut:
    """How far it is; once it is done, with its proof. Scope `trust.admin`."""
    made = await _find_erasure(parts, caller, erasure_id)
    return erasure_out(made, erasure_service_of(parts).document(made))


@router.post(
    "/v1/privacy/erasures/{erasure_id}/verify",
    responses=problem_responses({404: "no such erasure"}),
    summary="Verify a proof",
)
async def verify_proof(
    erasure_id: str, parts: ContextDep, caller: AdministratorDep, wish: ProofCheckIn
) -> ProofCheckOut:
    """Look through everything that it covered once more. Scope `trust.admin`."""
    made = await _find_erasure(parts, caller, erasure_id)
    if made.status != "done":
        raise ProblemError(
            ProblemDetails(409, "not_done", "Not done", f"the erasure is {made.status}; there is no proof yet")
        )
    found = await erasure_service_of(parts).verify(made, wish.proof, wish.subject)
    looked = found.signed and found.same_subject
    return ProofCheckOut(
        signed=found.signed,
        same_subject=found.same_subject,
        nothing_left=looked and not found.left,
        left=found.left,
        not_looked_at=list(found.not_looked_at),
    )


@router.get(
    "/v1/agents/{agent_id:path}/export",
    response_class=StreamingResponse,
    responses=AMBIGUOUS_AGENT_RESPONSES,
    summary="Export everything about an agent",
)
async def export_agent_data(
    agent_id: str, parts: ContextDep, caller: AdministratorDep, tenant: TenantParam = None, issuer: IssuerParam = None
) -> StreamingResponse:
    """A ZIP of JSON lines: state, decisions with their links in the chain, alerts, orders, events. Scope `trust.admin`.

    Made while it is sent; `manifest.json`, its last file, has the number of lines and the digest of every other one.
    """
    entry = find_agent_entry(parts.runtime.risk_view, caller, agent_id, tenant, issuer)
    if entry is not None:
        name = entry.summary.name
        subject = ErasureSubject("agent", name.tenant, name.issuer, name.agent_id, "")
    else:
        named = issuer if issuer is not None else caller.binding.default_issuer or ""
        subject = ErasureSubject("agent", caller.require_tenant(tenant), named, agent_id, "")
    letters = None if visible_tenants(caller, None) is None else [caller.name]
    pieces = erasure_service_of(parts).export(subject, letters, caller.name or caller.subject)
    headers = {"Content-Disposition": 'attachment; filename="agent-export.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


async def _find_erasure(parts: ApplicationContext, caller: AuthenticatedCaller, erasure_id: str) -> Erasure:
    made = await erasure_service_of(parts).get(erasure_id, visible_tenants(caller, None))
    if made is None:
        raise not_found_error("erasure")
    return made


def erasure_service_of(parts: ApplicationContext) -> ErasureService:
    """The desk of this service."""
    desk = parts.runtime.erasure_service
    assert desk is not None  # a service that answers has one
    return desk
