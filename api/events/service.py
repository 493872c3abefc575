"""Bodies with events, of all routes: read within bounds, parsed, received, counted."""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple

import anyio.to_thread
import msgspec

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.cloudevents import (
    CONTEXT_ATTRIBUTES,
    binary_envelope,
    decode_http_binary,
    split_batch,
    structured_record,
)
from trustwatch.ingest.formats.format_registry import MEDIA_TYPE_FORMATS
from trustwatch.ingest.formats.raw_records import (
    FormatParser,
    ParsedRecords,
    ParserBudget,
    RawRecord,
    TooManyRecords,
    rejected_record,
    split_json,
    split_ndjson,
)
from trustwatch.ingest.formats.record_mapping import RecordMapping
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.partition_store import DeadLetterCounts

from ..http.agent_lookup import not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller, SourceBinding, TenantNotAllowed, binding_of_caller, token_issuer
from ..http.problems import ProblemDetails, ProblemError
from ..http.prometheus_metrics import ServiceMetrics
from ..http.runtime import Runtime
from ..http.store_executor import BulkTurns, StoreExecutor, TooMuchBulkWork
from .ingest_status import SilenceDetector
from .intake import EventIntake, Receipt
from .intake_limits import BodyReservation, BodyTooLarge, Overloaded, UnsupportedBody

# Parsing of request bodies into records, of any media type; the records themselves are not decoded yet.

MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # Bytes of one body, before and after decompression
MAX_BODY_EVENTS: Final = 10_000  # Events in one body
JSON_MEDIA_TYPE: Final = "application/json"
NDJSON_MEDIA_TYPES: Final = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
)
CLOUDEVENT_MEDIA_TYPE: Final = "application/cloudevents+json"
CLOUDEVENT_BATCH_MEDIA_TYPE: Final = "application/cloudevents-batch+json"
EVENT_MEDIA_TYPES: Final = (JSON_MEDIA_TYPE, *NDJSON_MEDIA_TYPES, CLOUDEVENT_MEDIA_TYPE, CLOUDEVENT_BATCH_MEDIA_TYPE)
TEXT_MEDIA_TYPE: Final = "text/plain"  # Lines of a log; only of formats that have such
CONTENT_CODINGS: Final = ("identity", "gzip", "x-gzip")

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_INFLATE_BLOCK_BYTES = 4096
"""Bytes decompressed per step. The rest is copied at the end of each gzip member: with the whole body, thousands of
empty members would take minutes."""


def decompress_body(body: bytes, coding: str) -> bytes:
    """Remove the Content-Encoding of a body. Stops at `MAX_BODY_BYTES`, as protection from decompression bombs.

    Raises UnsupportedBody, BodyTooLarge, MalformedEvent.
    """
    coding = coding.strip().lower() or "identity"
    if coding not in CONTENT_CODINGS:
        raise UnsupportedBody(f"Content-Encoding must be gzip or absent, is `{coding[:64]}`")
    if coding == "identity":
        return body
    out, at = bytearray(), 0
    while at < len(body):
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while at < len(body) and not member.eof:
            try:
                out += member.decompress(body[at : at + _INFLATE_BLOCK_BYTES], MAX_BODY_BYTES + 1 - len(out))
            except zlib.error as error:
                raise MalformedEvent(f"body is not gzip: {error}") from None
            if len(out) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"the body has more than {MAX_BODY_BYTES} bytes after decompression")
            at += _INFLATE_BLOCK_BYTES
        if not member.eof:
            raise MalformedEvent("body is not a complete gzip")
        at = min(at, len(body)) - len(member.unused_data)
    return bytes(out)


