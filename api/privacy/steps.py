"""From one status of an erasure to the next; every step may be killed and is done again.

1. *queued*: the agent's mark is stored, and a FORGET record logged: from there on the pipeline knows nothing of it.
2. *waiting* for the pipeline, the archive and the archive of vectors to come past that record.
3. *erasing* in the database, the log, the archives.
4. *checking*: the same walk once more, counting only. What is found is erased again, at most `MOST_ROUNDS` times.
5. *compacting*: the identifier leaves the wish itself, and the database its removed rows.
6. *done*, with a signed proof.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from ...ingest.erasing import Subject
from ...ingest.source import Kind, Record
from ...scoring.privacy import Erasure, Forget, PrivacyKey
from ...scoring.privacy.records import digest_of
from .places import Everywhere
from .proof import PROOF_TYPE, Signer, proof_of

MOST_ROUNDS = 3


class Steps:
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
        places: Everywhere,
        key: Callable[[], PrivacyKey],
        signer: Callable[[], Signer],
        forgotten: Callable[[Subject], Awaitable[None]],
        now_ms: Callable[[], int],
        *,
        on_server: bool,
    ) -> None:
        self._places = places
        self._key = key
        self._signer = signer
        self._forgotten = forgotten
        self._now_ms = now_ms
        self._on_server = on_server

    async def after(self, made: Erasure) -> Erasure | None:
        """Do what its status asks for; the erasure as it is then, for the caller to write. None = it has to wait.

        Raises:
            TrustwatchError, OSError: a place does not answer, or refuses; the step is to be done again.
        """
        return await _STEPS[made.status](self, made)

    async def _queued(self, made: Erasure) -> Erasure:
        places, subject = self._places, made.who
        await self._mark(made)
        now = max(self._now_ms(), made.at_ms + 1)  # a round is known by its time, whatever the clock says
        order = Forget(made.erasure_id, *subject)
        if "chain" not in made.counts:
            heads = await asyncio.to_thread(places.store.chain_heads)
            made = msgspec.structs.replace(made, counts={**made.counts, "chain": [head._asdict() for head in heads]})
        made = await places.order(made, Record(Kind.FORGET, 0, now, msgspec.json.encode(order)))
        return msgspec.structs.replace(made, status="waiting", at_ms=now, rounds=made.rounds + 1, error="")

    async def _found_again(self, made: Erasure) -> Erasure:
        """An order that a database which was put back has met in the topic: it has neither digest nor mark of it."""
        await self._mark(made)
        salt = secrets.token_hex(16)
        digest = await asyncio.to_thread(digest_of, salt, *made.who[:4])
        return msgspec.structs.replace(made, subject_salt=salt, subject_digest=digest)

    async def _mark(self, made: Erasure) -> None:
        """Keep an agent from going on from a model's history."""
        if made.kind == "agent":
            await asyncio.to_thread(self._places.store.forget_mark, self._key().mark(made.who.key), self._now_ms())

    async def _waiting(self, made: Erasure) -> Erasure | None:
        if not made.subject_digest:
            return await self._found_again(made)
        told = await self._places.behind(made, self._now_ms())
        if told:
            return None if made.error == told else msgspec.structs.replace(made, error=told)
        return msgspec.structs.replace(await self._places.passed(made), status="erasing", error="")

    async def _erasing(self, made: Erasure) -> Erasure:
        found = await self._places.erase(made)
        await self._forgotten(made.who)
        counts = dict(made.counts)
        for place, count in found.items():
            counts[place] = counts.get(place, 0) + count
        return msgspec.structs.replace(made, status="checking", counts=counts)

    async def _checking(self, made: Erasure) -> Erasure:
        left = await self._places.left(made)
        if not left:
            subject = made.subject if self._places.keeps_name else ""
            return msgspec.structs.replace(made, status="compacting", subject=subject, error="")
        told = "still found: " + ", ".join(f"{place} {count}" for place, count in sorted(left.items()))
        if made.rounds < MOST_ROUNDS:
            return msgspec.structs.replace(made, status="queued", error=told)
        return msgspec.structs.replace(made, status="failed", error=told)

    async def _compacting(self, made: Erasure) -> Erasure | None:
        places = self._places
        if not await asyncio.to_thread(places.store.compact):
            return self._says_compacting(made)
        heads = await asyncio.to_thread(places.store.chain_heads)
        now = self._now_ms()
        told = await places.told(made, now)
        made = msgspec.structs.replace(made, counts={**made.counts, **told.counts})
        proof = self._signer().sign(proof_of(made, now, heads, told, on_server=self._on_server), PROOF_TYPE)
        return msgspec.structs.replace(made, status="done", done_ms=now, proof=proof.encode(), error="")

    def _says_compacting(self, made: Erasure) -> Erasure | None:
        told = "the database could not be compacted: something reads it all the time"
        return None if made.error == told else msgspec.structs.replace(made, error=told)


_STEPS: dict[str, Callable[[Steps, Erasure], Awaitable[Erasure | None]]] = {
    "queued": Steps._queued,
    "waiting": Steps._waiting,
    "erasing": Steps._erasing,
    "checking": Steps._checking,
    "compacting": Steps._compacting,
}
