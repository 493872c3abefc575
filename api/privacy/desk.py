"""Takes wishes to erase, and carries them out step by step; every step may be killed and is done again.

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
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any, NamedTuple

import msgspec
import structlog

from ...ingest.erasing import NameEraser, Subject, schema_words
from ...ingest.errors import TrustwatchError
from ...ingest.identity import record_id
from ...ingest.source import Kind, Record
from ...scoring.privacy import Erasure, Forget, PrivacyKey
from ...scoring.privacy.records import digest_of, pseudonym_of
from ...scoring.store.base import Page, Tenants
from ...scoring.store.erasing import Scope
from .exporting import Sources, export_agent
from .places import Places
from .proof import PROOF_TYPE, proof_of

MOST_ROUNDS = 3
WAIT_S, RETRY_S, IDLE_S = 0.2, 5.0, 600.0

_log = structlog.get_logger(__name__)


class Refused(TrustwatchError):
    """This can not be erased as things are: answered with 409."""

    code = "erasure_refused"


class Signer(NamedTuple):
    """Signs proofs, and reads them.

    Attributes:
        sign: (document, type) → compact JWS.
        read: (compact JWS, type) → document; raises ValueError where it is none of ours.
    """

    sign: Callable[[dict[str, Any], str], str]
    read: Callable[[str, str], dict[str, Any]]


class Checked(NamedTuple):
    """What a look at a proof found. `left` is empty where nothing of the subject is left."""

    signed: bool
    same_subject: bool
    left: dict[str, int]


class ErasureDesk:
    """One per service. For one event loop.

    Args:
        places: where it is erased; None = events are on a topic, which nobody can rewrite.
        key: of marks.
        signer: of proofs.
        forgotten: called with an agent's subject once the pipeline has forgotten it, for what this process remembers.
        now_ms: UTC milliseconds.
        on_server: whether the database is a server.
        exported: what an export reads.
    """

    def __init__(
        self, places: Places | None, exported: Sources, key: Callable[[], PrivacyKey], signer: Callable[[], Signer],
        forgotten: Callable[[Subject], Awaitable[None]], now_ms: Callable[[], int], *, on_server: bool,
    ) -> None:  # fmt: skip
        self._places = places
        self._exported = exported
        self._key = key
        self._signer = signer
        self._forgotten = forgotten
        self._now_ms = now_ms
        self._on_server = on_server
        self._wake = asyncio.Event()
        self._spooled: dict[str, list[str]] = {}
        self.done = 0
        """Erasures that were finished by this process."""
        self.failed = 0
        """Erasures that this process gave up."""

    async def ask(self, subject: Subject, reason: str, by: str) -> Erasure:
        """Take a wish, durably; one that is under way for the same subject is returned instead.

        Raises:
            Refused: events are on a topic; or an authorization server still has the agent lowered.
        """
        places = self._at_hand()
        if subject.name in schema_words():
            raise Refused(
                f"`{subject.name}` is a word of the event schema: records without it could not be read. "
                "Nothing was done; keep such a name out of the sources, and let its records age out"
            )
        held = await asyncio.to_thread(places.store.held_at_servers, subject) if subject.kind == "agent" else []
        if held:
            raise Refused(
                f"the agent is lowered at {', '.join(held)}, and what it had before is known here alone: release it or "
                "pin it to low, wait until its actuation is `restored`, and erase it then"
            )
        for known in await asyncio.to_thread(places.store.open_erasures):
            if (known.kind, known.tenant, known.issuer, known.subject) == subject[:4]:
                return known
        made = await asyncio.to_thread(self._new, subject, reason, by)
        await asyncio.to_thread(places.store.add_erasure, made)
        self._wake.set()
        return made

    def _new(self, subject: Subject, reason: str, by: str) -> Erasure:
        now, salt = self._now_ms(), secrets.token_hex(16)
        erasure_id = record_id(now, salt)
        digest = digest_of(salt, *subject[:4])
        words = NameEraser(subject.name, pseudonym_of(erasure_id)).text(reason)
        return Erasure(
            erasure_id, subject.kind, "queued", subject.tenant, subject.issuer, subject.name, salt, digest, words, by,
            now, updated_ms=now,
        )  # fmt: skip

    def _at_hand(self) -> Places:
        if self._places is None:
            raise Refused(
                "events are on a topic of Kafka, whose records nobody can rewrite: they age out by its retention. "
                "Erasing the rest while they are there would be undone by the next replay"
            )
        return self._places

    async def list(self, tenants: Tenants, limit: int, cursor: str | None) -> Page[Erasure]:
        """Erasures, newest first. Raises BadCursor."""
        return await asyncio.to_thread(self._at_hand().store.list_erasures, tenants, limit, cursor)

    async def get(self, erasure_id: str, tenants: Tenants) -> Erasure | None:
        """One erasure."""
        return await asyncio.to_thread(self._at_hand().store.erasure, erasure_id, tenants)

    def document(self, made: Erasure) -> dict[str, Any] | None:
        """What the proof says; None = there is none yet."""
        return self._signer().read(made.proof.decode(), PROOF_TYPE) if made.proof else None

    async def check(self, made: Erasure, proof: str, name: str) -> Checked:
        """Look again at everything that *made* covered, for *name*, and at the proof's signature.

        Args:
            made: the erasure that the proof names.
            proof: compact JWS.
            name: the identifier, which nothing here knows any more.
        """
        try:
            told = self._signer().read(proof, PROOF_TYPE)
        except ValueError:
            return Checked(False, False, {})
        asked = told["asked"]["subject"]
        digest = await asyncio.to_thread(digest_of, asked["salt"], made.kind, made.tenant, made.issuer, name)
        if digest != asked["scrypt"] or told["erasure_id"] != made.erasure_id:
            return Checked(True, False, {})
        subject = Subject(made.kind, made.tenant, made.issuer, name, pseudonym_of(made.erasure_id))
        scope = Scope(made.erasure_id, subject, made.at_offset, made.at_ms)
        return Checked(True, True, await self._at_hand().left(scope))

    def export(self, subject: Subject, dead_letters_of: Collection[str] | None, by: str) -> Iterator[bytes]:
        """Everything about one agent as a ZIP, piece by piece; blocks. See `exporting.export_agent`."""
        return export_agent(self._exported, subject, dead_letters_of, self._now_ms(), by)

    async def keep(self, stop: asyncio.Event) -> None:
        """Carry out what is open, from the beginning of the process on, until *stop*."""
        ending = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                pause_s = await self._look() if self._places is not None else IDLE_S
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait([ending, waking], timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._wake.clear()
        finally:
            ending.cancel()

    async def _look(self) -> float:
        """One step of everything that is open; returns for how many seconds nothing is to be done."""
        try:
            waiting = await asyncio.to_thread(self._at_hand().store.open_erasures)
        except (TrustwatchError, OSError) as error:
            _log.warning("erasures have to wait", error=str(error))
            return RETRY_S
        moved, failing = False, False
        for made in waiting:  # one that can not go on holds up no other
            try:
                moved |= await self._step(made)
            except (TrustwatchError, OSError) as error:
                _log.warning("an erasure has to wait", erasure_id=made.erasure_id, error=str(error))
                failing = True
        if not waiting:
            return IDLE_S
        return 0.0 if moved else RETRY_S if failing else WAIT_S

    async def _step(self, made: Erasure) -> bool:
        """The next step of one erasure; False = it has to wait."""
        after = await _STEPS[made.status](self, made)
        if after is None:
            return False
        after = msgspec.structs.replace(after, updated_ms=self._now_ms())
        await asyncio.to_thread(self._at_hand().store.change_erasure, after)
        _log.info("erasure", erasure_id=after.erasure_id, status=after.status, error=after.error or None)
        return True

    async def _queued(self, made: Erasure) -> Erasure:
        places, subject = self._at_hand(), made.who
        if made.kind == "agent":
            await asyncio.to_thread(places.store.forget_mark, self._key().mark(subject.key), self._now_ms())
        now = self._now_ms()
        order = Forget(made.erasure_id, *subject)
        offset = await places.log.commit([Record(Kind.FORGET, 0, now, msgspec.json.encode(order))])
        counts = made.counts
        if "chain" not in counts:
            heads = await asyncio.to_thread(places.store.chain_heads)
            counts = {**counts, "chain": [{**head._asdict()} for head in heads]}
        return msgspec.structs.replace(
            made, status="waiting", at_offset=offset, at_ms=now, rounds=made.rounds + 1, counts=counts, error=""
        )

    async def _waiting(self, made: Erasure) -> Erasure | None:
        places = self._at_hand()
        if made.erasure_id not in self._spooled:
            if await places.behind(made.at_offset, ()) == "the pipeline":
                return self._says(made, "the pipeline")
            self._spooled[made.erasure_id] = places.spooled()
        who = await places.behind(made.at_offset, self._spooled[made.erasure_id])
        if who:
            return self._says(made, who)
        del self._spooled[made.erasure_id]
        return msgspec.structs.replace(made, status="erasing", error="")

    def _says(self, made: Erasure, who: str) -> Erasure | None:
        told = f"waits for {who} to come past offset {made.at_offset} of the log"
        return None if made.error == told else msgspec.structs.replace(made, error=told)

    async def _erasing(self, made: Erasure) -> Erasure:
        found = await self._at_hand().erase(self._scope(made))
        await self._forgotten(made.who)
        counts = dict(made.counts)
        for place, count in found.items():
            counts[place] = counts.get(place, 0) + count
        return msgspec.structs.replace(made, status="checking", counts=counts)

    async def _checking(self, made: Erasure) -> Erasure:
        left = await self._at_hand().left(self._scope(made))
        if not left:
            return msgspec.structs.replace(made, status="compacting", subject="", error="")
        told = "still found: " + ", ".join(f"{place} {count}" for place, count in sorted(left.items()))
        if made.rounds < MOST_ROUNDS:
            return msgspec.structs.replace(made, status="queued", error=told)
        self.failed += 1
        return msgspec.structs.replace(made, status="failed", error=told)

    async def _compacting(self, made: Erasure) -> Erasure | None:
        places = self._at_hand()
        if not await asyncio.to_thread(places.store.compact):
            return self._says_compacting(made)
        heads = await asyncio.to_thread(places.store.chain_heads)
        now = self._now_ms()
        proof = self._signer().sign(proof_of(made, now, heads, self._on_server), PROOF_TYPE)
        self.done += 1
        return msgspec.structs.replace(made, status="done", done_ms=now, proof=proof.encode(), error="")

    def _says_compacting(self, made: Erasure) -> Erasure | None:
        told = "the database could not be compacted: something reads it all the time"
        return None if made.error == told else msgspec.structs.replace(made, error=told)

    def _scope(self, made: Erasure) -> Scope:
        return Scope(made.erasure_id, made.who, made.at_offset, made.at_ms)


_STEPS: dict[str, Callable[[ErasureDesk, Erasure], Awaitable[Erasure | None]]] = {
    "queued": ErasureDesk._queued,
    "waiting": ErasureDesk._waiting,
    "erasing": ErasureDesk._erasing,
    "checking": ErasureDesk._checking,
    "compacting": ErasureDesk._compacting,
}
