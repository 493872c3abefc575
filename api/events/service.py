"""Bodies with events, whatever route they come to: read within bounds, taken apart, received, counted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import anyio.to_thread
import msgspec

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.formats.raw_records import ParsedRecords, RawRecord

from ..http.auth.callers import AuthenticatedCaller, SourceBinding, TenantNotAllowed
from ..http.bulk_turns import BulkTurns, TooMuchBulkWork
from ..http.problems import ProblemDetails, ProblemError
from ..http.prometheus_metrics import ServiceMetrics
from ..http.runtime import Runtime
from .event_bodies import MAX_BODY_BYTES, decompress_body
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
        self,
        caller: AuthenticatedCaller,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        split: BodySplitter,
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
