"""Plain values of erasures. Times are UTC milliseconds."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, NamedTuple

import msgspec

from trustwatch.ingest.described import NULL, IssuerName, TenantName, member
from trustwatch.ingest.record_erasure import ErasureSubject

OPEN_ERASURE_STATUSES = frozenset({"queued", "waiting", "erasing", "checking", "compacting"})
"""States of an erasure before it is `done` or has `failed`."""


class Erasure(msgspec.Struct, frozen=True):
    """One erasure and its progress.

    Attributes:
        subject_salt, subject_digest: of the identifier, for the proof.
        at_offset: of the FORGET record in the log; -1 = not written yet.
        at_ms: its arrival.
        rounds: how often all data was searched.
        counts: what was deleted or changed, by place.
        proof: signed JSON (compact JWS); b"" until it is done.
    """

    erasure_id: Annotated[str, member("id of the erasure", "01KAW4DD1JQ4V1S0Z3Y8M4C2QK")]
    kind: Annotated[str, member("an agent or a principal", "principal")]
    status: Annotated[str, member("queued, waiting, erasing, checking, compacting, done, failed", "done")]
    tenant: TenantName
    issuer: Annotated[IssuerName, NULL]
    subject: Annotated[str, member("who is erased; null when the erasure is done", "john.doe@company.com", null=True)]
    subject_salt: str
    subject_digest: str
    reason: Annotated[str, member("why", "a request of the person")]
    asked_by: Annotated[str, member("who requested it", "analyst")]
    asked_ms: Annotated[int, member("when it was requested")]
    at_offset: int = -1
    at_ms: int = 0
    rounds: int = 0
    error: Annotated[str, member("what it waits for, or why it failed, if anything", null=True)] = ""
    updated_ms: int = 0
    done_ms: Annotated[int, member("when it was finished; null until then", null=True)] = 0
    counts: dict[str, Any] = {}
    proof: bytes = b""

    @property
    def erasure_subject(self) -> ErasureSubject:
        """The subject of an erasure, only while its identifier is known."""
        return ErasureSubject(self.kind, self.tenant, self.issuer, self.subject, erasure_pseudonym(self.erasure_id))


class PartitionErasure(NamedTuple):
    """An order to forget that the worker of a partition met at *offset*: earlier records are erased.

    The order was given at *at_ms*, and may be given again. *owns_agent*: the subject is an agent of this partition.
    """

    erasure_id: str
    subject: ErasureSubject
    offset: int
    at_ms: int
    owns_agent: bool


def erasure_pseudonym(erasure_id: str) -> str:
    """Return the name that replaces the erased one in the records of others."""
    return f"erased~{erasure_id[-12:]}"


def subject_digest(salt: str, kind: str, tenant: str, issuer: str, name: str) -> str:
    """Return the digest of the erased subject in a proof, hexadecimal.

    Intentionally slow (scrypt, about 50 ms): the holder of a proof can check one name, but not a directory of names.
    """
    text = msgspec.json.encode([kind, tenant, issuer, name])
    return hashlib.scrypt(text, salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32).hex()


class EraseCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of a FORGET record. The record itself is erased with the rest."""

    erasure_id: str
    kind: str
    tenant: str
    issuer: str
    name: str
    pseudonym: str

    @property
    def subject(self) -> ErasureSubject:
        """The agent or principal to erase."""
        return ErasureSubject(self.kind, self.tenant, self.issuer, self.name, self.pseudonym)
