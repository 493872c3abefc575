"""Bodies with events, of all routes: read within bounds, parsed, received, counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.bodies import (
    MAX_BODY_BYTES,
    BodyFormat,
    BodyTooLarge,
    ReadBody,
    read_body,
    read_body_in_worker,
)
from trustwatch.ingest.formats.cloudevents import structured_record
from trustwatch.ingest.formats.format_registry import MEDIA_TYPE_FORMATS
from trustwatch.ingest.formats.raw_records import FormatParser, RawRecord, rejected_record
from trustwatch.ingest.formats.record_mapping import RecordMapping
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.partition_store import DeadLetterCounts

from ..http.agent_lookup import not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller, SourceBinding, TenantNotAllowed, binding_of_caller, token_issuer
from ..http.ledger import HeldBody, Ledger, Party, party_of
from ..http.problems import ProblemDetails, ProblemError
from ..http.prometheus_metrics import ServiceMetrics
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from ..http.worker_pool import WorkerPool
from .ingest_status import SilenceDetector
from .intake import EventIntake, Receipt


def parse_foreign_dead_letter(raw: bytes, parser: FormatParser) -> list[RawRecord]:
    """Parse the records of a dead letter in a foreign format. If this fails, it is refused again."""
    if isinstance(parser, RecordMapping):
        parser = parser.without_wrapper()  # a letter holds a record, which was cut before it was refused
    try:
        return parser(raw, {}).records
    except MalformedEvent as error:
        return [rejected_record(raw, error)]


def parse_dead_letter(raw: bytes) -> RawRecord:
    """Parse a dead letter, which does not state its format. CloudEvents are recognized by their members."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return RawRecord(raw)
    return structured_record(raw) if "specversion" in members else RawRecord(raw)


PACKED_BULK_BYTES = 1024
"""Compressed bytes above which a body is read in the pool: they may grow a thousandfold."""
FOREIGN_BULK_BYTES = 4 * 1024  # Bytes above which foreign records are: about ten of them
NATIVE_BULK_BYTES = 512 * 1024  # Bytes above which native records are: they are only cut

_READ_HEADERS = ("content-type", "ce-")  # Beginnings of headers that formats read


@dataclass(eq=False, repr=False)
class EventService:
    """Receives events from callers. For one event loop."""

    runtime: Runtime
    intake: EventIntake
    silence: SilenceDetector
    metrics: ServiceMetrics
    ledger: Ledger
    pool: WorkerPool

    async def receive(
        self,
        caller: AuthenticatedCaller,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        body_format: BodyFormat,
    ) -> Receipt:
        """Receive a body. Raises BodyTooLarge, UnsupportedBody, UnprocessableWork, Overloaded, LogFailed,
        TenantNotAllowed.
        """
        binding = caller.binding
        if not binding.tenants:
            raise TenantNotAllowed("this caller is bound to no tenant, so it may send no events")
        with self.ledger.counted(binding.name):
            receipt = await self._receive_within_limits(binding, headers, chunks, body_format)
        self.count(binding, receipt)
        self.silence.note_received(binding.name, self.runtime.monotonic(), self.runtime.now_ms())
        return receipt

    async def _receive_within_limits(
        self,
        binding: SourceBinding,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        body_format: BodyFormat,
    ) -> Receipt:
        limits, party = self.intake.limits, party_of(binding)
        limits.check(binding)
        declared = headers.get("content-length", "")
        if declared.isdigit() and _is_bulk(headers, int(declared), body_format):
            self.ledger.queue.check(party, int(declared))
        with self.ledger.memory.hold(party) as held:
            body = await _receive_body(headers, chunks, held)
            read = await self._read_body(party, body, headers, body_format)
            del body
            held.grow(read.size)
            if read.malformed is not None:
                reason, path, plain = read.malformed
                limits.count_events(binding, 1)
                return await self.intake.reject_body(plain, binding, MalformedEvent(reason, path))
            limits.count_events(binding, len(read.records) + read.skipped)
            receipt = await self.intake.receive(read.records, binding, in_time_order=body_format.is_foreign)
        receipt.skipped = read.skipped
        return receipt

    async def _read_body(
        self, party: Party, body: bytes, headers: Mapping[str, str], body_format: BodyFormat
    ) -> ReadBody:
        """Decompress and parse a body: a small one here, others in the pool."""
        coding = headers.get("content-encoding", "")
        if not _is_bulk(headers, len(body), body_format):
            return read_body(body, coding, headers, body_format)
        wanted = {name: value for name, value in headers.items() if name.startswith(_READ_HEADERS)}
        async with self.ledger.queue.ticket(party, len(body)):
            read = await self.pool.run(read_body_in_worker, body, coding, wanted, body_format)
        if isinstance(read, ReadBody):
            return read
        kind, reason = read
        raise kind(reason)

    def count(self, binding: SourceBinding, receipt: Receipt) -> None:
        """Count the outcomes of a receipt in the metrics."""
        for outcome in ("accepted", "duplicate", "rejected", "skipped"):
            number = getattr(receipt, outcome)
            if number:
                self.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(number)


async def _receive_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], held: HeldBody) -> bytes:
    """Return the body as it was sent. Its bytes are counted as they arrive."""
    too_large = BodyTooLarge(f"the body may have {MAX_BODY_BYTES} bytes")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    with held.receive():
        async for chunk in chunks:
            held.grow(len(chunk))
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise too_large
    return bytes(body)


