"""Takes wishes to erase, and sees to it that one process of a deployment carries each out; `steps.py` says how."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import structlog

from ...ingest.errors import Fenced, TrustwatchError, Unavailable
from ...ingest.pseudonyms import PrivacyKey
from ...ingest.record_erasure import ErasureSubject, NameEraser, reserved_words
from ...ingest.record_keys import record_id
from ...scoring.records.erasures import Erasure, erasure_pseudonym, subject_digest
from ...scoring.store.database import LeaderLock, Page, Tenants
from .. import clock
from .agent_export import ExportSources, export_agent
from .embedded_targets import ErasureTargets
from .erasure_steps import PROOF_TYPE, ErasureSteps, ProofSigner

STEP_EVERY_S, RETRY_S, IDLE_S = 0.2, 5.0, 600.0
FOLLOW_EVERY_S = 1.0
"""Between looks at what other processes of a deployment do."""
RELEASE_NAMES_EVERY_S = 3600.0
LEADER_LOCK_NAME = "erasures"

_log = structlog.get_logger(__name__)


class ErasureRefused(TrustwatchError):
    """This can not be erased as things are: answered with 409."""

    code = "erasure_refused"


class ProofCheck(NamedTuple):
    """What a look at a proof found. `left` is empty where nothing of the subject is left, as far as was looked."""

    signed: bool
    same_subject: bool
    left: dict[str, int]
    not_looked_at: Sequence[str] = ()


class ErasureService:
    """One per service. For one event loop.

    Args:
        places: where it is erased.
        key: of marks.
        signer: of proofs.
        forgotten: called with an agent's subject once the pipeline has forgotten it, for what this process remembers.
        now_ms: UTC milliseconds.
        on_server: whether the database is a server.
        exported: what an export reads.
        leads: whether this process may carry erasures out, where no other one of the deployment does.
    """

    def __init__(
        self,
        places: ErasureTargets,
        exported: ExportSources,
        key: Callable[[], PrivacyKey],
        signer: Callable[[], ProofSigner],
        forgotten: Callable[[ErasureSubject], Awaitable[None]],
        now_ms: Callable[[], int],
        *,
        on_server: bool,
        leads: bool = True,
    ) -> None:
        self._targets = places
        self._export_sources = exported
        self._signer = signer
        self._on_forgotten = forgotten
        self._now_ms = now_ms
        self._may_lead = leads
        self._steps = ErasureSteps(places, key, signer, forgotten, now_ms, on_server=on_server)
        self._wake = asyncio.Event()
        self._leader_lock: LeaderLock | None = None
        self._names_released_at = float("-inf")
        self._compaction_due = False
        self._forgotten_at_ms: dict[str, int] | None = None
        self.done_count = 0
        """Erasures that were finished by this process."""
        self.failed_count = 0
        """Erasures that this process gave up."""

    async def request_erasure(self, subject: ErasureSubject, reason: str, by: str) -> Erasure:
        """Take a wish, durably; one that is under way for the same subject is returned instead.

        Raises:
            Refused: an authorization server still has the agent lowered; or the name is a word of the schema.
        """
        places = self._targets
        if subject.name in reserved_words():
            raise ErasureRefused(
                f"`{subject.name}` is a word of the event schema: records without it could not be read. "
                "Nothing was done; keep such a name out of the sources, and let its records age out"
            )
        held = (
            await asyncio.to_thread(places.store.actuations.targets_with_original, subject)
            if subject.kind == "agent"
            else []
        )
        if held:
            raise ErasureRefused(
                f"the agent is lowered at {', '.join(held)}, and what it had before is known here alone: release it or "
                "pin it to low, wait until its actuation is `restored`, and erase it then"
            )
        for known in await asyncio.to_thread(places.store.erasures.list_open):
            if (known.kind, known.tenant, known.issuer, known.subject) == subject[:4]:
                return known
        made = await asyncio.to_thread(self._new_erasure, subject, reason, by)
        await asyncio.to_thread(places.store.erasures.add, made)
        self._wake.set()
        return made

    def _new_erasure(self, subject: ErasureSubject, reason: str, by: str) -> Erasure:
        now, salt = self._now_ms(), secrets.token_hex(16)
        erasure_id = record_id(now, salt)
        digest = subject_digest(salt, *subject[:4])
        words = NameEraser(subject.name, erasure_pseudonym(erasure_id)).erase_in_text(reason)
        return Erasure(
            erasure_id,
            subject.kind,
            "queued",
            subject.tenant,
            subject.issuer,
            subject.name,
            salt,
            digest,
            words,
            by,
            now,
            updated_ms=now,
        )

    async def open_erasures(self) -> Sequence[Erasure]:
        """Those that are asked for and not done, oldest first: what they are about is not to be shown any more."""
        return await asyncio.to_thread(self._targets.store.erasures.list_open)

    async def list(self, tenants: Tenants, limit: int, cursor: str | None) -> Page[Erasure]:
        """Erasures, newest first. Raises BadCursor."""
        return await asyncio.to_thread(self._targets.store.erasures.page, tenants, limit, cursor)

    async def get(self, erasure_id: str, tenants: Tenants) -> Erasure | None:
        """One erasure."""
        return await asyncio.to_thread(self._targets.store.erasures.get, erasure_id, tenants)

    def document(self, made: Erasure) -> dict[str, Any] | None:
        """What the proof says; None = there is none yet."""
        return self._signer().read(made.proof.decode(), PROOF_TYPE) if made.proof else None

    async def verify(self, made: Erasure, proof: str, name: str) -> ProofCheck:
        """Look again at everything that *made* covered, for *name*, and at the proof's signature.

        Args:
            made: the erasure that the proof names.
            proof: compact JWS.
            name: the identifier, which nothing here knows any more.
        """
        try:
            told = self._signer().read(proof, PROOF_TYPE)
        except ValueError:
            return ProofCheck(False, False, {})
        asked = told["asked"]["subject"]
        digest = await asyncio.to_thread(subject_digest, asked["salt"], made.kind, made.tenant, made.issuer, name)
        if digest != asked["scrypt"] or told["erasure_id"] != made.erasure_id:
            return ProofCheck(True, False, {})
        left = await self._targets.remaining(msgspec.structs.replace(made, subject=name))
        return ProofCheck(True, True, left, await self._targets.not_checked(self._now_ms()))

    def export(self, subject: ErasureSubject, dead_letters_of: Collection[str] | None, by: str) -> Iterator[bytes]:
        """Everything about one agent as a ZIP, piece by piece; blocks. See `exporting.export_agent`."""
        return export_agent(self._export_sources, subject, dead_letters_of, self._now_ms(), by)

    async def run(self, stop: asyncio.Event) -> None:
        """Carry out what is open, from the beginning of the process on, until *stop*."""
        ending = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                pause_s = await self._advance_all()
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait([ending, waking], timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._wake.clear()
        finally:
            ending.cancel()
            if self._leader_lock is not None:
                await asyncio.to_thread(self._leader_lock.release)

    async def _advance_all(self) -> float:
        """One step of everything that is open; returns for how many seconds nothing is to be done."""
        failing = not await self._try_assist()
        try:
            if not await self._is_leading():
                return RETRY_S if failing else FOLLOW_EVERY_S
            waiting = await asyncio.to_thread(self._targets.store.erasures.list_open)
        except (TrustwatchError, OSError) as error:
            _log.warning("erasures have to wait", error=str(error))
            return RETRY_S
        moved = False
        for made in waiting:  # one that can not go on holds up no other
            try:
                moved |= await self._advance(made)
            except (TrustwatchError, OSError) as error:
                _log.warning("an erasure has to wait", erasure_id=made.erasure_id, error=str(error))
                failing = True
                await self._note_error(made, error)
        if not waiting:
            return FOLLOW_EVERY_S if self._targets.keeps_name else IDLE_S
        return 0.0 if moved else RETRY_S if failing else STEP_EVERY_S

    async def _note_error(self, made: Erasure, error: Exception) -> None:
        """Say in the erasure why it does not go on, where that is the erasure's own affair."""
        if isinstance(error, Unavailable | Fenced):
            return
        with suppress(TrustwatchError):
            await asyncio.to_thread(self._targets.store.erasures.record_error, made, str(error))

    async def _try_assist(self) -> bool:
        """False = what this process does for all could not be done now; what it leads goes on all the same."""
        try:
            await self._assist()
        except (TrustwatchError, OSError) as error:
            _log.warning("this process could not do its part of erasures", error=str(error))
            return False
        return True

    async def _assist(self) -> None:
        """What every process does for erasures that any of them carries out: its archives, and what it remembers."""
        passed = {one.erasure_id: one for one in await self._targets.assist(self._now_ms())}
        if self._forgotten_at_ms is None:  # what was over before this process began, it has never known
            self._forgotten_at_ms = {name: one.at_ms for name, one in passed.items() if one.status == "done"}
        for name, one in passed.items():
            if self._forgotten_at_ms.get(name) != one.at_ms:
                await self._on_forgotten(one.erasure_subject)
                self._forgotten_at_ms[name] = one.at_ms

    async def _is_leading(self) -> bool:
        """Whether erasures are this process's to carry out. Raises Unavailable."""
        if not self._may_lead:
            return False
        try:
            if self._leader_lock is None:
                self._leader_lock = await asyncio.to_thread(
                    self._targets.store.database.acquire_leader_lock, LEADER_LOCK_NAME
                )
            if self._leader_lock is None:
                return False
            await asyncio.to_thread(self._leader_lock.ensure_held)
        except TrustwatchError:  # the next look asks for it anew
            seat, self._leader_lock = self._leader_lock, None
            if seat is not None:
                await asyncio.to_thread(seat.release)
            raise
        await self._release_names()
        return True

    async def _release_names(self) -> None:
        """Look after what is done, now and then. Nothing that is open waits for it."""
        if not self._targets.keeps_name or clock.monotonic() - self._names_released_at < RELEASE_NAMES_EVERY_S:
            return
        try:
            for one in await self._targets.release_names(self._now_ms()):
                _log.info("an erased name is not kept any more", erasure_id=one.erasure_id)
                self._compaction_due = True
            if self._compaction_due:
                self._compaction_due = not await asyncio.to_thread(self._targets.store.database.compact)
        except (TrustwatchError, OSError) as error:
            _log.warning("finished erasures could not be looked after", error=str(error))
        self._names_released_at = clock.monotonic()

    async def _advance(self, made: Erasure) -> bool:
        """The next step of one erasure; False = it has to wait, or another process has taken it on."""
        await self._check_leadership()
        after = await self._steps.advance(made)
        if after is None:
            return False
        after = msgspec.structs.replace(after, updated_ms=self._now_ms())
        await self._check_leadership()
        if not await asyncio.to_thread(self._targets.store.erasures.update, made, after):
            _log.warning(
                "a step of an erasure was given up: another process has changed it", erasure_id=made.erasure_id
            )
            return False
        self.done_count += after.status == "done"
        self.failed_count += after.status == "failed"
        _log.info("erasure", erasure_id=after.erasure_id, status=after.status, error=after.error or None)
        return True

    async def _check_leadership(self) -> None:
        """A step may take hours; who leads may be another one by then. Raises Fenced, Unavailable."""
        if self._leader_lock is not None:
            await asyncio.to_thread(self._leader_lock.ensure_held)
