"""Intake of events: authenticated, admitted, made durable; with the recently accepted IDs.

The remembered IDs serve the counts in answers and keep duplicates out of the log. The pipeline's own window
(`ingest/duplicate_window.py`) drops every duplicate exactly, also after restarts. An ID becomes known after its commit,
so two simultaneous requests with the same ID may both be answered `accepted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from itertools import count, repeat
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import structlog

from trustwatch.ingest.compilation import KernelGate, KernelPart
from trustwatch.ingest.described import member
from trustwatch.ingest.errors import CorruptLog, MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.history.time_order import record_time_order
from trustwatch.ingest.log.event_log import LogFailed
from trustwatch.ingest.log.group_commit import Backpressure, GroupCommit
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.scan.claim_reader import (
    CLAIM_KNOWN,
    CLAIM_NEW,
    CLAIM_SLOTS,
    CLAIM_UNREADABLE,
    BatchClaims,
    BatchSender,
    ClaimReader,
    unread_claims,
)
from trustwatch.ingest.source import Record, RecordKind

from ..http.auth.callers import SourceBinding
from ..http.ledger import Overloaded, TooManyAgents, party_of
from .admission import MAX_CLOCK_AHEAD_S, Admission, RefusedRecords, is_text
from .intake_limits import IntakeLimits

MAX_SENDERS = 1024  # Bindings whose number is remembered; numbers are never used again

AdmissionOutcome = Record | MalformedEvent | SourceNotAllowed


class BatchOutcome(NamedTuple):
    outcomes: list[AdmissionOutcome]  # in the batch's order
    slow_path_records: int  # how many the compiled path left to the slow path


class BatchAdmission:
    """Admits batches with the same outcomes as `Admission.admit` for each record. For one thread.

    Apart from its time, a plain record is admitted by its claim: the sender, and the event's tenant, issuer, source and
    agent; if the sender is authorized only for some agents, also the other agents that the event names. If `Admission`
    has accepted a record with that claim unchanged, it would accept every other one, so those are not decoded.
    `Admission` judges every refused, changed or unusual record.
    """

    def __init__(
        self, admission: Admission, salt: bytes, claim_slots: int = CLAIM_SLOTS, *, compiled_elsewhere: bool = False
    ) -> None:
        self._admission = admission
        self._reader = ClaimReader(salt, admission.identities, claim_slots)
        self._senders: dict[SourceBinding, BatchSender] = {}
        self._next_sender_number = count()
        self._gate = KernelGate(KernelPart.READING, compiled_elsewhere=compiled_elsewhere)
        if self._gate.is_open():
            self._reader.read([b"{}"], BatchSender(-1, ""), 0, aliased=False)  # compiled or loaded now, in no request

    def admit(self, raw_records: Sequence[RawRecord], binding: SourceBinding, now_ms: int) -> BatchOutcome:
        """Admit the records of one body."""
        if len(raw_records) == 1:  # the compiled path is faster from two records on
            try:
                record = self._admission.admit(raw_records[0], binding, now_ms)
            except (MalformedEvent, SourceNotAllowed) as error:
                return BatchOutcome([error], slow_path_records=1)
            return BatchOutcome([record], slow_path_records=1)
        payloads: list[bytes] = []
        wrong: dict[int, MalformedEvent] = {}
        for position, (raw, to_native, *_) in enumerate(raw_records):
            try:
                payloads.append(raw if to_native is None else to_native())
            except MalformedEvent as error:
                wrong[position] = error
                payloads.append(b"")
        claims = self._read_claims(payloads, binding, now_ms + 1000 * MAX_CLOCK_AHEAD_S)
        # The kernel skips unknown members, which may be invalid UTF-8: `Admission` refuses those.
        claims.state[[at for at, payload in enumerate(payloads) if not is_text(payload)]] = CLAIM_UNREADABLE
        outcomes = self._fast_path_records(payloads, claims, now_ms)
        slow_positions = np.flatnonzero(claims.state != CLAIM_KNOWN).tolist()
        for position in slow_positions:
            outcome = wrong.get(position) or self._admit_on_slow_path(
                payloads[position], raw_records[position].path_prefix, binding, now_ms, claims, position
            )
            outcomes[position] = outcome
        return BatchOutcome(outcomes, len(slow_positions))

    def _read_claims(self, payloads: list[bytes], binding: SourceBinding, latest_ms: int) -> BatchClaims:
        if not self._gate.is_open():
            return unread_claims(len(payloads))
        sender = self._senders.get(binding)
        if sender is None:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.clear()
            number, caller = next(self._next_sender_number), binding.source_without_name
            sender = self._senders[binding] = BatchSender(number, caller, binding.is_bounded)
        return self._reader.read(payloads, sender, latest_ms, aliased=self._admission.alias is not None)

    def _fast_path_records(self, payloads: list[bytes], claims: BatchClaims, now_ms: int) -> list[AdmissionOutcome]:
        """Return the records of all known claims. Other positions hold placeholders."""
        is_known = claims.state == CLAIM_KNOWN
        if not is_known.any():
            return [_PLACEHOLDER] * len(payloads)
        key_numbers = np.where(is_known, claims.key_numbers, 0).tolist()
        partition_keys = map(self._reader.partition_keys.__getitem__, key_numbers)
        return list(
            map(
                Record._make,
                zip(repeat(RecordKind.EVENT), claims.ids.tolist(), repeat(now_ms), payloads, partition_keys),
            )
        )

    def _admit_on_slow_path(
        self, payload: bytes, prefix: str, binding: SourceBinding, now_ms: int, claims: BatchClaims, position: int
    ) -> AdmissionOutcome:
        try:
            record = self._admission.admit_native(payload, binding, now_ms, prefix)
        except (MalformedEvent, SourceNotAllowed) as error:
            return error
        by_scopes = bool(self._admission.scope_actions) and b'"capabilities"' in payload
        if claims.state[position] == CLAIM_NEW and record.payload is payload and not by_scopes:
            self._reader.remember(claims.fingerprints[position], record.key)
        return record


_PLACEHOLDER = Record(RecordKind.EVENT, 0, 0, b"")


IDS_PER_GENERATION = 131_072
"""Number of IDs per generation, about 12 MB. One to two generations are remembered."""


@dataclass(eq=False, repr=False)
class RecentEventIds:
    """A bounded set that drops its oldest half at once."""

    generation: int = IDS_PER_GENERATION
    _young: set[int] = field(default_factory=set, init=False)
    _old: set[int] = field(default_factory=set, init=False)

    def __contains__(self, id_hash: int) -> bool:
        return id_hash in self._young or id_hash in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def isdisjoint(self, id_hashes: Set[int]) -> bool:
        """Return whether none of the IDs is in the set."""
        return self._young.isdisjoint(id_hashes) and self._old.isdisjoint(id_hashes)

    def add(self, id_hashes: Iterable[int]) -> None:
        """Add the IDs of durable events."""
        self._young.update(id_hashes)
        if len(self._young) >= self.generation:
            self._old, self._young = self._young, set()


FIRST_SLICE_RECORDS, SLICE_RECORDS = 32, 128
"""Records admitted per slice (0.3 ms): more if the first ones took the fast path. All larger bodies together get one
slice in each turn of the event loop, so that answers stay fast."""

MAX_COMMIT_BYTES = 8 * 1024 * 1024
"""Maximum payload of one commit. A larger body is committed in parts, and answered after the last."""

MAX_LISTED_REJECTIONS = 100  # Rejections that a receipt lists

_log = structlog.get_logger(__name__)


class Rejection(msgspec.Struct, frozen=True):
    """A record that was refused. `dead_letter_id` is empty if it was not stored."""

    index: Annotated[int, member("position in the body, from 0; skipped records are not counted")]
    path: Annotated[str, member("JSON path of what is wrong", "$.agent.id")]
    reason: Annotated[str, member("what is wrong there", "Object missing required field `time`")]
    dead_letter_id: Annotated[str, member("id under which the refused record is kept", "01KAW4ED1JQ4V1S0Z3Y8M4C2QK")]


class Receipt(msgspec.Struct):
    """Result of a body: counts of its records, and the reasons for rejections."""

    accepted: Annotated[int, member("records that are in the log now", 25)] = 0
    duplicate: Annotated[int, member("records that were already stored", 0)] = 0
    rejected: Annotated[int, member("records that were refused", 1)] = 0
    skipped: Annotated[int, member("records that are not audit events; only for external formats", 0)] = 0
    rejections: Annotated[list[Rejection], member("the first refused records")] = []
    rejections_omitted: Annotated[int, member("refused records that are not listed", 0)] = 0

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection, and list it if there is room."""
        self.rejected += 1
        if len(self.rejections) < MAX_LISTED_REJECTIONS:
            self.rejections.append(rejection)
        else:
            self.rejections_omitted += 1