def _is_bulk(headers: Mapping[str, str], length: int, body_format: BodyFormat) -> bool:
    """Return whether a body may take long to read."""
    if headers.get("content-encoding"):
        return body_format.is_foreign or length > PACKED_BULK_BYTES
    return length > (FOREIGN_BULK_BYTES if body_format.is_foreign else NATIVE_BULK_BYTES)


def check_not_all_rejected(receipt: Receipt) -> None:
    """Raise ProblemError (400, with the members of the receipt) if no record could be used."""
    if not receipt.rejected or receipt.accepted or receipt.duplicate or receipt.skipped:
        return
    first = receipt.rejections[0]
    more = f" (and {receipt.rejected - 1} more)" if receipt.rejected > 1 else ""
    detail = f"{first.reason} - at `{first.path}`{more}"
    members = {"path": first.path, **msgspec.to_builtins(receipt)}
    raise ProblemError(ProblemDetails(400, "events_rejected", "Events rejected", detail, members=members))


# Refused records: who may see them, and how they are replayed.


@dataclass(eq=False, repr=False)
class DeadLetterService:
    """Lists and replays dead letters that a caller may see. For one event loop."""

    runtime: Runtime
    executor: StoreExecutor
    events: EventService

    def sees_all(self, caller: AuthenticatedCaller) -> bool:
        """Return whether *caller* sees the letters of every sender, and not only its own."""
        return _visible_sources(caller) is None

    async def list(
        self, caller: AuthenticatedCaller, replayed: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[DeadLetter]:
        """List letters, newest first. *replayed* selects those that were, or were not, replayed.

        Raises ProblemError (400), Unavailable.
        """
        return await self.executor(
            self.runtime.store.dead_letters.page, _visible_sources(caller), replayed, limit, cursor
        )

    async def counts(self, caller: AuthenticatedCaller) -> DeadLetterCounts:
        """Count the letters that *caller* sees and, for callers of all tenants, those dropped for lack of room."""
        return await self.executor(self.runtime.store.dead_letters.count, _visible_sources(caller))

    async def get(self, caller: AuthenticatedCaller, letter_id: str) -> DeadLetter:
        """Return one letter. Raises ProblemError (404), Unavailable."""
        stored = await self.executor(self.runtime.store.dead_letters.get, letter_id, _visible_sources(caller))
        if stored is None:
            raise not_found_error("dead letter")
        return stored

    async def replay(
        self, caller: AuthenticatedCaller, letter_id: str, record_format: str | None = None, *, as_sender: bool = False
    ) -> Receipt:
        """Send a letter through the intake again, and mark it as replayed.

        Records of a foreign topic are read with its current mapping, and authorized as that topic is; those in a format
        of their sender, as the sender is. All others are attributed to *caller*, or, with *as_sender*, to their sender,
        as far as the settings still know it. Raises ProblemError (400, 404), Overloaded, LogFailed, Unavailable.
        """
        letter = await self.get(caller, letter_id)
        records, binding = self._read(letter, caller.binding, record_format, as_sender=as_sender)
        receipt = await self.events.intake.receive(records, binding, keep_refused=False)
        self.events.count(binding, receipt)
        check_not_all_rejected(receipt)
        await self.executor.write(self.runtime.store.dead_letters.mark_replayed, [letter_id], self.runtime.now_ms())
        return receipt

    def _read(
        self, letter: DeadLetter, caller_binding: SourceBinding, record_format: str | None, *, as_sender: bool
    ) -> tuple[Sequence[RawRecord], SourceBinding]:
        """Parse a letter. Return its records and the source that they are attributed to.

        Only callers of all tenants may see letters of topics.
        """
        settings, sender_binding = self.runtime.settings, caller_binding
        topic = next((topic for topic in settings.brokers.topics if topic.name == letter.source), None)
        if topic is not None:
            return parse_foreign_dead_letter(letter.raw, topic.parser()), SourceBinding(topic)
        sender = next((caller for caller in settings.callers if caller.name == letter.source), None)
        if sender is not None:
            issuers = [issuer.issuer for issuer in settings.issuers]
            sender_binding = binding_of_caller(sender, token_issuer(sender, issuers))
        name = record_format or ("native" if sender is None else sender.format)
        if name in MEDIA_TYPE_FORMATS:
            return [parse_dead_letter(letter.raw)], sender_binding if as_sender else caller_binding
        # Foreign records name no tenant: they are attributed to their sender, no matter which caller sends them again.
        return parse_foreign_dead_letter(letter.raw, body_format_named(sender_binding, name).parser()), sender_binding


def _visible_sources(caller: AuthenticatedCaller) -> Collection[str] | None:
    """Return the senders whose letters *caller* sees, or None for all, because an unparsed record has no tenant.

    Raises TenantNotAllowed if it is authorized for no tenant.
    """
    return None if visible_tenants(caller, None) is None else (caller.name,)


def body_format_named(binding: SourceBinding, name: str) -> BodyFormat:
    """Return a format by the sender's settings. Raises ProblemError (400) if it is unknown."""
    named = binding.body_format(name)
    try:
        if named.is_foreign:
            named.parser()
    except ConfigError as error:
        raise ProblemError(ProblemDetails(400, "unknown_format", "Unknown format", str(error))) from None
    return named
