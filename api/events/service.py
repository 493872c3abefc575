"""Bodies with events, whatever route they come to: read within bounds, taken apart, received, counted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import anyio.to_thread
import msgspec

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.raw_records import FormatParser, ParsedRecords, RawRecord
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.dead_letter_store import DeadLetterCounts

from ..http.agent_lookup import not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller, SourceBinding, TenantNotAllowed, binding_of_caller, token_issuer
from ..http.problems import ProblemDetails, ProblemError
from ..http.prometheus_metrics import ServiceMetrics
from ..http.runtime import Runtime
from ..http.store_executor import BulkTurns, StoreExecutor, TooMuchBulkWork
from ..settings.access_settings import CallerSettings
from .event_bodies import (
    MAX_BODY_BYTES,
    MEDIA_TYPE_FORMATS,
    decompress_body,
    parse_dead_letter,
    parse_foreign_dead_letter,
)
from .intake import EventIntake, Receipt
from .intake_limits import BodyReservation, BodyTooLarge, Overloaded
from .source_silence import SilenceDetector

PACKED_BULK_BYTES = 1024
"""Bytes from which unpacking would hold up other requests: they may become a thousand times as many."""

FOREIGN_BULK_BYTES = 4 * 1024  # Bytes from which mapping foreign records would: about ten of them
PARSER_PAUSE_S = 0.0005  # Sleep of a parser in a thread between two slices: the event loop runs meanwhile


class BodySplitter(NamedTuple):
    """A way to take a body apart."""

    # makes its records; calls its last argument every few records
    parse: Callable[[Mapping[str, str], bytes, Callable[[], None]], ParsedRecords]
    # they are another program's. To map them costs more than to cut a body, so large ones are done in a thread,
    # one body of a tenant at a time; and deliveries of logs are shuffled, so what is taken becomes durable in the
    # order of its times
    is_foreign: bool = False


@dataclass(eq=False, repr=False)
class EventService:
    """Takes events in from callers. For one event loop."""

    runtime: Runtime
    intake: EventIntake
    silence: SilenceDetector
    metrics: ServiceMetrics

    def __post_init__(self) -> None:
        self._turns = BulkTurns()

    async def receive(
        self, caller: AuthenticatedCaller, headers: Mapping[str, str], chunks: AsyncIterator[bytes], split: BodySplitter
    ) -> Receipt:
        """The receipt for the events in a body.

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
        self._count(binding, receipt)
        self.silence.note_received(binding.name, self.runtime.monotonic(), self.runtime.now_ms())
        return receipt

    async def receive_again(self, records: Sequence[RawRecord], binding: SourceBinding) -> Receipt:
        """The receipt for records of a dead letter. What is refused again is no second letter. Raises as `receive`."""
        receipt = await self.intake.receive(records, binding, keep_refused=False)
        self._count(binding, receipt)
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
                try:
                    async with self._turn(binding, headers, body, split):
                        body = await _decompressed(body, headers.get("content-encoding", ""), reservation)
                        limits.count_bytes(binding, len(body))
                        records, skipped = await _parsed(headers, body, split)
                except MalformedEvent as error:
                    limits.count_events(binding, 1)
                    return await self.intake.reject_body(body, binding, error)
                limits.count_events(binding, len(records) + skipped)
                receipt = await self.intake.receive(records, binding, in_time_order=split.is_foreign)
        except TooMuchBulkWork as error:
            raise Overloaded("bulk", str(error), error.retry_after_s) from None
        receipt.skipped = skipped
        return receipt

    def _turn(
        self, binding: SourceBinding, headers: Mapping[str, str], body: bytes, split: BodySplitter
    ) -> AbstractAsyncContextManager[None]:
        bulk = _is_bulk(headers, len(body), split)
        return self._turns.turn(_bulk_tenant(binding), len(body)) if bulk else nullcontext()

    def _count(self, binding: SourceBinding, receipt: Receipt) -> None:
        for outcome in ("accepted", "duplicate", "rejected", "skipped"):
            number = getattr(receipt, outcome)
            if number:
                self.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(number)


async def _read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], reservation: BodyReservation) -> bytes:
    """The body as it was sent; room in memory is taken as it arrives."""
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
    """True for a body that takes long in pure Python, or may once it is unpacked."""
    if headers.get("content-encoding"):
        return split.is_foreign or length > PACKED_BULK_BYTES
    return split.is_foreign and length > FOREIGN_BULK_BYTES


def _bulk_tenant(binding: SourceBinding) -> str:
    """The tenant that bulk work counts for; a caller of several counts alone."""
    return binding.default_tenant or f"caller {binding.name}"


async def _parsed(headers: Mapping[str, str], body: bytes, split: BodySplitter) -> ParsedRecords:
    """Records of a body; those of another program in a thread, if they are many."""
    if split.is_foreign and len(body) > FOREIGN_BULK_BYTES:
        return await anyio.to_thread.run_sync(split.parse, headers, body, partial(time.sleep, PARSER_PAUSE_S))
    return split.parse(headers, body, _go_on)


def _go_on() -> None:
    """A pause of no time."""


async def _decompressed(body: bytes, coding: str, reservation: BodyReservation) -> bytes:
    if len(body) > PACKED_BULK_BYTES and coding:
        plain = await anyio.to_thread.run_sync(decompress_body, body, coding)
    else:
        plain = decompress_body(body, coding)
    if plain is not body:
        reservation.grow(len(plain))
    return plain


