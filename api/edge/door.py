"""The door: parcels in, one durable commit, a receipt that counts what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import structlog

from ...ingest.errors import CorruptLog, MalformedEvent, SourceNotAllowed
from ...ingest.log import Backpressure, GroupCommit, LogFailed
from ...ingest.source import Kind, Record
from ...scoring.records import record_id
from ..callers import SourceBinding
from .admission import Admission
from .bodies import Parcel
from .errors import Overloaded
from .letters import refused_record
from .limits import Limits
from .recent import RecentIds

SLICE = 100
"""Records judged in one go (about 1 ms); then the event loop gets its turn, so that answers keep their speed."""

COMMIT_BYTES = 8 * 1024 * 1024
"""Payload of one commit; a larger body is committed in parts, and answered after the last."""

MAX_SHOWN = 100
"""Rejections that a receipt lists."""

_log = structlog.get_logger(__name__)


class Rejection(msgspec.Struct, frozen=True):
    """One record that was refused. `dead_letter_id` is "" where nothing was kept."""

    index: int
    path: str
    reason: str
    dead_letter_id: str


class Receipt(msgspec.Struct):
    """What became of a body."""

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    skipped: int = 0
    rejections: list[Rejection] = []
    rejections_omitted: int = 0

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection, and list it while there is room."""
        self.rejected += 1
        if len(self.rejections) < MAX_SHOWN:
            self.rejections.append(rejection)
        else:
            self.rejections_omitted += 1


class Door:
    """Takes events in. For one event loop.

    Args:
        log: where they become durable.
        admission: judges records.
        limits: learns sizes and rates.
        clock: seconds since 1970.
        new_id: text that never repeats, for ids of dead letters.
    """

    def __init__(
        self,
        log: GroupCommit,
        admission: Admission,
        limits: Limits,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.limits = limits
        self._log = log
        self._admission = admission
        self._clock = clock
        self._new_id = new_id
        self._recent = RecentIds()

    async def receive(self, parcels: Sequence[Parcel], binding: SourceBinding, *, keep_refused: bool = True) -> Receipt:
        """Judge *parcels* and make what is taken, and what is refused, durable.

        Args:
            parcels: records of one body, in order.
            binding: what its sender may speak for.
            keep_refused: whether refused records become dead letters.

        Raises:
            Overloaded: the disk does not keep up; nothing was acknowledged.
            LogFailed: the disk refuses; nothing was acknowledged, and what of it was written is dropped as a duplicate
                when it is sent again.
        """
        receipt, records, now_ms = Receipt(), [], int(self._clock() * 1000)
        request, mine = self._new_id(), set[int]()
        for start in range(0, len(parcels), SLICE):
            if start:
                await asyncio.sleep(0)
            for index, parcel in enumerate(parcels[start : start + SLICE], start):
                record = self._judge(
                    parcel, binding, now_ms, receipt, f"{request}:{index}" if keep_refused else "", index
                )
                if record is not None and not self._seen(record, mine, receipt):
                    records.append(record)
        await self._commit(records)
        receipt.accepted = len(mine)
        self._recent.add(mine)
        return receipt

    async def refuse(self, raw: bytes, binding: SourceBinding, error: MalformedEvent) -> Receipt:
        """Keep a body that could not be taken apart; counts as one rejected record. Raises as `receive`."""
        receipt, now_ms = Receipt(), int(self._clock() * 1000)
        await self._commit([self._letter(raw, binding, now_ms, error, receipt, self._new_id(), 0)])
        return receipt

    def _judge(
        self, parcel: Parcel, binding: SourceBinding, now_ms: int, receipt: Receipt, nonce: str, index: int
    ) -> Record | None:
        try:
            return self._admission.admit(parcel, binding, now_ms)
        except (MalformedEvent, SourceNotAllowed) as error:
            if nonce:
                return self._letter(parcel.raw, binding, now_ms, error, receipt, nonce, index)
            receipt.reject(Rejection(index, error.path, error.reason, ""))
            return None

    def _letter(
        self,
        raw: bytes,
        binding: SourceBinding,
        now_ms: int,
        error: MalformedEvent | SourceNotAllowed,
        receipt: Receipt,
        nonce: str,
        index: int,
    ) -> Record:
        letter_id = record_id(now_ms, "edge", nonce)
        receipt.reject(Rejection(index, error.path, error.reason, letter_id))
        return refused_record(letter_id, now_ms, binding.name, error.reason, error.path, raw)

    def _seen(self, record: Record, mine: set[int], receipt: Receipt) -> bool:
        if record.kind != Kind.EVENT:
            return False
        if record.id_hash in mine or record.id_hash in self._recent:
            receipt.duplicate += 1
            return True
        mine.add(record.id_hash)
        return False

    async def _commit(self, records: list[Record]) -> None:
        for part, size in _parts(records):
            try:
                await self._log.commit(part)
            except Backpressure as error:
                raise Overloaded("disk", "more waits for the disk than may wait", error.retry_after_s) from error
            except CorruptLog as error:
                _log.error("event_log_damaged", error=str(error))
                raise LogFailed("the event log is damaged") from error
            self.limits.logged(len(part), size)

    async def control(self, payload: bytes, route: bytes) -> None:
        """Log an operator's command about the agent that *route* leads to. Raises as `receive`."""
        await self._commit([Record(Kind.CONTROL, 0, int(self._clock() * 1000), payload, route)])


def _parts(records: Iterable[Record]) -> Iterator[tuple[list[Record], int]]:
    """Consecutive records of at most COMMIT_BYTES together, with their size."""
    part: list[Record] = []
    size = 0
    for record in records:
        if part and size + len(record.payload) > COMMIT_BYTES:
            yield part, size
            part, size = [], 0
        part.append(record)
        size += len(record.payload)
    if part:
        yield part, size