@dataclass(eq=False, repr=False)
class _IncomingBody:
    """A body that is being received. *nonce* is part of dead letter IDs; "" means that refused records are not kept."""

    binding: SourceBinding
    now_ms: int
    nonce: str

    def __post_init__(self) -> None:
        self.receipt = Receipt()
        self.records: list[Record] = []
        self.id_hashes: set[int] = set()
        self.too_many_agents: TooManyAgents | None = None
        self.only_new_agents = True
        self._refused = (
            RefusedRecords(
                self.now_ms,
                party_of(self.binding),
                lambda index: record_id(self.now_ms, "edge", f"{self.nonce}:{index}"),
            )
            if self.nonce
            else None
        )

    def reject(self, raw_record: RawRecord, error: MalformedEvent | SourceNotAllowed, index: int) -> None:
        if isinstance(error, TooManyAgents):
            self.too_many_agents = error
        else:
            self.only_new_agents = False
        letter_id = "" if self._refused is None else self._refused.add(raw_record, error, index)
        self.receipt.reject(Rejection(index, error.path, error.reason, letter_id))

    def dead_letters(self) -> list[Record]:
        return [] if self._refused is None else [letter.record for letter in self._refused.letters()]


@dataclass(eq=False, repr=False)
class EventIntake:
    """Receives events and makes them durable. For one event loop."""

    log: GroupCommit
    admission: Admission
    limits: IntakeLimits
    clock: Callable[[], float]
    new_id: Callable[[], str]
    _: KW_ONLY
    compiled_elsewhere: bool = False

    def __post_init__(self) -> None:
        self._admission = BatchAdmission(
            self.admission, self.new_id().encode(), compiled_elsewhere=self.compiled_elsewhere
        )
        self._recent_ids = RecentEventIds()
        self._slice_lock = asyncio.Lock()

    async def receive(
        self,
        raw_records: Sequence[RawRecord],
        binding: SourceBinding,
        *,
        keep_refused: bool = True,
        in_time_order: bool = False,
    ) -> Receipt:
        """Admit records, and make accepted and refused ones durable. Raises Overloaded, LogFailed.

        Records of too many new agents are refused. If there are no others, nothing is kept, and Overloaded is raised.
        """
        body = _IncomingBody(binding, int(self.clock() * 1000), self.new_id() if keep_refused else "")
        if len(raw_records) <= FIRST_SLICE_RECORDS:
            self._admit_slice(raw_records, 0, body)
        else:
            start, step = 0, FIRST_SLICE_RECORDS
            while start < len(raw_records):
                async with self._slice_lock:
                    slow_path_records = self._admit_slice(raw_records[start : start + step], start, body)
                    await asyncio.sleep(0)
                start += step
                step = SLICE_RECORDS if 8 * slow_path_records <= step else FIRST_SLICE_RECORDS
        limit = body.too_many_agents
        if limit is not None and body.only_new_agents and not body.records and not body.receipt.duplicate:
            raise Overloaded("agents", limit.reason, limit.wait_s)
        if in_time_order and len(body.records) <= SLICE_RECORDS:
            body.records = record_time_order(body.records)
        elif in_time_order:  # in a thread, so that answers stay fast
            body.records = await asyncio.to_thread(record_time_order, body.records)
        body.records += body.dead_letters()
        await self._commit(body.records, binding)
        body.receipt.accepted = len(body.id_hashes)
        self._recent_ids.add(body.id_hashes)
        return body.receipt

    def _admit_slice(self, raw_records: Sequence[RawRecord], start: int, body: _IncomingBody) -> int:
        """Admit a slice that begins at *start*, and return how many records needed the slow path."""
        admitted = self._admission.admit(raw_records, body.binding, body.now_ms)
        ids = {outcome.id_hash for outcome in admitted.outcomes if isinstance(outcome, Record)}
        are_all_new = len(ids) == len(raw_records) and ids.isdisjoint(body.id_hashes)
        if are_all_new and self._recent_ids.isdisjoint(ids):
            body.id_hashes |= ids
            body.records += admitted.outcomes  # type: ignore[arg-type]
            return admitted.slow_path_records
        for index, (raw_record, outcome) in enumerate(zip(raw_records, admitted.outcomes, strict=True), start):
            if not isinstance(outcome, Record):
                body.reject(raw_record, outcome, index)
            elif outcome.id_hash in body.id_hashes or outcome.id_hash in self._recent_ids:
                body.receipt.duplicate += 1
            else:
                body.id_hashes.add(outcome.id_hash)
                body.records.append(outcome)
        return admitted.slow_path_records

    async def reject_body(self, raw: bytes, binding: SourceBinding, error: MalformedEvent) -> Receipt:
        """Keep a body that cannot be parsed, and count it as one rejected record. Raises the same errors as
        `receive`.
        """
        body = _IncomingBody(binding, int(self.clock() * 1000), self.new_id())
        body.reject(RawRecord(raw), error, 0)
        await self._commit(body.dead_letters(), binding)
        return body.receipt

    async def _commit(self, records: list[Record], binding: SourceBinding | None = None) -> None:
        for part, size in _commit_parts(records):
            try:
                await self.log.commit(part)
            except Backpressure as error:
                raise Overloaded("disk", "too many events wait for the disk", error.retry_after_s) from error
            except CorruptLog as error:
                _log.error("event_log_damaged", error=str(error))
                raise LogFailed("the event log is damaged") from error
            self.limits.observe_commit(len(part), size)
            if binding is not None:
                self.limits.count_bytes(binding, size)

    async def write_control_record(self, payload: bytes, partition_key: bytes) -> None:
        """Log an operator's command about the agent of *partition_key*. Raises as `receive` does."""
        await self._commit([Record(RecordKind.CONTROL, 0, int(self.clock() * 1000), payload, partition_key)])


def _commit_parts(records: list[Record]) -> Iterator[tuple[list[Record], int]]:
    part: list[Record] = []
    size = 0
    for record in records:
        if part and size + len(record.payload) > MAX_COMMIT_BYTES:
            yield part, size
            part, size = [], 0
        part.append(record)
        size += len(record.payload)
    if part:
        yield part, size