def check_not_all_rejected(receipt: Receipt) -> None:
    """Raise ProblemError (400, with the members of the receipt) where nothing at all could be used."""
    if not receipt.rejected or receipt.accepted or receipt.duplicate or receipt.skipped:
        return
    first = receipt.rejections[0]
    more = f" (and {receipt.rejected - 1} more)" if receipt.rejected > 1 else ""
    detail = f"{first.reason} - at `{first.path}`{more}"
    members = {"path": first.path, **msgspec.to_builtins(receipt)}
    raise ProblemError(ProblemDetails(400, "events_rejected", "Events rejected", detail, members=members))


# Records that were refused: who sees them, and how one is sent in again.


class _ReadLetter(NamedTuple):
    """The records in a dead letter, and what they may speak for."""

    records: list[RawRecord]
    binding: SourceBinding


@dataclass(eq=False, repr=False)
class DeadLetterService:
    """Dead letters that a caller may see. For one event loop."""

    runtime: Runtime
    executor: StoreExecutor
    events: EventService

    def sees_all(self, caller: AuthenticatedCaller) -> bool:
        """True if *caller* sees the letters of every sender; else it sees those that it sent itself."""
        return _visible_sources(caller) is None

    async def list(
        self, caller: AuthenticatedCaller, replayed: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[DeadLetter]:
        """Letters, newest first; where *replayed* is given, those that were, or were not, sent in again.

        Raises ProblemError (400), Unavailable.
        """
        return await self.executor(
            self.runtime.store.dead_letters.page, _visible_sources(caller), replayed, limit, cursor
        )

    async def counts(self, caller: AuthenticatedCaller) -> DeadLetterCounts:
        """Letters that *caller* sees and, for callers of all tenants, those that found no room. Raises Unavailable."""
        return await self.executor(self.runtime.store.dead_letters.count, _visible_sources(caller))

    async def get(self, caller: AuthenticatedCaller, letter_id: str) -> DeadLetter:
        """One letter. Raises ProblemError (404), Unavailable."""
        stored = await self.executor(self.runtime.store.dead_letters.get, letter_id, _visible_sources(caller))
        if stored is None:
            raise not_found_error("dead letter")
        return stored

    async def replay(
        self, caller: AuthenticatedCaller, letter_id: str, record_format: str | None = None, *, as_sender: bool = False
    ) -> Receipt:
        """Send a letter in again, and mark it as replayed.

        Records of a foreign topic are read as its mapping says now, and speak for what that topic may; those in a
        format of their sender, for what the sender may. All others are the word of *caller*, or, where *as_sender*, of
        whoever sent them, as far as the settings still know it. Raises ProblemError (400, 404), Overloaded, LogFailed,
        Unavailable.
        """
        letter = await self.get(caller, letter_id)
        sender = self._sender_of(letter)
        source_binding = self._binding_of(sender) if as_sender and sender is not None else caller.binding
        records, binding = self._read(letter, sender, source_binding, record_format)
        receipt = await self.events.receive_again(records, binding)
        check_not_all_rejected(receipt)
        await self.executor.write(self.runtime.store.dead_letters.mark_replayed, [letter_id], self.runtime.now_ms())
        return receipt

    def _sender_of(self, letter: DeadLetter) -> CallerSettings | None:
        callers = self.runtime.settings.callers
        return next((caller for caller in callers if caller.name == letter.source), None)

    def _binding_of(self, sender: CallerSettings) -> SourceBinding:
        issuers = [issuer.issuer for issuer in self.runtime.settings.issuers]
        return binding_of_caller(sender, token_issuer(sender, issuers))

    def _read(
        self,
        letter: DeadLetter,
        sender: CallerSettings | None,
        source_binding: SourceBinding,
        record_format: str | None,
    ) -> _ReadLetter:
        """Letters of topics are seen by callers of all tenants alone."""
        topics = self.runtime.settings.brokers.topics
        topic = next((topic for topic in topics if topic.name == letter.source), None)
        if topic is not None:
            return _ReadLetter(parse_foreign_dead_letter(letter.raw, topic.parser()), SourceBinding(topic))
        name = record_format or ("native" if sender is None else sender.format)
        if name in MEDIA_TYPE_FORMATS:
            return _ReadLetter([parse_dead_letter(letter.raw)], source_binding)
        # Foreign records name no tenant: they are their sender's word, whoever sends them in again.
        binding = source_binding if sender is None else self._binding_of(sender)
        return _ReadLetter(parse_foreign_dead_letter(letter.raw, parser_named(binding, name)), binding)


def _visible_sources(caller: AuthenticatedCaller) -> Collection[str] | None:
    """Senders whose letters *caller* sees; None = all. A record that could not be read has no tenant to go by.

    Raises TenantNotAllowed where it speaks for nobody.
    """
    return None if visible_tenants(caller, None) is None else (caller.name,)


def parser_named(binding: SourceBinding, name: str) -> FormatParser:
    """The parser for a format, as that sender's settings have it. Raises ProblemError (400) where there is none."""
    try:
        return binding.parser(name)
    except ConfigError as error:
        raise ProblemError(ProblemDetails(400, "unknown_format", "Unknown format", str(error))) from None
