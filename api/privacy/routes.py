"""Privacy: erasures and their proofs, the chain of decisions, exports."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from ..http.agent_paths import AGENT_PATH
from ..http.dependencies import AdministratorDep, AgentDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    CursorParam,
    LimitParam,
    PageOut,
    problem_responses,
)
from .schemas import (
    ChainOut,
    ErasureIn,
    ErasureOut,
    ProofCheckIn,
    ProofCheckOut,
    chain_out,
    erasure_out,
    erasure_request_from_body,
    proof_check_out,
)
from .service import ErasureService

router = APIRouter(tags=["privacy"], responses=COMMON_PROBLEMS)

ErasureServiceDep = Annotated[ErasureService, Depends(provided(ErasureService))]
REFUSED_ERASURE_RESPONSES = problem_responses(
    {409: "it can not be erased as things are; `detail` says why and what to do"}
)


@router.get("/v1/decisions/verify", summary="Verify the chain of decisions")
async def verify_decision_chain(caller: AdministratorDep, erasures: ErasureServiceDep) -> ChainOut:
    """Walk over all tenants' decisions; takes some 30 µs for each. Scope `trust.admin`, of all tenants."""
    return chain_out(await erasures.verify_decision_chain(caller))


@router.post(
    "/v1/privacy/erasures",
    status_code=202,
    responses=REFUSED_ERASURE_RESPONSES,
    summary="Erase an agent or a principal",
)
async def order_erasure(caller: AdministratorDep, erasures: ErasureServiceDep, order: ErasureIn) -> ErasureOut:
    """Everywhere, in the background, with a proof at the end; asked twice, it is done once.

    Scope `trust.admin`, of all tenants: refused records, for one, belong to nobody, and are searched for the name.
    """
    return erasure_out(await erasures.request_erasure(caller, erasure_request_from_body(order), order.reason), None)


@router.get("/v1/privacy/erasures", summary="List erasures")
async def list_erasures(
    caller: AdministratorDep, erasures: ErasureServiceDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ErasureOut]:
    """Newest first, without their proofs. Scope `trust.admin`."""
    page = await erasures.list(caller, limit, cursor)
    return PageOut(
        items=[erasure_out(erasure, None, brief=True) for erasure in page.items], next_cursor=page.next_cursor
    )


@router.get(
    "/v1/privacy/erasures/{erasure_id}", responses=problem_responses({404: "no such erasure"}), summary="One erasure"
)
async def get_erasure(erasure_id: str, caller: AdministratorDep, erasures: ErasureServiceDep) -> ErasureOut:
    """Progress of an erasure; once it is done, with its proof. Scope `trust.admin`."""
    erasure = await erasures.get(caller, erasure_id)
    return erasure_out(erasure, erasures.document(erasure))


@router.post(
    "/v1/privacy/erasures/{erasure_id}/verify",
    responses=problem_responses({404: "no such erasure", 409: "it is not done yet, so that there is no proof"}),
    summary="Verify a proof",
)
async def verify_proof(
    erasure_id: str, caller: AdministratorDep, erasures: ErasureServiceDep, claim: ProofCheckIn
) -> ProofCheckOut:
    """Look through everything that it covered once more. Scope `trust.admin`."""
    return proof_check_out(await erasures.verify(caller, erasure_id, claim.proof, claim.subject))


@router.get(
    AGENT_PATH + "/export",
    response_class=StreamingResponse,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Export everything about an agent",
)
async def export_agent_data(
    agent: AgentDep, caller: AdministratorDep, erasures: ErasureServiceDep
) -> StreamingResponse:
    """A ZIP of JSON lines: state, decisions with their links in the chain, alerts, orders, events. Scope `trust.admin`.

    Made while it is sent; `manifest.json`, its last file, has the number of lines and the digest of every other one.
    """
    pieces = erasures.export(caller, agent)
    headers = {"Content-Disposition": 'attachment; filename="agent-export.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)
