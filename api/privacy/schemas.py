"""Bodies of the routes of erasure, export and decision chains."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.decision_store import ChainVerification

from ..http.schemas import NameText, TimeText, format_rfc3339_or_none
from .service import ErasureRequest, ProofCheck

SubjectIdentifier = Annotated[str, Field(min_length=2, max_length=2048)]


class ErasureIn(BaseModel):
    """Subject to erase: an agent or a principal."""

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
    """Progress of an erasure. The identifier is shown while the work goes on, and is not kept afterwards."""

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
    """Result of another look at everything that is kept."""

    signed: bool = Field(description="the proof is of this service")
    same_subject: bool = Field(description="the proof is about that identifier, and of this erasure")
    nothing_left: bool = Field(description="nothing was found in what was looked at")
    left: dict[str, int] = Field(description="where something was found, and how often")
    not_looked_at: list[str] = Field(
        description="what the process that answers does not reach: others' archives, topics"
    )


class ChainHeadOut(BaseModel):
    """End of the chain of a partition; all entries behind the sequence number `complete_after` must be there."""

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
    """Result of the check that decisions are as they were written."""

    intact: bool
    checked: int = Field(description="decisions whose content fits their digest")
    erased: int = Field(description="tombstones")
    redacted: int = Field(description="decisions that an erasure took a name out of, and that are as it left them")
    before_chain: int = Field(description="decisions older than the chain; nothing is known of them")
    heads: list[ChainHeadOut]
    broken: int
    breaks: list[ChainBreakOut] = Field(description="at most 20")


def erasure_request_from_body(body: ErasureIn) -> ErasureRequest:
    """The erasure that a body asks for."""
    if body.agent is not None:
        return ErasureRequest("agent", body.agent, body.tenant, body.issuer)
    return ErasureRequest("principal", body.principal or "", body.tenant, None, body.as_named)


def proof_check_out(check: ProofCheck) -> ProofCheckOut:
    """A check of a proof as it is answered."""
    return ProofCheckOut(
        signed=check.signed,
        same_subject=check.same_subject,
        nothing_left=check.nothing_left,
        left=check.left,
        not_looked_at=list(check.not_looked_at),
    )


def erasure_out(erasure: Erasure, document: dict[str, Any] | None, *, brief: bool = False) -> ErasureOut:
    """An erasure as it is answered."""
    return ErasureOut(
        erasure_id=erasure.erasure_id,
        kind=erasure.kind,
        status=erasure.status,
        tenant=erasure.tenant,
        issuer=erasure.issuer or None,
        subject=None if erasure.status == "done" else erasure.subject or None,
        reason=erasure.reason,
        asked_by=erasure.asked_by,
        asked_at=format_rfc3339(erasure.asked_ms),
        done_at=format_rfc3339_or_none(erasure.done_ms),
        detail=erasure.error or None,
        counts={target: count for target, count in erasure.counts.items() if isinstance(count, int)},
        proof=None if brief else erasure.proof.decode() or None,
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
            ChainBreakOut(partition=chain_break.partition, sequence=chain_break.sequence, what=chain_break.problem)
            for chain_break in report.breaks
        ],
    )
