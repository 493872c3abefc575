"""Privacy: erasures and their proofs, the chain of decisions, exports."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, model_validator

from ...ingest.record_erasure import ErasureSubject
from ...scoring.records.erasures import Erasure
from ...scoring.store.decision_chain import ChainVerification, verify_chains
from ..agents.routes import AMBIGUOUS_AGENT_RESPONSES, CursorParam, IssuerParam, LimitParam, TenantParam
from ..http.agent_lookup import find_agent_entry, not_found_error, require_all_tenants, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import AdministratorDep, ApplicationContext, ContextDep
from ..http.problems import ProblemDetails, ProblemError
from ..http.schemas import NameText, PageOut, TimeText, format_rfc3339, format_rfc3339_or_none, problem_responses
from .service import ErasureService

router = APIRouter(tags=["privacy"])

REFUSED_ERASURE_RESPONSES = problem_responses(
    {409: "it can not be erased as things are; `detail` says why and what to do"}
)
SubjectIdentifier = Annotated[str, Field(min_length=2, max_length=2048)]


class ErasureIn(BaseModel):
    """Whom to erase: an agent or a principal."""

    agent: SubjectIdentifier | None = Field(None, description="agent id")
    principal: SubjectIdentifier | None = Field(
        None, description="identifier of a person or service that agents act for"
    )
    tenant: NameText | None = Field(None, description="default: the caller's only one")
    issuer: NameText | None = Field(
        None, description="of an agent; default: the caller's only one. Principals have none"
    )
    as_named: bool = Field(
        False, description="with pseudonyms on: erase the identifier itself, as it was logged before they were"
    )
    reason: Annotated[str, Field(min_length=1, max_length=1000, description="why; it becomes part of the proof")]

    @model_validator(mode="after")
    def _check_one_subject(self) -> ErasureIn:
        if (self.agent is None) == (self.principal is None):
            raise ValueError("name `agent` or `principal`, one of them")
        return self


class ErasureOut(BaseModel):
    """How far an erasure is. The identifier is shown while the work goes on, and known to nobody afterwards."""

    erasure_id: str
    kind: str
    status: str = Field(description="queued, waiting, erasing, checking, compacting, done, failed")
    tenant: str
    issuer: str | None
    subject: str | None
    reason: str
    asked_by: str
    asked_at: TimeText
    done_at: TimeText | None
    detail: str | None = Field(description="what it waits for, or why it failed")
    counts: dict[str, int] = Field(description="what was removed or changed, by place")
    proof: str | None = Field(description="compact JWS (ES256) of the service's local key")
    document: dict[str, Any] | None = Field(description="what the proof says")


class ProofCheckIn(BaseModel):
    """A proof, and the identifier that it is about: the service knows it no more."""

    proof: Annotated[str, Field(max_length=200_000)]
    subject: SubjectIdentifier


class ProofCheckOut(BaseModel):
    """What a look at everything found."""

    signed: bool = Field(description="the proof is of this service")
    same_subject: bool = Field(description="the proof is about that identifier, and of this erasure")
    nothing_left: bool = Field(description="nothing was found in what was looked at")
    left: dict[str, int] = Field(description="where something was found, and how often")
    not_looked_at: list[str] = Field(
        description="what the process that answers does not reach: others' archives, topics"
    )


class ChainHeadOut(BaseModel):
    """Where the chain of a partition ends, and behind which sequence number all of it must be there."""

    partition: int
    sequence: int
    digest: str
    complete_after: int


class ChainBreakOut(BaseModel):
    """A place where a chain does not hold."""

    partition: int
    sequence: int
    what: str


class ChainOut(BaseModel):
    """Whether decisions are what was written."""

    intact: bool
    checked: int = Field(description="decisions whose content fits their digest")
    erased: int = Field(description="tombstones")
    redacted: int = Field(description="decisions that an erasure took a name out of, and that are as it left them")
    before_chain: int = Field(description="decisions older than the chain; nothing is known of them")
    heads: list[ChainHeadOut]
    broken: int
    breaks: list[ChainBreakOut] = Field(description="at most 20")


@router.get("/v1/decisions/verify", summary="Verify the chain of decisions")
async def verify_decision_chain(parts: ContextDep, caller: AdministratorDep) -> ChainOut:
    """Walk over all tenants' decisions; takes some 30 µs for each. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    return chain_out(await asyncio.to_thread(verify_chains, parts.runtime.store))


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


def erasure_out(made: Erasure, document: dict[str, Any] | None, *, brief: bool = False) -> ErasureOut:
    """An erasure as it is answered."""
    return ErasureOut(
        erasure_id=made.erasure_id,
        kind=made.kind,
        status=made.status,
        tenant=made.tenant,
        issuer=made.issuer or None,
        subject=None if made.status == "done" else made.subject or None,
        reason=made.reason,
        asked_by=made.asked_by,
        asked_at=format_rfc3339(made.asked_ms),
        done_at=format_rfc3339_or_none(made.done_ms),
        detail=made.error or None,
        counts={place: count for place, count in made.counts.items() if isinstance(count, int)},
        proof=None if brief else made.proof.decode() or None,
        document=document,
    )


def chain_out(report: ChainVerification) -> ChainOut:
    """A verification as it is answered."""
    return ChainOut(
        intact=report.intact,
        checked=report.checked,
        erased=report.erased,
        redacted=report.redacted,
        before_chain=report.before,
        broken=report.broken,
        heads=[
            ChainHeadOut(
                partition=head.partition,
                sequence=head.sequence,
                digest=head.digest,
                complete_after=head.anchor_sequence,
            )
            for head in report.heads
        ],
        breaks=[
            ChainBreakOut(partition=one.partition, sequence=one.sequence, what=one.problem) for one in report.breaks
        ],
    )
