"""Reception of shared signals: verified, limited to their transmitter's authorization, and written to the event log.

A signal takes the way of every other event (`EventIntake`), so it is durable before it is acknowledged. Its `jti` is
the id of its event: what is sent again after a crash is dropped by the pipeline as a duplicate, and from then on by the
store, which remembers identifiers for as long as a signal may count.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.formats.received_signals import (
    STREAM_EVENTS,
    VERIFICATION,
    SignalSubject,
    Treatment,
    build_signal_event,
    find_signal_rule,
    read_signal_subjects,
)
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.printable_text import printable_line
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.store.security_event_store import ReceivedSignalStore, SignalStatement, signal_digest

from ..events.intake import EventIntake
from ..http.auth.callers import SourceBinding
from ..http.auth.jwks import FETCH_TIMEOUT_S, JwksCache
from ..http.auth.set_verification import MAX_SET_BYTES, SetEarly, SetKeyUnknown, SetRefused, verify_security_event
from ..http.auth.signing import SetDecryption
from ..http.auth.token_verification import LEEWAY_S
from ..http.refused_callers import LineLimit
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import ANY_NAME, IssuerSettings
from ..settings.shared_signals_settings import SIGNAL_SOURCE_PREFIX, SignalTransmitterSettings
from .transmitter_context import VerificationStates, refused_state, state_digest, state_of

UPKEEP_EVERY_S: Final = 60.0  # Interval at which old identifiers are removed and counted
ROTATE_EVERY_S: Final = 3_600.0
MAX_LOGGED_CHARS: Final = 200
MAX_AGE_S: Final = 259_200.0
"""A token that is older counts for nothing, and is on record alone; so long identifiers are remembered: a weekend."""
MAX_REMEMBERED: Final = 100_000  # Tokens of one transmitter that are remembered; beyond, it has to wait
KEYS_AGAIN_S: Final = 1.0
"""Least time between two fetches of the keys of a transmitter for its SETs, s. It has authenticated, so one wrong SET
must not delay the next one for as long as an unknown sender is delayed."""

_log = structlog.get_logger(__name__)


class NotNow(Exception):
    """A SET cannot be judged or kept now: it comes again."""

    retry_after_s: float = 10.0  # when another attempt makes sense
    status: int = 503  # of HTTP, for who pushed it


class KeysMissing(NotNow):
    """The key of a SET is unavailable."""


class FromTheFuture(NotNow):
    """The clock of the transmitter is ahead of ours."""

    retry_after_s = 60.0


class MemoryFull(NotNow):
    """So many SETs of the transmitter are remembered that only hard signals find room."""

    retry_after_s = 300.0
    status = 429


SetAnswer = SetRefused | NotNow | None
"""Outcome of a SET: why it is refused or cannot be judged yet; None = it is taken."""


class ReceivedSet(NamedTuple):
    """A SET that was verified, and what becomes of it."""

    claims: Mapping[str, Any]  # of the SET
    digest: str  # of its `jti`
    outcome: str  # for counts; a believed SET is counted by its treatment
    event: bytes | None = None  # audit event to write; None = acknowledged and not believed
    statement: str = ""  # its statement about its subject, as evidence; "" = none
    state: str = ""  # digest of the `state` of a verification that we requested; "" = none


class SignalTransmitter:
    """One transmitter: its identity, and what it is authorized for."""

    def __init__(self, settings: SignalTransmitterSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.issuer: IssuerSettings = settings.as_issuer()
        self.source = SIGNAL_SOURCE_PREFIX + settings.name
        self.binding = SourceBinding(settings.as_source(), ours=True)
        self.remembered = 0

    def has_room_for(self, received: ReceivedSet) -> bool:
        """False if a SET has to wait since so many are remembered. Noise cannot shut out a compromise: hard signals
        wait only at twice as many."""
        most = MAX_REMEMBERED * (2 if received.outcome == "hard" else 1)
        return self.remembered < most or received.event is None

    def subject_of(self, subject: SignalSubject) -> SignalSubject | None:
        """Whom a signal is about, completed by the settings; None = the transmitter is not authorized for them."""
        tenant = subject.tenant or self.binding.default_tenant or ""
        issuer = subject.issuer or self.binding.default_issuer or ""
        agent_id = self.settings.subjects.get(subject.agent_id, subject.agent_id)
        if not tenant or tenant == ANY_NAME or not self.binding.may_speak_for(tenant, issuer, agent_id):
            return None
        return subject._replace(tenant=tenant, issuer=issuer, agent_id=agent_id)


@dataclass(eq=False, repr=False)
class SignalReceiver:
    """Takes the SETs of all configured transmitters. For one event loop; start and close it."""

    transmitters: Mapping[str, SignalTransmitter]
    _intake: EventIntake
    _store: ReceivedSignalStore
    _executor: StoreExecutor
    _identities: IdentityHasher
    _clock: Callable[[], float]
    _monotonic: Callable[[], float]
    _states: VerificationStates
    decryption: SetDecryption | None
    _ca_file: Path | None

    def __post_init__(self) -> None:
        issuers = [transmitter.issuer for transmitter in self.transmitters.values()]
        self.jwks = JwksCache(issuers, self._clock, self._monotonic, self._ca_file)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """What became of SETs in this process, by transmitter and outcome."""
        self._rotated_at = float("-inf")
        self._refusals = LineLimit(self._monotonic)
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch keys, and keep keys and memory in order until `close`."""
        await self.jwks.start()
        self._upkeep = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Stop fetching and removing."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self.jwks.close()

    async def take(self, transmitter: SignalTransmitter, tokens: Sequence[bytes]) -> list[SetAnswer]:
        """Judge SETs, and make what is believed of them durable; one answer each.

        A SET that was taken before is answered as if it were new. Raises Unavailable.
        """
        since = self._monotonic()
        verified = [await self._verify(transmitter, token, since) for token in tokens]
        verified = await self._refuse_used_states(transmitter, verified)
        received = await self._judge(transmitter, [claims for claims in verified if isinstance(claims, dict)])
        fitting = [one for one in received if transmitter.has_room_for(one)]
        waiting = {one.digest for one in received} - {one.digest for one in fitting}
        await self._write(transmitter, fitting)
        answers: list[SetAnswer] = []
        for outcome in verified:
            if isinstance(outcome, dict):
                answers.append(MemoryFull() if signal_digest(outcome["jti"]) in waiting else None)
                continue
            answers.append(outcome)
            if isinstance(outcome, SetRefused):
                self.outcomes[transmitter.name, outcome.err] += 1
        if put_off := {type(answer).__name__ for answer in answers if isinstance(answer, NotNow)}:
            _log.warning("signals_wait", transmitter=transmitter.name, error=", ".join(sorted(put_off)))
        return answers

    async def _verify(
        self, transmitter: SignalTransmitter, token: bytes, since: float
    ) -> dict[str, Any] | SetRefused | NotNow:
        try:
            claims = await self._verified_by(transmitter, await self._opened(transmitter, token), since)
            if VERIFICATION in claims["events"]:
                await asyncio.to_thread(self._states.check, claims, transmitter.name, MAX_AGE_S)
            return claims
        except NotNow as put_off:
            return put_off
        except SetEarly:
            return FromTheFuture()
        except ConfigError as error:
            _log.error("signals_wait", transmitter=transmitter.name, error=str(error))
            return KeysMissing(transmitter.name)
        except SetRefused as refused:
            return self._log_refusal(transmitter, refused)

    def _log_refusal(self, transmitter: SignalTransmitter, refused: SetRefused) -> SetRefused:
        why = refused.description
        self._refusals.write(_log.warning, "set_refused", transmitter=transmitter.name, err=refused.err, why=why)
        return refused

    async def _opened(self, transmitter: SignalTransmitter, token: bytes) -> str:
        """Return a SET, decrypted if it is a JWE. Raises SetRefused, ConfigError."""
        if len(token) > MAX_SET_BYTES:
            raise SetRefused("invalid_request", f"a SET may have {MAX_SET_BYTES} bytes")
        try:
            text = token.decode("ascii").strip()
        except UnicodeDecodeError:
            raise SetRefused("invalid_request", "the body is not a SET in compact form") from None
        expected = transmitter.settings.encrypted
        if text.count(".") != 4:  # a JWE has five parts (RFC 7516, section 9)
            if expected == "require":
                raise SetRefused("invalid_request", "SETs of this transmitter are taken encrypted (JWE) alone")
            return text
        if expected == "refuse" or self.decryption is None:
            raise SetRefused("invalid_request", "encrypted SETs (JWE) are not read here; send a signed one")
        return await asyncio.to_thread(self.decryption.decrypt, text)

    async def _verified_by(self, transmitter: SignalTransmitter, text: str, since: float) -> dict[str, Any]:
        """Return the claims of a SET. Raises SetRefused, SetEarly, KeysMissing.

        A key counts as unknown only if the keys were fetched *since* the SET came: a new key may be published a moment
        before it is used.
        """
        try:
            return self._verify_now(transmitter, text)
        except (SetKeyUnknown, KeysMissing):
            issuer = transmitter.issuer.issuer
            if self.jwks.is_fetched_since(issuer, since):
                raise
            fetch = self.jwks.refresh_soon(issuer, KEYS_AGAIN_S)
            if fetch is not None:
                await asyncio.wait([fetch], timeout=FETCH_TIMEOUT_S)
            if not self.jwks.is_fetched_since(issuer, since):
                raise KeysMissing(transmitter.name) from None
        return self._verify_now(transmitter, text)

    def _verify_now(self, transmitter: SignalTransmitter, text: str) -> dict[str, Any]:
        keys = self.jwks.keys(transmitter.issuer.issuer)
        if keys is None:
            raise KeysMissing(transmitter.name)
        return verify_security_event(text, transmitter.issuer, keys, self._clock())

    async def _refuse_used_states(
        self, transmitter: SignalTransmitter, verified: list[dict[str, Any] | SetRefused | NotNow]
    ) -> list[dict[str, Any] | SetRefused | NotNow]:
        """The same, but one state is the answer to one verification: that one may come again, another may not."""
        with_states = [outcome for outcome in verified if isinstance(outcome, dict) and state_of(outcome)]
        if not with_states:
            return verified
        digests = [digest for outcome in with_states for digest in (signal_digest(outcome["jti"]), state_of(outcome))]
        taken = await self._executor(self._store.find_taken, transmitter.name, digests)
        return [
            self._log_refusal(transmitter, refused_state("was answered before"))
            if isinstance(outcome, dict) and state_of(outcome) in taken and signal_digest(outcome["jti"]) not in taken
            else outcome
            for outcome in verified
        ]

    async def _judge(self, transmitter: SignalTransmitter, claims: Sequence[Mapping[str, Any]]) -> list[ReceivedSet]:
        by_digest = {signal_digest(set_claims["jti"]): set_claims for set_claims in claims}
        if not by_digest:
            return []
        taken = await self._executor(self._store.find_taken, transmitter.name, list(by_digest))
        self.outcomes[transmitter.name, "duplicate"] += len(claims) - len(by_digest.keys() - taken)
        new = {digest: set_claims for digest, set_claims in by_digest.items() if digest not in taken}
        received = [self._judge_one(transmitter, digest, set_claims) for digest, set_claims in new.items()]
        return await self._claim_evidence(transmitter, received)

    def _judge_one(
        self, transmitter: SignalTransmitter, digest: str, claims: Mapping[str, Any], believed: Treatment | None = None
    ) -> ReceivedSet:
        ((event_type, members),) = claims["events"].items()
        rule = find_signal_rule(event_type, members)
        if rule is None:
            return ReceivedSet(claims, digest, "unknown_type")
        state = state_of(claims)
        if state:
            _log.info("signal_stream_verified", transmitter=transmitter.name)
            return ReceivedSet(claims, digest, "verified", state=state)
        if rule.treatment is None:
            # A stream that stopped, or trust that changed, is for people.
            names = (name for name in ("status", "trust_domain", "reason") if name in members)
            shown = {name: printable_line(str(members[name]), MAX_LOGGED_CHARS) for name in names}
            _log.warning("signal_about_no_agent", transmitter=transmitter.name, event_type=event_type, **shown)
            return ReceivedSet(claims, digest, "stream" if event_type in STREAM_EVENTS else "no_agent")
        named = read_signal_subjects(claims["sub_id"])
        if not named:
            return ReceivedSet(claims, digest, "no_agent")
        subject = next((resolved for read in named if (resolved := transmitter.subject_of(read)) is not None), None)
        if subject is None or not transmitter.settings.may_speak_of(event_type):
            return ReceivedSet(claims, digest, "not_covered")
        now = self._clock()
        stale = claims["iat"] < now - MAX_AGE_S
        treatment: Treatment = "note" if stale else believed or rule.treatment
        event = build_signal_event(claims, rule, subject, treatment, transmitter.source, now, stale=stale)
        try:
            encoded = msgspec.json.encode(event)
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can name and no event can hold
            return ReceivedSet(claims, digest, "no_agent")
        key, check = self._identities.agent_hash(subject.tenant, subject.issuer, subject.agent_id)
        said = f"{key:016x}{check:016x} {rule.action}" if treatment == "evidence" else ""
        return ReceivedSet(claims, digest, "stale" if stale else treatment, encoded, said and signal_digest(said))

    async def _claim_evidence(
        self, transmitter: SignalTransmitter, received: Sequence[ReceivedSet]
    ) -> list[ReceivedSet]:
        """Return the same sets, in which evidence counts once a day: repeating a statement adds nothing.

        It is claimed before it is written, so that of two that come at the same time one counts.
        """
        statements = [SignalStatement(one.digest, one.statement) for one in received if one.statement]
        if not statements:
            return list(received)
        now_ms = int(self._clock() * 1000)
        counting = await self._executor.write(self._store.claim, transmitter.name, statements, now_ms)
        return [
            self._judge_one(transmitter, received_set.digest, received_set.claims, "note")._replace(outcome="repeated")
            if received_set.statement and received_set.digest not in counting
            else received_set
            for received_set in received
        ]

    async def _write(self, transmitter: SignalTransmitter, received: Sequence[ReceivedSet]) -> None:
        """Make events durable, then remember the SETs, and only then count them."""
        with_events = [received_set for received_set in received if received_set.event is not None]
        rejected: set[str] = set()
        if with_events:
            records = [RawRecord(received_set.event or b"") for received_set in with_events]
            receipt = await self._intake.receive(records, transmitter.binding, keep_refused=False)
            for rejection in receipt.rejections:  # a bug of this service: what it may not say was left out before
                _log.error("signal_rejected", transmitter=transmitter.name, path=rejection.path, why=rejection.reason)
                rejected.add(with_events[rejection.index].digest)
        # What became no event has no effect, so coming again it has none either: it takes no room of those that have.
        kept = [received_set for received_set in received if received_set.event is not None or received_set.state]
        digests = [digest for received_set in kept for digest in (received_set.digest, received_set.state) if digest]
        await self._executor.write(self._store.add, transmitter.name, digests, int(self._clock() * 1000))
        transmitter.remembered += len(digests)
        for received_set in received:
            outcome = "rejected" if received_set.digest in rejected else received_set.outcome
            self.outcomes[transmitter.name, outcome] += 1

    def refuse(self, transmitter: SignalTransmitter, refused: SetRefused) -> SetRefused:
        """Count a refusal that was found before any SET was read."""
        self.outcomes[transmitter.name, refused.err] += 1
        return refused

    async def has_verified(self, transmitter: str, state: str) -> bool:
        """True if a verification with that state has come, to whichever process."""
        return bool(await self._executor(self._store.find_taken, transmitter, [state_digest(state)]))

    async def _keep_up(self) -> None:
        while True:
            try:
                now = self._monotonic()
                if self.decryption is not None and now - self._rotated_at >= ROTATE_EVERY_S:
                    self._rotated_at = now
                    await asyncio.to_thread(self.decryption.rotate)
                await self.look_after_memory()
            except ConfigError as error:
                _log.error("decryption_keys", error=str(error))
            except Exception as error:  # the store is unavailable: the next look tries again
                _log.warning("signals_not_forgotten", error=type(error).__name__)
            await asyncio.sleep(UPKEEP_EVERY_S)

    async def look_after_memory(self) -> None:
        """Remove identifiers of SETs that would count for nothing any more, and count the others."""
        now_s = self._clock()
        before_ms = int((now_s - MAX_AGE_S - LEEWAY_S) * 1000)
        await self._executor.write(self._store.forget, before_ms, int(now_s * 1000) - DAY_MS)
        counts = await self._executor(self._store.count_taken)
        for name, transmitter in self.transmitters.items():
            transmitter.remembered = counts.get(name, 0)
