"""Bodies with events, whatever route they come to: read within bounds, taken apart, received, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio.to_thread
import msgspec
from fastapi import Request, Response

from ...ingest.errors import MalformedEvent
from ...ingest.formats.raw_records import ParsedRecords
from ..http.auth.callers import AuthenticatedCaller, SourceBinding, TenantNotAllowed
from ..http.dependencies import ApplicationContext
from ..http.problems import ProblemDetails, ProblemError
from ..http.request_body import declared_body_length
from .event_bodies import MAX_BODY_BYTES, decompress_body
from .intake import EventIntake, Receipt
from .intake_limits import BodyReservation, BodyTooLarge, Overloaded
from .source_silence import SilenceDetector

THREAD_ABOVE_BYTES = 32 * 1024
"""Bytes from which unpacking, and mapping foreign records, would hold up other requests."""


class BodySplitter(NamedTuple):
    """How a body is taken apart. *in_thread*: it costs more than cutting, so that large bodies are done in a thread."""

    parse: Callable[[Mapping[str, str], bytes], ParsedRecords]
    in_thread: bool = False


async def receive_body(
    request: Request, parts: ApplicationContext, caller: AuthenticatedCaller, split: BodySplitter
) -> Receipt:
    """What became of the events in a body.

    Raises:
        TenantNotAllowed: the caller speaks for nobody.
        BodyTooLarge, UnsupportedBody, Overloaded: nothing of it was kept.
        LogFailed: the disk refuses.
    """
    binding = caller.binding
    if not binding.tenants:
        raise TenantNotAllowed("this caller is bound to no tenant, so it may send no events")
    try:
        receipt = await _receive_within_limits(request, parts, binding, split)
    except Overloaded as error:
        parts.metrics.counter("trustwatch_events_refused_requests_total", binding.name, error.cause).inc()
        raise
    count_receipt(parts, binding, receipt)
    parts.services.get(SilenceDetector).note_received(binding.name, parts.runtime.monotonic(), parts.runtime.now_ms())
    return receipt


async def _receive_within_limits(
    request: Request, parts: ApplicationContext, binding: SourceBinding, split: BodySplitter
) -> Receipt:
    limits = parts.services.get(EventIntake).limits
    limits.check(binding)
    headers = {name.lower(): value for name, value in request.headers.items()}
    with limits.reserve(binding) as hold:
        body = await _read_body(request, hold)
        try:
            body = await _decompressed(body, headers.get("content-encoding", ""), hold)
            if split.in_thread and len(body) > THREAD_ABOVE_BYTES:
                parcels, skipped = await anyio.to_thread.run_sync(split.parse, headers, body)
            else:
                parcels, skipped = split.parse(headers, body)
        except MalformedEvent as error:
            limits.count_events(binding, 1)
            return await parts.services.get(EventIntake).reject_body(body, binding, error)
        limits.count_events(binding, len(parcels) + skipped)
        receipt = await parts.services.get(EventIntake).receive(parcels, binding)
    receipt.skipped = skipped
    return receipt


async def _read_body(request: Request, hold: BodyReservation) -> bytes:
    """The body as it was sent; room in memory is taken as it arrives."""
    too_large = BodyTooLarge(f"the body may have {MAX_BODY_BYTES} bytes")
    if declared_body_length(request.scope) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        hold.grow(len(chunk))
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


async def _decompressed(body: bytes, coding: str, hold: BodyReservation) -> bytes:
    if len(body) > THREAD_ABOVE_BYTES and coding:
        plain = await anyio.to_thread.run_sync(decompress_body, body, coding)
    else:
        plain = decompress_body(body, coding)
    if plain is not body:
        hold.grow(len(plain))
    return plain


def count_receipt(parts: ApplicationContext, binding: SourceBinding, receipt: Receipt) -> None:
    """Add a receipt to the metrics."""
    for outcome in ("accepted", "duplicate", "rejected", "skipped"):
        number = getattr(receipt, outcome)
        if number:
            parts.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(number)


def receipt_response(receipt: Receipt) -> Response:
    """202, or 400 where nothing at all could be used."""
    if all_rejected(receipt):
        raise events_rejected_error(receipt)
    return Response(msgspec.json.encode(receipt), 202, media_type="application/json")


def all_rejected(receipt: Receipt) -> bool:
    """Whether every record of a body was refused."""
    return bool(receipt.rejected) and not receipt.accepted and not receipt.duplicate and not receipt.skipped


def events_rejected_error(receipt: Receipt) -> ProblemError:
    """400 with the members of the receipt."""
    first = receipt.rejections[0]
    more = f" (and {receipt.rejected - 1} more)" if receipt.rejected > 1 else ""
    detail = f"{first.reason} - at `{first.path}`{more}"
    members = {"path": first.path, **msgspec.to_builtins(receipt)}
    return ProblemError(ProblemDetails(400, "events_rejected", "Events rejected", detail, members=members))
