"""Privacy: erasures and their proofs, the chain of decisions, exports."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, model_validator

from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.decision_chain import ChainHead
from trustwatch.scoring.store.decision_store import ChainBreak, ChainVerification

from ..http.agent_lookup import AGENT_PATH
from ..http.dependencies import AdministratorDep, AgentDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    CursorParam,
    LimitParam,
    NameText,
    PageOut,
    problem_responses,
)
from ..http.slice import Slice
from ..http.store_executor import BulkWork
from ..http.wire import Wire
from .service import ErasureRequest, ErasureService, ProofCheck

SubjectIdentifier = Annotated[str, Field(min_length=2, max_length=2048)]


class ErasureIn(BaseModel):
    """Subject to erase: an agent or a principal."""

    agent: SubjectIdentifier | None = Field(None, description="agent id")
    principal: SubjectIdentifier | None = Field(None, description="person or service that agents act for")
    tenant: NameText | None = Field(None, description="defaults to the caller's only tenant")
    issuer: NameText | None = Field(None, description="issuer of the agent; defaults to the caller's only one")
    as_named: bool = Field(False, description="with pseudonyms on: erase the identifier itself, logged before")
    reason: Annotated[str, Field(min_length=1, max_length=1000, description="reason; it becomes part of the proof")]

    @model_validator(mode="after")
    def _check_one_subject(self) -> ErasureIn:
        if (self.agent is None) == (self.principal is None):
            raise ValueError("name `agent` or `principal`, one of them")
        return self


class ErasureOut(Wire, of=Erasure, rename={"error": "detail"}):
    """Progress of an erasure. The identifier is shown while the work continues, and is not kept afterwards."""

    counts: dict[str, int] = Field(description="what was removed or changed, by place")
    proof: str | None = Field(
        description="compact JWS (ES256) of the local key", examples=["eyJhbGciOiJFUzI1NiJ9.e30.c2ln"]
    )
    document: dict[str, Any] | None = Field(description="content of the proof")


class ProofCheckIn(BaseModel):
    """A proof, and the identifier that it is about, which the service no longer knows."""

    proof: Annotated[str, Field(max_length=200_000)] = Field(
        description="the signed proof, a JWT", examples=["eyJhbGciOiJFUzI1NiJ9.e30.c2ln"]
    )
    subject: SubjectIdentifier = Field(description="identifier that was erased", examples=["john.doe@company.com"])


class ProofCheckOut(Wire, of=ProofCheck):
    """Result of another check of everything that is kept."""


class ChainHeadOut(Wire, of=ChainHead, rename={"anchor_sequence": "complete_after"}):
    """The end of the chain of a partition. All entries after the sequence number `complete_after` must exist."""


class ChainBreakOut(Wire, of=ChainBreak, rename={"problem": "what"}):
    """A position at which a chain is broken."""


class ChainOut(Wire, of=ChainVerification, rename={"before": "before_chain"}):
    """The result of the check that decisions are unchanged."""


def erasure_out(erasure: Erasure, document: dict[str, Any] | None, *, brief: bool = False) -> ErasureOut:
    """An erasure as it is answered."""
    more: dict[str, Any] = {"subject": None} if erasure.status == "done" else {}
    counts = {target: count for target, count in erasure.counts.items() if isinstance(count, int)}
    proof = None if brief else erasure.proof.decode() or None
    return ErasureOut.of(erasure, counts=counts, proof=proof, document=document, **more)


router = APIRouter(tags=["privacy"], responses=COMMON_PROBLEMS)

ErasureId = Annotated[str, Path(description="id of the erasure")]
ErasureServiceDep = Annotated[ErasureService, Depends(provided(ErasureService))]
BulkWorkDep = Annotated[BulkWork, Depends(provided(BulkWork))]
REFUSED_ERASURE_RESPONSES = problem_responses(
    {409: "The subject cannot be erased now. `detail` states why and what to do."}
)


@router.get("/v1/decisions/verify", summary="Verify the chain of decisions")
async def verify_decision_chain(caller: AdministratorDep, erasures: ErasureServiceDep) -> ChainOut:
    """Checks all decisions, about 30 µs each. Requires the scope `trust.admin` for all tenants."""
    return ChainOut.of(await erasures.verify_decision_chain(caller))


@router.post(
    "/v1/privacy/erasures",
    status_code=202,
    responses=REFUSED_ERASURE_RESPONSES,
    summary="Erase an agent or a principal",
)
async def order_erasure(caller: AdministratorDep, erasures: ErasureServiceDep, order: ErasureIn) -> ErasureOut:
    """Erases it everywhere, in the background, and issues a proof. A repeated request has no further effect.

    Requires the scope `trust.admin` for all tenants: records that belong to no tenant are searched too.
    """
    if order.agent is not None:
        request = ErasureRequest("agent", order.agent, order.tenant, order.issuer)
    else:
        request = ErasureRequest("principal", order.principal or "", order.tenant, None, order.as_named)
    return erasure_out(await erasures.request_erasure(caller, request, order.reason), None)


@router.get("/v1/privacy/erasures", summary="List erasures")
async def list_erasures(
    caller: AdministratorDep, erasures: ErasureServiceDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ErasureOut]:
    """Newest first, without proofs."""
    page = await erasures.list(caller, limit, cursor)
    items = [erasure_out(erasure, None, brief=True) for erasure in page.items]
    return PageOut(items=items, next_cursor=page.next_cursor)


@router.get(
    "/v1/privacy/erasures/{erasure_id}", responses=problem_responses({404: "no such erasure"}), summary="One erasure"
)
async def get_erasure(erasure_id: ErasureId, caller: AdministratorDep, erasures: ErasureServiceDep) -> ErasureOut:
    """Returns the progress of an erasure and, once it is done, its proof."""
    erasure = await erasures.get(caller, erasure_id)
    return erasure_out(erasure, erasures.document(erasure))


@router.post(
    "/v1/privacy/erasures/{erasure_id}/verify",
    responses=problem_responses({404: "no such erasure", 409: "The erasure is not done, so there is no proof yet."}),
    summary="Verify a proof",
)
async def verify_proof(
    erasure_id: ErasureId, caller: AdministratorDep, erasures: ErasureServiceDep, claim: ProofCheckIn
) -> ProofCheckOut:
    """Searches everything that the erasure covered again."""
    return ProofCheckOut.of(await erasures.verify(caller, erasure_id, claim.proof, claim.subject))


@router.get(
    AGENT_PATH + "/export",
    response_class=StreamingResponse,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Export everything about an agent",
)
async def export_agent_data(
    agent: AgentDep, caller: AdministratorDep, erasures: ErasureServiceDep, bulk: BulkWorkDep
) -> StreamingResponse:
    """Returns a ZIP of JSON lines: state, decisions with links in the chain, alerts, orders and events.

    It is created while it is sent. Its last file, `manifest.json`, has the lines and digest of each other file.
    """
    pieces = bulk.pieces(caller, erasures.export(caller, agent))
    headers = {"Content-Disposition": 'attachment; filename="agent-export.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


SLICE = Slice("privacy", routers=(router,))