def parse_body(content_type: str, headers: Mapping[str, str], body: bytes) -> list[RawRecord]:
    """Parse the records of a body, in order. Raises UnsupportedBody, MalformedEvent, BodyTooLarge."""
    kind = _media_type(content_type, EVENT_MEDIA_TYPES)
    if kind == CLOUDEVENT_MEDIA_TYPE:
        return [structured_record(body)]
    if kind != CLOUDEVENT_BATCH_MEDIA_TYPE and "ce-specversion" in headers:
        context = {name: headers[f"ce-{name}"] for name in CONTEXT_ATTRIBUTES if f"ce-{name}" in headers}
        return [RawRecord(binary_envelope(context, body), lambda: decode_http_binary(headers, body))]
    if kind == CLOUDEVENT_BATCH_MEDIA_TYPE:
        raw_records = [structured_record(event) for event in split_batch(body, MAX_BODY_EVENTS)]
    else:
        raws = split_json(body, MAX_BODY_EVENTS) if kind == JSON_MEDIA_TYPE else split_ndjson(body, MAX_BODY_EVENTS)
        # This takes a third of the time of `RawRecord(raw)` for each.
        raw_records = list(map(RawRecord._make, zip(raws, repeat(None), repeat("$"), repeat(None))))
    _check_count(len(raw_records))
    return raw_records


def _no_pause() -> None:
    """Do not pause."""


def parse_foreign_body(
    content_type: str, body: bytes, parser: FormatParser, pause: Callable[[], None] = _no_pause
) -> ParsedRecords:
    """Parse the records of a body in the format of a gateway or an authorization server, in order.

    Raises UnsupportedBody, MalformedEvent, BodyTooLarge.
    """
    kind = _media_type(content_type, (JSON_MEDIA_TYPE, *NDJSON_MEDIA_TYPES, TEXT_MEDIA_TYPE))
    values = [body] if kind == JSON_MEDIA_TYPE else split_ndjson(body, MAX_BODY_EVENTS)
    _check_count(len(values))
    raw_records, skipped, budget = [], 0, ParserBudget(MAX_BODY_EVENTS, pause)
    for value in values:
        try:
            parsed = parser(value, {}, budget)
        except TooManyRecords as error:
            raise BodyTooLarge(f"{error.reason}; one request may hold {MAX_BODY_EVENTS} events") from None
        except MalformedEvent as error:
            if kind == JSON_MEDIA_TYPE:
                raise
            parsed = ParsedRecords([rejected_record(value, error)])
        raw_records += parsed.records
        skipped += parsed.skipped
    return ParsedRecords(raw_records, skipped)


def _check_count(records: int) -> None:
    if records > MAX_BODY_EVENTS:
        raise BodyTooLarge(f"the body holds {records} events or more; one request may hold {MAX_BODY_EVENTS}")


def _media_type(content_type: str, known_types: tuple[str, ...]) -> str:
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind not in known_types:
        raise UnsupportedBody(f"Content-Type must be one of {', '.join(known_types)}")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedBody("the charset of JSON must be UTF-8")
    return kind


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
"""Compressed bytes above which decompression would delay other requests: they may grow a thousandfold."""

FOREIGN_BULK_BYTES = 4 * 1024  # Bytes from which mapping foreign records would: about ten of them
PARSER_PAUSE_S = 0.0005  # Sleep of a parser in a thread between two slices: the event loop runs meanwhile


class BodySplitter(NamedTuple):
    """Splits a body into records."""

    # Returns the records; calls its last argument every few records.
    parse: Callable[[Mapping[str, str], bytes, Callable[[], None]], ParsedRecords]
    # Whether the records are in another program's format. Mapping costs more than splitting, so large bodies are
    # mapped in a thread, one per tenant at a time. Log deliveries are shuffled, so accepted records are sorted by time.
    is_foreign: bool = False


