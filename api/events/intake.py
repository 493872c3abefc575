"""Intake of events: authenticated, admitted, made durable; with the ids that were accepted lately.

Only for the counts of answers and to spare the log: the pipeline's own window (`ingest/duplicate_window.py`) is the one
that drops every duplicate exactly, across restarts too. An id becomes known after its commit, so two requests that
carry the same id at the same moment may both be answered `accepted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import msgspec
import structlog

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import CorruptLog, MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.history.time_order import record_time_order
from trustwatch.ingest.log.event_log import LogFailed
from trustwatch.ingest.log.group_commit import Backpressure, GroupCommit
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import Record, RecordKind

from ..http.auth.callers import SourceBinding
from .admission import Admission
from .batch_admission import AdmissionOutcome, BatchAdmission
from .intake_limits import IntakeLimits, Overloaded
from .refused_records import RefusedRecords

IDS_PER_GENERATION = 131_072
"""Ids of one generation, about 12 MB; at least one and at most two generations are remembered."""


@dataclass(eq=False, repr=False)
class RecentEventIds:
    """A bounded set that forgets the oldest half at once."""

    generation: int = IDS_PER_GENERATION

    def __post_init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, id_hash: int) -> bool:
        return id_hash in self._young or id_hash in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def isdisjoint(self, id_hashes: Set[int]) -> bool:
        """True if none of them is remembered."""
        return self._young.isdisjoint(id_hashes) and self._old.isdisjoint(id_hashes)

    def add(self, id_hashes: Iterable[int]) -> None:
        """Remember ids whose events are durable."""
        self._young.update(id_hashes)
        if len(self._young) >= self.generation:
            self._old, self._young = self._young, set()


FIRST_SLICE_RECORDS, SLICE_RECORDS = 32, 128
"""Records judged in one go (0.3 ms): more where they turned out to be plain. All larger bodies together get one slice
in each turn of the event loop, so that answers keep their speed."""

MAX_COMMIT_BYTES = 8 * 1024 * 1024
"""Payload of one commit; a larger body is committed in parts, and answered after the last."""

MAX_LISTED_REJECTIONS = 100  # Rejections that a receipt lists

_log = structlog.get_logger(__name__)


class Rejection(msgspec.Struct, frozen=True):
    """One record that was refused. `dead_letter_id` is "" where nothing was kept."""

    index: Annotated[int, member("place in the body, from 0; skipped records do not count")]
    path: Annotated[str, member("JSON path of what is wrong", "$.agent.id")]
    reason: Annotated[str, member("what is wrong there", "Object missing required field `time`")]
    dead_letter_id: Annotated[str, member("id under which the refused record is kept", "01KAW4ED1JQ4V1S0Z3Y8M4C2QK")]


class Receipt(msgspec.Struct):
    """The outcome of a body: counts of its records, and the reasons of those that were refused."""

    accepted: Annotated[int, member("records that are in the log now", 25)] = 0
    duplicate: Annotated[int, member("records that were there already", 0)] = 0
    rejected: Annotated[int, member("records that were refused", 1)] = 0
    skipped: Annotated[int, member("records that are not audit events by design; of foreign formats alone", 0)] = 0
    rejections: Annotated[list[Rejection], member("refused records, the first ones")] = []
    rejections_omitted: Annotated[int, member("refused records that are not listed", 0)] = 0

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection, and list it while there is room."""
        self.rejected += 1
        if len(self.rejections) < MAX_LISTED_REJECTIONS:
            self.rejections.append(rejection)
        else:
            self.rejections_omitted += 1


@dataclass(eq=False, repr=False)
class _IncomingBody:
    """A body on its way in. *nonce*: of the ids of its dead letters; "" = refused records are not kept."""

    binding: SourceBinding
    now_ms: int
    nonce: str

    def __post_init__(self) -> None:
        self.receipt = Receipt()
        self.records: list[Record] = []
        self.id_hashes: set[int] = set()
        self._refused = (
            RefusedRecords(
                self.now_ms, self.binding.name, lambda index: record_id(self.now_ms, "edge", f"{self.nonce}:{index}")
            )
            if self.nonce
            else None
        )

    def reject(self, raw_record: RawRecord, error: MalformedEvent | SourceNotAllowed, index: int) -> None:
        """Count a refused record, and keep it."""
        letter_id = "" if self._refused is None else self._refused.add(raw_record, error, index)
        self.receipt.reject(Rejection(index, error.path, error.reason, letter_id))

    def dead_letters(self) -> list[Record]:
        """Return the refused records, for the log."""
        return [] if self._refused is None else [letter.record for letter in self._refused.letters()]


