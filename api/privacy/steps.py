"""From one status of an erasure to the next; every step may be killed and is done again.

1. *queued*: the agent's mark is stored, and a FORGET record logged: from there on the pipeline knows nothing of it.
2. *waiting* for the pipeline, the archive and the archive of vectors to come past that record.
3. *erasing* in the database, the log, the archives.
4. *checking*: the same walk once more, counting only. What is found is erased again, at most `MAX_ROUNDS` times.
5. *compacting*: the identifier leaves the wish itself, and the database its removed rows.
6. *done*, with a signed proof.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from ...ingest.erasing import ErasureSubject
from ...ingest.source import Record, RecordKind
from ...scoring.privacy import EraseCommand, Erasure, PrivacyKey
from ...scoring.privacy.records import subject_digest
from .places import ErasureTargets
from .proof import PROOF_TYPE, ProofSigner, proof_document

MAX_ROUNDS = 3


class ErasureSteps:
    """What is done at each status. Whether this process may is for the caller to know.

    Args:
        places: where it is erased.
        key: of marks.
        signer: of proofs.
        forgotten: called with an agent's subject once the pipeline has forgotten it, for what this process remembers.
        now_ms: UTC milliseconds.
        on_server: whether the database is a server.
    """

    def __init__(
        self,
        places: ErasureTargets,
        key: Callable[[], PrivacyKey],
        signer: Callable[[], ProofSigner],
        forgotten: Callable[[ErasureSubject], Awaitable[None]],
        now_ms: Callable[[], int],
        *,
        on_server: bool,
    ) -> None:
        self._targets = places
        self._key = key
        self._signer = signer
        self._on_forgotten = forgotten
        self._now_ms = now_ms
        self._on_server = on_server

    async def advance(self, made: Erasure) -> Erasure | None:
        """Do what its status asks for; the erasure as it is then, for the caller to write. None = it has to wait.

        Raises:
            TrustwatchError, OSError: a place does not answer, or refuses; the step is to be done again.
        """
        return await _STEPS[made.status](self, made)

    async def _queued(self, made: Erasure) -> Erasure:
        places, subject = self._targets, made.erasure_subject
        await self._store_forgotten_mark(made)
        now = max(self._now_ms(), made.at_ms + 1)  # a round is known by its time, whatever the clock says
        order = EraseCommand(made.erasure_id, *subject)
        if "chain" not in made.counts:
            heads = await asyncio.to_thread(places.store.chain_heads)
            made = msgspec.structs.replace(made, counts={**made.counts, "chain": [head._asdict() for head in heads]})
        made = await places.write_order(made, Record(RecordKind.FORGET, 0, now, msgspec.json.encode(order)))
        return msgspec.structs.replace(made, status="waiting", at_ms=now, rounds=made.rounds + 1, error="")

    async def _complete_rediscovered(self, made: Erasure) -> Erasure:
        """An order that a database which was put back has met in the topic: it has neither digest nor mark of it."""
        await self._store_forgotten_mark(made)
        salt = secrets.token_hex(16)
        digest = await asyncio.to_thread(subject_digest, salt, *made.erasure_subject[:4])
        return msgspec.structs.replace(made, subject_salt=salt, subject_digest=digest)

    async def _store_forgotten_mark(self, made: Erasure) -> None:
        """Keep an agent from going on from a model's history."""
        if made.kind == "agent":
            await asyncio.to_thread(
                self._targets.store.forget_mark, self._key().erasure_mark(made.erasure_subject.key), self._now_ms()
            )

    async def _waiting(self, made: Erasure) -> Erasure | None:
        if not made.subject_digest:
            return await self._complete_rediscovered(made)
        told = await self._targets.waiting_for(made, self._now_ms())
        if told:
            return None if made.error == told else msgspec.structs.replace(made, error=told)
        return msgspec.structs.replace(await self._targets.acknowledged(made), status="erasing", error="")

    async def _erasing(self, made: Erasure) -> Erasure:
        found = await self._targets.erase(made)
        await self._on_forgotten(made.erasure_subject)
        counts = dict(made.counts)
        for place, count in found.items():
            counts[place] = counts.get(place, 0) + count
        return msgspec.structs.replace(made, status="checking", counts=counts)

    async def _checking(self, made: Erasure) -> Erasure:
        left = await self._targets.remaining(made)
        if not left:
            subject = made.subject if self._targets.keeps_name else ""
            return msgspec.structs.replace(made, status="compacting", subject=subject, error="")
        told = "still found: " + ", ".join(f"{place} {count}" for place, count in sorted(left.items()))
        if made.rounds < MAX_ROUNDS:
            return msgspec.structs.replace(made, status="queued", error=told)
        return msgspec.structs.replace(made, status="failed", error=told)

    async def _compacting(self, made: Erasure) -> Erasure | None:
        places = self._targets
        if not await asyncio.to_thread(places.store.compact):
            return self._compaction_blocked(made)
        heads = await asyncio.to_thread(places.store.chain_heads)
        now = self._now_ms()
        told = await places.summary(made, now)
        made = msgspec.structs.replace(made, counts={**made.counts, **told.counts})
        proof = self._signer().sign(proof_document(made, now, heads, told, on_server=self._on_server), PROOF_TYPE)
        return msgspec.structs.replace(made, status="done", done_ms=now, proof=proof.encode(), error="")

    def _compaction_blocked(self, made: Erasure) -> Erasure | None:
        told = "the database could not be compacted: something reads it all the time"
        return None if made.error == told else msgspec.structs.replace(made, error=told)


_STEPS: dict[str, Callable[[ErasureSteps, Erasure], Awaitable[Erasure | None]]] = {
    "queued": ErasureSteps._queued,
    "waiting": ErasureSteps._waiting,
    "erasing": ErasureSteps._erasing,
    "checking": ErasureSteps._checking,
    "compacting": ErasureSteps._compacting,
}
