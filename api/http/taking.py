"""Bodies with events, whatever route they come to: read within bounds, taken apart, received, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio.to_thread
import msgspec
from fastapi import Request, Response

from ...ingest.errors import MalformedEvent
from ...ingest.formats.parcel import Parsed
from ..callers import Caller, SourceBinding, TenantNotAllowed
from ..edge import MAX_BODY, BodyTooLarge, Overloaded, Receipt, inflate
from ..edge.limits import Hold
from ..problems import Problem, ProblemError
from .front import declared_length
from .gate import Parts

IN_THREAD = 32 * 1024
"""Bytes from which unpacking, and mapping foreign records, would hold up other requests."""


class Split(NamedTuple):
    """How a body is taken apart. *heavy*: it costs more than cutting, so that large bodies are done in a thread."""

    parsed: Callable[[Mapping[str, str], bytes], Parsed]
    heavy: bool = False


async def take(request: Request, parts: Parts, caller: Caller, split: Split) -> Receipt:
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
        receipt = await _receive(request, parts, binding, split)
    except Overloaded as error:
        parts.metrics.counter("trustwatch_events_refused_requests_total", binding.name, error.cause).inc()
        raise
    count(parts, binding, receipt)
    parts.silence.heard(binding.name, parts.services.monotonic(), parts.services.now_ms())
    return receipt


async def _receive(request: Request, parts: Parts, binding: SourceBinding, split: Split) -> Receipt:
    limits = parts.door.limits
    limits.check(binding)
    headers = {name.lower(): value for name, value in request.headers.items()}
    with limits.hold(binding) as hold:
        body = await _body(request, hold)
        try:
            body = await _inflated(body, headers.get("content-encoding", ""), hold)
            if split.heavy and len(body) > IN_THREAD:
                parcels, skipped = await anyio.to_thread.run_sync(split.parsed, headers, body)
            else:
                parcels, skipped = split.parsed(headers, body)
        except MalformedEvent as error:
            limits.taken(binding, 1)
            return await parts.door.refuse(body, binding, error)
        limits.taken(binding, len(parcels) + skipped)
        receipt = await parts.door.receive(parcels, binding)
    receipt.skipped = skipped
    return receipt


async def _body(request: Request, hold: Hold) -> bytes:
    """The body as it was sent; room in memory is taken as it arrives."""
    too_large = BodyTooLarge(f"the body may have {MAX_BODY} bytes")
    if declared_length(request.scope) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        hold.grow(len(chunk))
        body += chunk
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


async def _inflated(body: bytes, coding: str, hold: Hold) -> bytes:
    if len(body) > IN_THREAD and coding:
        plain = await anyio.to_thread.run_sync(inflate, body, coding)
    else:
        plain = inflate(body, coding)
    if plain is not body:
        hold.grow(len(plain))
    return plain


def count(parts: Parts, binding: SourceBinding, receipt: Receipt) -> None:
    """Add a receipt to the metrics."""
    for outcome in ("accepted", "duplicate", "rejected", "skipped"):
        number = getattr(receipt, outcome)
        if number:
            parts.metrics.counter("trustwatch_events_total", binding.name, outcome).inc(number)


def respond(receipt: Receipt) -> Response:
    """202, or 400 where nothing at all could be used."""
    if all_rejected(receipt):
        raise rejected(receipt)
    return Response(msgspec.json.encode(receipt), 202, media_type="application/json")


def all_rejected(receipt: Receipt) -> bool:
    """Whether every record of a body was refused."""
    return bool(receipt.rejected) and not receipt.accepted and not receipt.duplicate and not receipt.skipped


def rejected(receipt: Receipt) -> ProblemError:
    """400 with the members of the receipt."""
    first = receipt.rejections[0]
    more = f" (and {receipt.rejected - 1} more)" if receipt.rejected > 1 else ""
    detail = f"{first.reason} - at `{first.path}`{more}"
    members = {"path": first.path, **msgspec.to_builtins(receipt)}
    return ProblemError(Problem(400, "events_rejected", "Events rejected", detail, members=members))