@dataclass(eq=False, repr=False)
class EventIntake:
    """Takes events in. For one event loop."""

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
        """Judge records and make what is taken, and what is refused, durable. Raises Overloaded, LogFailed."""
        body = _IncomingBody(binding, int(self.clock() * 1000), self.new_id() if keep_refused else "")
        if len(raw_records) <= FIRST_SLICE_RECORDS:
            self._admit_slice(raw_records, 0, body)
        else:
            await self._admit_in_slices(raw_records, body)
        if in_time_order and len(body.records) > 1:
            body.records = await self._in_time_order(body.records)
        body.records += body.dead_letters()
        await self._commit(body.records)
        body.receipt.accepted = len(body.id_hashes)
        self._recent_ids.add(body.id_hashes)
        return body.receipt

    async def _in_time_order(self, records: list[Record]) -> list[Record]:
        """The records sorted; of a large body in a thread, so that answers keep their speed."""
        if len(records) <= SLICE_RECORDS:
            return record_time_order(records)
        return await asyncio.to_thread(record_time_order, records)

    async def _admit_in_slices(self, raw_records: Sequence[RawRecord], body: _IncomingBody) -> None:
        start, step = 0, FIRST_SLICE_RECORDS
        while start < len(raw_records):
            async with self._slice_lock:
                slow_path_records = self._admit_slice(raw_records[start : start + step], start, body)
                await asyncio.sleep(0)
            start += step
            step = SLICE_RECORDS if 8 * slow_path_records <= step else FIRST_SLICE_RECORDS

    def _admit_slice(self, raw_records: Sequence[RawRecord], start: int, body: _IncomingBody) -> int:
        """Judge a slice that begins at *start*; returns how many records were not plain."""
        admitted = self._admission.admit(raw_records, body.binding, body.now_ms)
        if admitted.all_admitted and self._accept_if_all_new(admitted.outcomes, body):
            return admitted.slow_path_records
        for index, (raw_record, outcome) in enumerate(zip(raw_records, admitted.outcomes, strict=True), start):
            if not isinstance(outcome, Record):
                body.reject(raw_record, outcome, index)
            elif not self._is_duplicate(outcome, body):
                body.records.append(outcome)
        return admitted.slow_path_records

    def _accept_if_all_new(self, records: list[AdmissionOutcome], body: _IncomingBody) -> bool:
        """Take events over if no two are the same and none was seen before."""
        ids = {record.id_hash for record in records if isinstance(record, Record)}
        if len(ids) < len(records) or not ids.isdisjoint(body.id_hashes) or not self._recent_ids.isdisjoint(ids):
            return False
        body.id_hashes |= ids
        body.records += records  # type: ignore[arg-type]
        return True

    async def reject_body(self, raw: bytes, binding: SourceBinding, error: MalformedEvent) -> Receipt:
        """Keep a body that could not be taken apart; counts as one rejected record. Raises as `receive`."""
        body = _IncomingBody(binding, int(self.clock() * 1000), self.new_id())
        body.reject(RawRecord(raw), error, 0)
        await self._commit(body.dead_letters())
        return body.receipt

    def _is_duplicate(self, record: Record, body: _IncomingBody) -> bool:
        if record.id_hash in body.id_hashes or record.id_hash in self._recent_ids:
            body.receipt.duplicate += 1
            return True
        body.id_hashes.add(record.id_hash)
        return False

    async def _commit(self, records: list[Record]) -> None:
        for part, size in _commit_parts(records):
            try:
                await self.log.commit(part)
            except Backpressure as error:
                raise Overloaded("disk", "more waits for the disk than may wait", error.retry_after_s) from error
            except CorruptLog as error:
                _log.error("event_log_damaged", error=str(error))
                raise LogFailed("the event log is damaged") from error
            self.limits.observe_commit(len(part), size)

    async def write_control_record(self, payload: bytes, partition_key: bytes) -> None:
        """Log an operator's command about the agent of *partition_key*. Raises as `receive`."""
        await self._commit([Record(RecordKind.CONTROL, 0, int(self.clock() * 1000), payload, partition_key)])


def _commit_parts(records: list[Record]) -> Iterator[tuple[list[Record], int]]:
    """Consecutive records of at most `MAX_COMMIT_BYTES` together, with their size."""
    size = sum(len(record.payload) for record in records)
    if size <= MAX_COMMIT_BYTES:
        if records:
            yield records, size
        return
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