@dataclass(eq=False, repr=False)
class EventService:
    """Receives events from callers. For one event loop."""

    runtime: Runtime
    intake: EventIntake
    silence: SilenceDetector
    metrics: ServiceMetrics

    def __post_init__(self) -> None:
        self._turns = BulkTurns()

    async def receive(
        self, caller: AuthenticatedCaller, headers: Mapping[str, str], chunks: AsyncIterator[bytes], split: BodySplitter
    ) -> Receipt:
        """Receive the events in a body and return the receipt.

        Raises TenantNotAllowed, BodyTooLarge, UnsupportedBody, Overloaded, LogFailed.
        """
        binding = caller.binding
        if not binding.tenants:
            raise TenantNotAllowed("this caller is bound to no tenant, so it may send no events")
        try:
            receipt = await self._receive_within_limits(binding, headers, chunks, split)
        except Overloaded as error:
            self.metrics.counter("trustwatch_events_refused_requests_total", binding.name, error.cause).inc()
            raise
        self.count(binding, receipt)
        self.silence.note_received(binding.name, self.runtime.monotonic(), self.runtime.now_ms())
        return receipt

    async def _receive_within_limits(
        self, binding: SourceBinding, headers: Mapping[str, str], chunks: AsyncIterator[bytes], split: BodySplitter
    ) -> Receipt:
        limits = self.intake.limits
        limits.check(binding)
        try:
            declared = headers.get("content-length", "")
            if declared.isdigit() and _is_bulk(headers, int(declared), split):
                self._turns.check(_bulk_tenant(binding), int(declared))
            with limits.reserve(binding) as reservation:
                body = await _read_body(headers, chunks, reservation)
                is_bulk = _is_bulk(headers, len(body), split)
                try:
                    async with self._turns.turn(_bulk_tenant(binding), len(body)) if is_bulk else nullcontext():
                        body = await _decompressed(body, headers.get("content-encoding", ""), reservation)
                        limits.count_bytes(binding, len(body))
                        if split.is_foreign and len(body) > FOREIGN_BULK_BYTES:
                            pause = partial(time.sleep, PARSER_PAUSE_S)
                            parsed = await anyio.to_thread.run_sync(split.parse, headers, body, pause)
                        else:
                            parsed = split.parse(headers, body, _no_pause)
                except MalformedEvent as error:
                    limits.count_events(binding, 1)
                    return await self.intake.reject_body(body, binding, error)
                limits.count_events(binding, len(parsed.records) + parsed.skipped)
                receipt = await self.intake.receive(parsed.records, binding, in_time_order=split.is_foreign)
        except TooMuchBulkWork as error:
            raise Overloaded("bulk", str(error), error.retry_after_s) from None
        receipt.skipped = parsed.skipped
        return receipt

    def count(self, binding: SourceBinding, receipt: Receipt) -> None:
        """Count the outcomes of a receipt in the metrics."""
        for outcome in ("accepted", "duplicate", "rejected", "skipped"):
            number = getattr(receipt, outcome)
            if number:
                self.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(number)


async def _read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], reservation: BodyReservation) -> bytes:
    """Return the body as it was sent. Memory is reserved as it arrives."""
    too_large = BodyTooLarge(f"the body may have {MAX_BODY_BYTES} bytes")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in chunks:
        reservation.grow(len(chunk))
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


def _is_bulk(headers: Mapping[str, str], length: int, split: BodySplitter) -> bool:
    """Return whether a body takes long in pure Python, or may once it is decompressed."""
    if headers.get("content-encoding"):
        return split.is_foreign or length > PACKED_BULK_BYTES
    return split.is_foreign and length > FOREIGN_BULK_BYTES


def _bulk_tenant(binding: SourceBinding) -> str:
    """Return the tenant for which bulk work is counted. A caller of several tenants is counted alone."""
    return binding.default_tenant or f"caller {binding.name}"


async def _decompressed(body: bytes, coding: str, reservation: BodyReservation) -> bytes:
    if len(body) > PACKED_BULK_BYTES and coding:
        plain = await anyio.to_thread.run_sync(decompress_body, body, coding)
    else:
        plain = decompress_body(body, coding)
    if plain is not body:
        reservation.grow(len(plain))
    return plain


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
        return parse_foreign_dead_letter(letter.raw, parser_named(sender_binding, name)), sender_binding


def _visible_sources(caller: AuthenticatedCaller) -> Collection[str] | None:
    """Return the senders whose letters *caller* sees, or None for all, because an unparsed record has no tenant.

    Raises TenantNotAllowed if it is authorized for no tenant.
    """
    return None if visible_tenants(caller, None) is None else (caller.name,)


def parser_named(binding: SourceBinding, name: str) -> FormatParser:
    """Return the parser of a format by the sender's settings. Raises ProblemError (400) if it is unknown."""
    try:
        return binding.parser(name)
    except ConfigError as error:
        raise ProblemError(ProblemDetails(400, "unknown_format", "Unknown format", str(error))) from None
