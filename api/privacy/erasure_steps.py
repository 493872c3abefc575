"""Steps of an erasure, and its proof: a signed document that names who was erased by a slow salted hash alone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from trustwatch.ingest.identities import PrivacyKey, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.erasures import EraseCommand, Erasure, subject_digest
from trustwatch.scoring.store.decision_chain import ChainHead, chain_heads_document

from .embedded_targets import ErasureSummary, ErasureTargets

PROOF_TYPE = "trustwatch-erasure+jwt"

_REMAINS_ALWAYS = (
    (
        "tombstones of decisions: tenant, UTC day, place and salted digests in the chain",
        "the chain of decisions stays verifiable; the salt is gone, so that no guess can be checked",
        "retention removes them",
    ),
    (
        "what left before: alerts at their receivers, orders at authorization servers, answers to API callers",
        "it is in other systems",
        "they erase it",
    ),
    (
        "back-ups, and bytes of files and rows that were freed on disk",
        "nobody reads them through this service",
        "they are overwritten or expire",
    ),
)
_REMAINS_BY_KIND = {
    "agent": (
        (
            "a row of counts and keyed hashes in each trained model, under a 128-bit hash of the agent's full name "
            "with the model's salt as key",
            "a model is one verified artefact; the row is no longer used (the agent begins as a new one)",
            "those model versions are removed",
        ),
        (
            "counts of its peer group in trained models",
            "sums over many agents, which name none",
            "those model versions are removed",
        ),
        (
            "marks by which the agent is not taken up from a model's history again",
            "HMAC-SHA-256 of a 64-bit hash of its full name, under the key in `privacy-key`",
            "the key is replaced",
        ),
    ),
    "principal": (
        (
            "keyed 64-bit hashes of the name in the state of agents that acted for it, and in trained models",
            "SipHash-2-4 under the salt of the model; whoever has that salt can check a name they already know. They "
            "are what keeps those agents' habits",
            "those agents are forgotten, or a model with another salt comes into force",
        ),
    ),
}


class ProofSigner(NamedTuple):
    """Signs proofs, and reads them."""

    sign: Callable[[dict[str, Any], str], str]  # (document, type) → compact JWS
    # (compact JWS, type) → document; raises ValueError if it is not ours
    read: Callable[[str, str], dict[str, Any]]


def proof_document(
    erasure: Erasure, done_ms: int, after: list[ChainHead], summary: ErasureSummary, *, on_server: bool
) -> dict[str, Any]:
    """The document of an erasure that is done."""
    counts = {name: count for name, count in erasure.counts.items() if isinstance(count, int)}
    remains = [*summary.remains, *_remaining_entries(erasure, on_server)]
    return {
        "type": "erasure",
        "version": 1,
        "erasure_id": erasure.erasure_id,
        "software": version("trustwatch"),
        "asked": {
            "kind": erasure.kind,
            "tenant": erasure.tenant,
            "issuer": erasure.issuer or None,
            "subject": {"scrypt": erasure.subject_digest, "salt": erasure.subject_salt, "n": 2**14, "r": 8, "p": 1},
            "reason": erasure.reason,
            "by": erasure.asked_by,
            "at": format_rfc3339(erasure.asked_ms),
        },
        "done_at": format_rfc3339(done_ms),
        "covers": summary.covers,
        "erased": counts,
        "left": {},
        "chain": {"before": erasure.counts.get("chain", []), "after": chain_heads_document(after)},
        "topics": list(summary.topics),
        "remains": [{"what": what, "why": why, "until": until} for what, why, until in remains],
    }


def _remaining_entries(erasure: Erasure, on_server: bool) -> list[tuple[str, str, str]]:
    entries = [*_REMAINS_BY_KIND[erasure.kind], *_REMAINS_ALWAYS]
    if on_server:
        entries.append(
            (
                "removed row versions in files, write-ahead log and replicas of PostgreSQL",
                "VACUUM has freed them; the server overwrites them when it uses their room again",
                "they are overwritten, and archived WAL expires",
            )
        )
    return entries


# Any step may be killed and is done again.
#
# 1. *queued*: the agent's mark is stored, and a FORGET record logged: from there on the pipeline knows nothing of it.
# 2. *waiting* for the pipeline, the archive and the archive of vectors to come past that record.
# 3. *erasing* in the database, the log, the archives.
# 4. *checking*: the same walk once more, counting only. Remains are erased again, at most `MAX_ROUNDS` times.
# 5. *compacting*: the identifier leaves the erasure's own row, and the database its removed rows.
# 6. *done*, with a signed proof.

MAX_ROUNDS = 3


@dataclass(eq=False, repr=False)
class ErasureSteps:
    """Steps of an erasure, one for each status. The caller knows if this process may take them."""

    targets: ErasureTargets
    key: Callable[[], PrivacyKey]
    signer: Callable[[], ProofSigner]
    forgotten: Callable[[ErasureSubject, int], Awaitable[None]]
    now_ms: Callable[[], int]
    _: KW_ONLY
    on_server: bool

    async def advance(self, erasure: Erasure) -> Erasure | None:
        """Do what its status asks for; the erasure as it is then, for the caller to write. None = it has to wait.

        Raises TrustwatchError, OSError.
        """
        return await _STEPS[erasure.status](self, erasure)

    async def _queued(self, erasure: Erasure) -> Erasure:
        targets, subject = self.targets, erasure.erasure_subject
        await self._store_forgotten_mark(erasure)
        now = max(self.now_ms(), erasure.at_ms + 1)  # a round is identified by its time, even if the clock went back
        order = EraseCommand(erasure.erasure_id, *subject)
        if "chain" not in erasure.counts:
            heads = await asyncio.to_thread(targets.store.decisions.chain_heads)
            erasure = msgspec.structs.replace(
                erasure, counts={**erasure.counts, "chain": [head._asdict() for head in heads]}
            )
        erasure = await targets.write_order(erasure, Record(RecordKind.FORGET, 0, now, msgspec.json.encode(order)))
        return msgspec.structs.replace(erasure, status="waiting", at_ms=now, rounds=erasure.rounds + 1, error="")

    async def _complete_rediscovered(self, erasure: Erasure) -> Erasure:
        """Complete an order that a restored database found in the topic: it has neither its digest nor its mark."""
        await self._store_forgotten_mark(erasure)
        salt = secrets.token_hex(16)
        digest = await asyncio.to_thread(subject_digest, salt, *erasure.erasure_subject[:4])
        return msgspec.structs.replace(erasure, subject_salt=salt, subject_digest=digest)

    async def _store_forgotten_mark(self, erasure: Erasure) -> None:
        """Prevent an agent from continuing from a model's history."""
        if erasure.kind == "agent":
            await asyncio.to_thread(
                self.targets.store.erasures.add_mark,
                self.key().erasure_mark(unkeyed_agent_key(*erasure.erasure_subject.agent_identity)),
                self.now_ms(),
            )

    async def _waiting(self, erasure: Erasure) -> Erasure | None:
        if not erasure.subject_digest:
            return await self._complete_rediscovered(erasure)
        awaited = await self.targets.waiting_for(erasure, self.now_ms())
        if awaited:
            return None if erasure.error == awaited else msgspec.structs.replace(erasure, error=awaited)
        return msgspec.structs.replace(await self.targets.acknowledged(erasure), status="erasing", error="")

    async def _erasing(self, erasure: Erasure) -> Erasure:
        erased = await self.targets.erase(erasure)
        await self.forgotten(erasure.erasure_subject, erasure.at_ms)
        counts = dict(erasure.counts)
        for target, count in erased.items():
            counts[target] = counts.get(target, 0) + count
        return msgspec.structs.replace(erasure, status="checking", counts=counts)

    async def _checking(self, erasure: Erasure) -> Erasure:
        remaining = await self.targets.remaining(erasure)
        if not remaining:
            subject = erasure.subject if self.targets.keeps_name else ""
            return msgspec.structs.replace(erasure, status="compacting", subject=subject, error="")
        problem = "still found: " + ", ".join(f"{target} {count}" for target, count in sorted(remaining.items()))
        if erasure.rounds < MAX_ROUNDS:
            return msgspec.structs.replace(erasure, status="queued", error=problem)
        return msgspec.structs.replace(erasure, status="failed", error=problem)

    async def _compacting(self, erasure: Erasure) -> Erasure | None:
        targets = self.targets
        if not await asyncio.to_thread(targets.store.database.compact):
            return self._compaction_blocked(erasure)
        heads = await asyncio.to_thread(targets.store.decisions.chain_heads)
        now = self.now_ms()
        summary = await targets.summary(erasure, now)
        erasure = msgspec.structs.replace(erasure, counts={**erasure.counts, **summary.counts})
        proof = self.signer().sign(proof_document(erasure, now, heads, summary, on_server=self.on_server), PROOF_TYPE)
        return msgspec.structs.replace(erasure, status="done", done_ms=now, proof=proof.encode(), error="")

    def _compaction_blocked(self, erasure: Erasure) -> Erasure | None:
        problem = "the database could not be compacted: something reads it all the time"
        return None if erasure.error == problem else msgspec.structs.replace(erasure, error=problem)


_STEPS: dict[str, Callable[[ErasureSteps, Erasure], Awaitable[Erasure | None]]] = {
    "queued": ErasureSteps._queued,
    "waiting": ErasureSteps._waiting,
    "erasing": ErasureSteps._erasing,
    "checking": ErasureSteps._checking,
    "compacting": ErasureSteps._compacting,
}
