"""From a request body to the records in it, whatever the media type; nothing is decoded yet."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import repeat
from typing import Final

import msgspec

from ...ingest.errors import MalformedEvent
from ...ingest.formats.bodies import split_json, split_ndjson
from ...ingest.formats.cloudevents import ATTRIBUTES, binary_envelope, from_binary, split_batch, structured_parcel
from ...ingest.formats.parcel import Parcel as Parcel
from ...ingest.formats.parcel import Parsed, Parser, refused
from .errors import BodyTooLarge, UnsupportedBody

MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes of one body, before and after decompression."""

MAX_EVENTS: Final = 10_000
"""Events in one body."""

JSON: Final = "application/json"
NDJSON: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"
MEDIA_TYPES: Final = (JSON, *NDJSON, CLOUDEVENT, CLOUDEVENTS)
TEXT: Final = "text/plain"
"""Lines of a log; only of formats that have such."""

BY_MEDIA_TYPE: Final = ("native", "ndjson", "cloudevents")
"""Formats that the media type tells apart."""

CODINGS: Final = ("identity", "gzip", "x-gzip")

_GZIP = 16 + zlib.MAX_WBITS
_BLOCK = 4096
"""Bytes unpacked in one go. What is behind a member is copied at its end: of the whole body, thousands of empty members
would take minutes."""


def inflate(body: bytes, coding: str) -> bytes:
    """The body without its Content-Encoding; stops at MAX_BODY, so that a small bomb stays small.

    Raises:
        UnsupportedBody: a coding other than gzip.
        BodyTooLarge: more than MAX_BODY bytes inside.
        MalformedEvent: damaged or incomplete gzip.
    """
    coding = coding.strip().lower() or "identity"
    if coding not in CODINGS:
        raise UnsupportedBody(f"Content-Encoding must be gzip or absent, is `{coding[:64]}`")
    if coding == "identity":
        return body
    out, at = bytearray(), 0
    while at < len(body):
        member = zlib.decompressobj(_GZIP)
        while at < len(body) and not member.eof:
            try:
                out += member.decompress(body[at : at + _BLOCK], MAX_BODY + 1 - len(out))
            except zlib.error as error:
                raise MalformedEvent(f"body is no gzip: {error}") from None
            if len(out) > MAX_BODY:
                raise BodyTooLarge(f"the body has more than {MAX_BODY} bytes after decompression")
            at += _BLOCK
        if not member.eof:
            raise MalformedEvent("body is no complete gzip")
        at = min(at, len(body)) - len(member.unused_data)
    return bytes(out)


def parcels_of(content_type: str, headers: Mapping[str, str], body: bytes) -> list[Parcel]:
    """Records of a body, in order.

    Args:
        content_type: value of the header.
        headers: names in small letters; `ce-*` make it a CloudEvent in binary mode.
        body: without content coding.

    Raises:
        UnsupportedBody: media type or character set.
        MalformedEvent: the body as a whole can not be taken apart.
        BodyTooLarge: more than MAX_EVENTS records.
    """
    kind = _media_type(content_type, MEDIA_TYPES)
    parcels = _split(kind, headers, body)
    _check_count(len(parcels))
    return parcels


def foreign_parcels(content_type: str, body: bytes, parser: Parser) -> Parsed:
    """Records of a body in a gateway's or authorization server's own format, in order.

    Args:
        content_type: value of the header; JSON is one value, NDJSON and text are one a line.
        body: without content coding.
        parser: of the format.

    Raises:
        UnsupportedBody, MalformedEvent, BodyTooLarge: as `parcels_of`.
    """
    kind = _media_type(content_type, (JSON, *NDJSON, TEXT))
    values = [body] if kind == JSON else split_ndjson(body, MAX_EVENTS)
    _check_count(len(values))
    parcels, skipped = [], 0
    for value in values:
        try:
            parsed = parser(value, {})
        except MalformedEvent as error:
            if kind == JSON:
                raise
            parsed = Parsed([refused(value, error)])
        parcels += parsed.parcels
        skipped += parsed.skipped
        _check_count(len(parcels) + skipped)
    return Parsed(parcels, skipped)


def _check_count(records: int) -> None:
    if records > MAX_EVENTS:
        raise BodyTooLarge(f"the body holds {records} events or more; one request may hold {MAX_EVENTS}")


def _media_type(content_type: str, known: tuple[str, ...]) -> str:
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind not in known:
        raise UnsupportedBody(f"Content-Type must be one of {', '.join(known)}")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedBody("JSON is UTF-8; no other charset is read")
    return kind


def _split(kind: str, headers: Mapping[str, str], body: bytes) -> list[Parcel]:
    if kind == CLOUDEVENT:
        return [structured_parcel(body)]
    if kind == CLOUDEVENTS:
        return [structured_parcel(event) for event in split_batch(body, MAX_EVENTS)]
    if "ce-specversion" in headers:
        return [Parcel(_envelope(headers, body), lambda: from_binary(headers, body))]
    raws = split_json(body, MAX_EVENTS) if kind == JSON else split_ndjson(body, MAX_EVENTS)
    return list(map(Parcel._make, zip(raws, repeat(None), repeat("$"))))  # a third of what `Parcel(raw)` takes for each


def stored_parcels(raw: bytes, parser: Parser) -> list[Parcel]:
    """What is in a dead letter of a foreign format; where it can not be taken apart, it is refused again."""
    try:
        return parser(raw, {}).parcels
    except MalformedEvent as error:
        return [refused(raw, error)]


def stored_parcel(raw: bytes) -> Parcel:
    """A record out of a dead letter, which does not say in which format it came: CloudEvents name themselves."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Parcel(raw)
    return structured_parcel(raw) if "specversion" in members else Parcel(raw)


def _envelope(headers: Mapping[str, str], body: bytes) -> bytes:
    return binary_envelope({name: headers[f"ce-{name}"] for name in ATTRIBUTES if f"ce-{name}" in headers}, body)
