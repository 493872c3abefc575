"""Erasures: requested, proved, and carried out by one process of a deployment; exports."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import structlog

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import Fenced, TrustwatchError, Unavailable
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.identities import PrivacyKey, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser, reserved_words
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState
from trustwatch.scoring.delivery.dispatcher import wait_for_wake
from trustwatch.scoring.policy.book import EnforcementMode
from trustwatch.scoring.records.agents import Indicator, RiskLevel
from trustwatch.scoring.records.decisions import DECISION_CAUSES, Decision
from trustwatch.scoring.records.erasures import EraseCommand, Erasure, erasure_pseudonym, subject_digest
from trustwatch.scoring.records.feedback import FeedbackRule
from trustwatch.scoring.store.database import LeaderSeat, Page
from trustwatch.scoring.store.decision_store import ChainVerification, verify_chains
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of

from .. import clock
from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, require_all_tenants, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError
from ..http.store_executor import StoreExecutor
from .agent_export import ExportSources, export_agent
from .embedded_targets import ErasureTargets
from .erasure_proof import PROOF_TYPE, ProofSigner, proof_document

STEP_EVERY_S, RETRY_S, IDLE_S = 0.2, 5.0, 600.0
FOLLOW_EVERY_S = 1.0  # Interval of looking at what other processes of a deployment do, s
RELEASE_NAMES_EVERY_S = 3600.0
LEADER_LOCK_NAME = "erasures"
MAX_ROUNDS = 3

_STORED_TYPES = (NativeEvent, Decision, Indicator, FeedbackRule, DesiredState)
"""Types that are stored as JSON and read again: an erasure must not replace their words."""

_OUR_WORDS = frozenset(
    {*FEATURE_NAMES, *CONCERNS, *(level.label for level in RiskLevel), *get_args(EnforcementMode), *DECISION_CAUSES}
)
"""Values of those types."""

_log = structlog.get_logger(__name__)


class ErasureRefused(ProblemError):
    """Raised if a subject cannot be erased at present; answered with 409."""

    def __init__(self, detail: str) -> None:
        super().__init__(ProblemDetails(409, "erasure_refused", "Erasure refused", detail))


class ErasureRequest(NamedTuple):
    """An agent or a principal to erase. The caller's only tenant and issuer are the default; principals have no issuer.

    *as_named*: with pseudonyms on, erase the identifier of a principal itself, as it was logged before they were.
    """

    kind: Literal["agent", "principal"]
    name: str
    tenant: str | None = None
    issuer: str | None = None
    as_named: bool = False


class ProofCheck(NamedTuple):
    """The result of a check of a proof. `left` is empty if the search found nothing of the subject."""

    signed: Annotated[bool, member("whether this service signed the proof")]
    same_subject: Annotated[bool, member("whether the proof is about this identifier and this erasure")]
    left: Annotated[dict[str, int], member("number of findings by place")]
    not_looked_at: Annotated[Sequence[str], member("what this process does not reach: other archives, topics")] = ()

    @property
    def nothing_left(self) -> Annotated[bool, member("whether nothing was found in the places that were searched")]:
        """True if all places were searched for the subject, and nothing was found."""
        return self.signed and self.same_subject and not self.left


@dataclass(eq=False, repr=False)
class ErasureService:
    """Erasures, their proofs, and exports. One per service, for one event loop.

    Requests wait for the store as all requests do (`StoreExecutor`); the work itself takes as long as necessary, in
    threads that no request waits for.
    """

    targets: ErasureTargets
    export_sources: ExportSources
    agents: AgentResolver
    executor: StoreExecutor
    principal_alias: Callable[[str, str], str] | None
    key: Callable[[], PrivacyKey]
    signer: Callable[[], ProofSigner]
    on_forgotten: Callable[[ErasureSubject, int], Awaitable[None]]
    now_ms: Callable[[], int]
    _: KW_ONLY
    on_server: bool
    leads: bool = True

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._seat = LeaderSeat(self.targets.store.database, LEADER_LOCK_NAME)
        self._names_released_at = float("-inf")
        self._compaction_due = False
        self._forgotten_at_ms: dict[str, int] | None = None

    async def request_erasure(self, caller: AuthenticatedCaller, request: ErasureRequest, reason: str) -> Erasure:
        """Store an order durably; if one for the same subject is under way, return that.

        Only for callers of all tenants: refused records belong to no tenant, and are searched for the name. Raises
        ProblemError (403), TenantNotAllowed, ErasureRefused, Unavailable.
        """
        require_all_tenants(caller)
        tenant, issuer, name = caller.require_tenant(request.tenant), "", request.name
        if request.kind == "agent":
            issuer = request.issuer or caller.binding.default_issuer or ""
        elif self.principal_alias is not None and not request.as_named:
            name = self.principal_alias(tenant, name)
        subject = ErasureSubject(request.kind, tenant, issuer, name, "")
        await self._check_erasable(subject)
        for erasure in await self.open_erasures():
            if (erasure.kind, erasure.tenant, erasure.issuer, erasure.subject) == subject[:4]:
                return erasure
        now, salt = self.now_ms(), secrets.token_hex(16)
        erasure_id = record_id(now, salt)
        digest = await asyncio.to_thread(subject_digest, salt, *subject[:4])  # an scrypt: slow on purpose
        words = NameEraser(name, erasure_pseudonym(erasure_id)).erase_in_text(reason)
        asked = salt, digest, words, caller.recorded_name, now
        erasure = Erasure(erasure_id, request.kind, "queued", tenant, issuer, name, *asked, updated_ms=now)
        await self.executor.write(self.targets.store.erasures.add, erasure)
        self._wake.set()
        return erasure

    async def _check_erasable(self, subject: ErasureSubject) -> None:
        if subject.name in _OUR_WORDS or any(subject.name in reserved_words(kind) for kind in _STORED_TYPES):
            raise ErasureRefused(
                f"`{subject.name}` is a word of events or of our own records: without it they could not be read. "
                "Nothing was done; keep such a name out of the sources, and let its records age out"
            )
        if subject.kind != "agent":
            return
        servers = await self.executor(self.targets.store.actuations.targets_with_original, subject)
        if servers:
            raise ErasureRefused(
                f"the agent is lowered at {', '.join(servers)}, and what it had before is known here alone: release it "
                "or pin it to low, wait until its actuation is `restored`, and erase it then"
            )

    async def open_erasures(self) -> Sequence[Erasure]:
        """Erasures that are requested and not done, oldest first: their subjects must not be shown any more."""
        with reads_of(WHOLE_DEPLOYMENT):  # for every caller: subjects under erasure stay hidden
            return await self.executor(self.targets.store.erasures.list_open)

    async def list(self, caller: AuthenticatedCaller, limit: int, cursor: str | None) -> Page[Erasure]:
        """Erasures of the caller's tenants, newest first. Raises ProblemError (400), Unavailable."""
        return await self.executor(self.targets.store.erasures.page, visible_tenants(caller, None), limit, cursor)

    async def get(self, caller: AuthenticatedCaller, erasure_id: str) -> Erasure:
        """One erasure. Raises ProblemError (404), Unavailable."""
        erasure = await self.executor(self.targets.store.erasures.get, erasure_id, visible_tenants(caller, None))
        if erasure is None:
            raise not_found_error("erasure")
        return erasure

    def document(self, erasure: Erasure) -> dict[str, Any] | None:
        """Content of the proof; None = there is none yet."""
        return self.signer().read(erasure.proof.decode(), PROOF_TYPE) if erasure.proof else None

    async def verify(self, caller: AuthenticatedCaller, erasure_id: str, proof: str, name: str) -> ProofCheck:
        """Look again at everything that an erasure covered, for *name*, and at the proof's signature.

        Raises ProblemError (404, 409), Unavailable.
        """
        erasure = await self.get(caller, erasure_id)
        if erasure.status != "done":
            detail = f"the erasure is {erasure.status}; there is no proof yet"
            raise ProblemError(ProblemDetails(409, "not_done", "Not done", detail))
        try:
            document = self.signer().read(proof, PROOF_TYPE)
        except ValueError:
            return ProofCheck(False, False, {})
        asked = document["asked"]["subject"]
        identity = (erasure.kind, erasure.tenant, erasure.issuer, name)
        digest = await asyncio.to_thread(subject_digest, asked["salt"], *identity)
        same = hmac.compare_digest(str(digest).encode(), str(asked["scrypt"]).encode())
        if not same or document["erasure_id"] != erasure.erasure_id:
            return ProofCheck(True, False, {})
        with reads_of(WHOLE_DEPLOYMENT):  # the claim is that the name is nowhere; only counts are returned
            left = await self.targets.remaining(msgspec.structs.replace(erasure, subject=name))
        return ProofCheck(True, True, left, await self.targets.not_checked(self.now_ms()))

    def export(self, caller: AuthenticatedCaller, agent: AgentSelector) -> Iterator[bytes]:
        """Everything about one agent as a ZIP, piece by piece, which blocks; see `agent_export.export_agent`.

        Of refused records a caller that is not bound to all tenants gets those that it sent itself, and nothing that
        reveals the deployment: places in the log, names of targets and their errors, heads of the chain, version.
        Raises TenantNotAllowed, ProblemError (409).
        """
        entry = self.agents.entry(caller, agent)
        if entry is not None:
            name = entry.summary.name
            identity = name.tenant, name.issuer, name.agent_id
        else:
            issuer = agent.issuer if agent.issuer is not None else caller.binding.default_issuer or ""
            identity = caller.require_tenant(agent.tenant), issuer, agent.agent_id
        subject = ErasureSubject("agent", *identity, "")
        senders = None if visible_tenants(caller, None) is None else [caller.name]
        return export_agent(self.export_sources, subject, senders, self.now_ms(), caller.recorded_name)

    async def verify_decision_chain(self, caller: AuthenticatedCaller) -> ChainVerification:
        """Walk over all tenants' decisions, however long it takes. Raises ProblemError (403), Unavailable."""
        require_all_tenants(caller)
        return await asyncio.to_thread(verify_chains, self.targets.store.decisions, self.targets.store.erasures)

    async def run(self, stop: asyncio.Event) -> None:
        """Carry out open erasures until *stop*."""
        try:
            while not stop.is_set():
                await wait_for_wake(self._wake, stop, await self._advance_all())
        finally:
            await asyncio.to_thread(self._seat.give_up)

    async def _advance_all(self) -> float:
        """Take one step of each open erasure; return the seconds until the next call."""
        failing = not await self._assist()
        try:
            if not (self.leads and await asyncio.to_thread(self._seat.take)):
                return RETRY_S if failing else FOLLOW_EVERY_S
            await self._release_names()
            waiting = await asyncio.to_thread(self.targets.store.erasures.list_open)
        except (TrustwatchError, OSError) as error:
            _log.warning("erasures have to wait", error=str(error))
            return RETRY_S
        moved = False
        for erasure in waiting:  # one that cannot continue blocks no other
            try:
                moved |= await self._advance(erasure)
            except (TrustwatchError, OSError) as error:
                _log.warning("an erasure has to wait", erasure_id=erasure.erasure_id, error=str(error))
                failing = True
                await self._note_error(erasure, error)
        if not waiting:
            return FOLLOW_EVERY_S if self.targets.keeps_name else IDLE_S
        return 0.0 if moved else RETRY_S if failing else STEP_EVERY_S

    async def _note_error(self, erasure: Erasure, error: Exception) -> None:
        """Record in the erasure why it does not continue, if the cause is the erasure itself."""
        if isinstance(error, Unavailable | Fenced):
            return
        with suppress(TrustwatchError):
            await asyncio.to_thread(self.targets.store.erasures.record_error, erasure, str(error))

    async def _assist(self) -> bool:
        """Do this process's part of erasures that any process carries out: its archives, and what it remembers.

        False = that could not be done now; what it leads continues.
        """
        try:
            passed = {erasure.erasure_id: erasure for erasure in await self.targets.assist(self.now_ms())}
            if self._forgotten_at_ms is None:  # what was over before this process began, it has never known
                done = {name: erasure.at_ms for name, erasure in passed.items() if erasure.status == "done"}
                self._forgotten_at_ms = done
            for name, erasure in passed.items():
                if self._forgotten_at_ms.get(name) != erasure.at_ms:
                    await self.on_forgotten(erasure.erasure_subject, erasure.at_ms)
                    self._forgotten_at_ms[name] = erasure.at_ms
        except (TrustwatchError, OSError) as error:
            _log.warning("this process could not do its part of erasures", error=str(error))
            return False
        return True

    async def _release_names(self) -> None:
        """Clean up after finished erasures, every hour. No open erasure waits for it."""
        if not self.targets.keeps_name or clock.monotonic() - self._names_released_at < RELEASE_NAMES_EVERY_S:
            return
        try:
            for erasure in await self.targets.release_names(self.now_ms()):
                _log.info("an erased name is not kept any more", erasure_id=erasure.erasure_id)
                self._compaction_due = True
            if self._compaction_due:
                self._compaction_due = not await asyncio.to_thread(self.targets.store.database.compact)
        except (TrustwatchError, OSError) as error:
            _log.warning("finished erasures could not be looked after", error=str(error))
        self._names_released_at = clock.monotonic()

    async def _advance(self, erasure: Erasure) -> bool:
        """Take the next step of one erasure; return false if it has to wait, or another process has changed it."""
        await self._check_leadership()
        after = await _STEPS[erasure.status](self, erasure)
        if after is None:
            return False
        after = msgspec.structs.replace(after, updated_ms=self.now_ms())
        await self._check_leadership()
        if not await asyncio.to_thread(self.targets.store.erasures.update, erasure, after):
            words = "a step of an erasure was given up: another process has changed it"
            _log.warning(words, erasure_id=erasure.erasure_id)
            return False
        _log.info("erasure", erasure_id=after.erasure_id, status=after.status, error=after.error or None)
        return True

    async def _check_leadership(self) -> None:
        if self._seat.lock is not None:
            await asyncio.to_thread(self._seat.lock.ensure_held)

    # Any step may be killed and is done again.
    #
    # 1. *queued*: the mark of an agent is stored, and a FORGET record logged; from then on the pipeline ignores it.
    # 2. *waiting* for the pipeline, the archive and the archive of vectors to come past that record.
    # 3. *erasing* in the database, the log, the archives.
    # 4. *checking*: the same walk once more, counting only. Remains are erased again, at most `MAX_ROUNDS` times.
    # 5. *compacting*: the identifier leaves the erasure's own row, and the database its removed rows.
    # 6. *done*, with a signed proof.

    async def _queued(self, erasure: Erasure) -> Erasure:
        targets, subject = self.targets, erasure.erasure_subject
        await self._store_forgotten_mark(erasure)
        now = max(self.now_ms(), erasure.at_ms + 1)  # a round is identified by its time, even if the clock went back
        order = EraseCommand(erasure.erasure_id, *subject)
        if "chain" not in erasure.counts:
            heads = await asyncio.to_thread(targets.store.decisions.chain_heads)
            counts = {**erasure.counts, "chain": [head._asdict() for head in heads]}
            erasure = msgspec.structs.replace(erasure, counts=counts)
        erasure = await targets.write_order(erasure, Record(RecordKind.FORGET, 0, now, msgspec.json.encode(order)))
        return msgspec.structs.replace(erasure, status="waiting", at_ms=now, rounds=erasure.rounds + 1, error="")

    async def _store_forgotten_mark(self, erasure: Erasure) -> None:
        """Prevent an agent from continuing from a model's history."""
        if erasure.kind == "agent":
            mark = self.key().erasure_mark(unkeyed_agent_key(*erasure.erasure_subject.agent_identity))
            await asyncio.to_thread(self.targets.store.erasures.add_mark, mark, self.now_ms())

    async def _waiting(self, erasure: Erasure) -> Erasure | None:
        if not erasure.subject_digest:  # a restored database found it in the topic, without its digest and mark
            await self._store_forgotten_mark(erasure)
            salt = secrets.token_hex(16)
            digest = await asyncio.to_thread(subject_digest, salt, *erasure.erasure_subject[:4])
            return msgspec.structs.replace(erasure, subject_salt=salt, subject_digest=digest)
        awaited = await self.targets.waiting_for(erasure, self.now_ms())
        if awaited:
            return None if erasure.error == awaited else msgspec.structs.replace(erasure, error=awaited)
        return msgspec.structs.replace(await self.targets.acknowledged(erasure), status="erasing", error="")

    async def _erasing(self, erasure: Erasure) -> Erasure:
        erased = await self.targets.erase(erasure)
        await self.on_forgotten(erasure.erasure_subject, erasure.at_ms)
        counts = erasure.counts | {target: erasure.counts.get(target, 0) + count for target, count in erased.items()}
        return msgspec.structs.replace(erasure, status="checking", counts=counts)

    async def _checking(self, erasure: Erasure) -> Erasure:
        remaining = await self.targets.remaining(erasure)
        if not remaining:
            subject = erasure.subject if self.targets.keeps_name else ""
            return msgspec.structs.replace(erasure, status="compacting", subject=subject, error="")
        problem = "still found: " + ", ".join(f"{target} {count}" for target, count in sorted(remaining.items()))
        status = "queued" if erasure.rounds < MAX_ROUNDS else "failed"
        return msgspec.structs.replace(erasure, status=status, error=problem)

    async def _compacting(self, erasure: Erasure) -> Erasure | None:
        targets = self.targets
        if not await asyncio.to_thread(targets.store.database.compact):
            problem = "the database could not be compacted: something reads it all the time"
            return None if erasure.error == problem else msgspec.structs.replace(erasure, error=problem)
        heads = await asyncio.to_thread(targets.store.decisions.chain_heads)
        now = self.now_ms()
        summary = await targets.summary(erasure, now)
        erasure = msgspec.structs.replace(erasure, counts={**erasure.counts, **summary.counts})
        proof = self.signer().sign(proof_document(erasure, now, heads, summary, on_server=self.on_server), PROOF_TYPE)
        return msgspec.structs.replace(erasure, status="done", done_ms=now, proof=proof.encode(), error="")


_STEPS: dict[str, Callable[[ErasureService, Erasure], Awaitable[Erasure | None]]] = {
    "queued": ErasureService._queued,
    "waiting": ErasureService._waiting,
    "erasing": ErasureService._erasing,
    "checking": ErasureService._checking,
    "compacting": ErasureService._compacting,
}
