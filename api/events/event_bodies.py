"""Parsing of request bodies into records, whatever the media type; the records themselves are not decoded yet."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Final

import msgspec

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.formats.cloudevents import (
    CONTEXT_ATTRIBUTES,
    binary_envelope,
    decode_http_binary,
    split_batch,
    structured_record,
)
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

from .intake_limits import BodyTooLarge, UnsupportedBody

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
MEDIA_TYPE_FORMATS: Final = ("native", "ndjson", "cloudevents")  # Formats that are recognised by their media type
CONTENT_CODINGS: Final = ("identity", "gzip", "x-gzip")

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_INFLATE_BLOCK_BYTES = 4096
"""Bytes unpacked in one go. What is behind a member is copied at its end: of the whole body, thousands of empty members
would take minutes."""


def decompress_body(body: bytes, coding: str) -> bytes:
    """The body without its Content-Encoding; stops at `MAX_BODY_BYTES`, so that a small bomb stays small.

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
                raise MalformedEvent(f"body is no gzip: {error}") from None
            if len(out) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"the body has more than {MAX_BODY_BYTES} bytes after decompression")
            at += _INFLATE_BLOCK_BYTES
        if not member.eof:
            raise MalformedEvent("body is no complete gzip")
        at = min(at, len(body)) - len(member.unused_data)
    return bytes(out)


def parse_body(content_type: str, headers: Mapping[str, str], body: bytes) -> list[RawRecord]:
    """Records of a body, in order. Raises UnsupportedBody, MalformedEvent, BodyTooLarge."""
    kind = _media_type(content_type, EVENT_MEDIA_TYPES)
    raw_records = _split_body(kind, headers, body)
    _check_count(len(raw_records))
    return raw_records


def parse_foreign_body(
    content_type: str, body: bytes, parser: FormatParser, pause: Callable[[], None] = lambda: None
) -> ParsedRecords:
    """Records of a body in a gateway's or authorization server's own format, in order.

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
            raise UnsupportedBody("JSON is UTF-8; no other charset is read")
    return kind


def _split_body(kind: str, headers: Mapping[str, str], body: bytes) -> list[RawRecord]:
    if kind == CLOUDEVENT_MEDIA_TYPE:
        return [structured_record(body)]
    if kind == CLOUDEVENT_BATCH_MEDIA_TYPE:
        return [structured_record(event) for event in split_batch(body, MAX_BODY_EVENTS)]
    if "ce-specversion" in headers:
        return [RawRecord(_cloudevent_envelope(headers, body), lambda: decode_http_binary(headers, body))]
    raws = split_json(body, MAX_BODY_EVENTS) if kind == JSON_MEDIA_TYPE else split_ndjson(body, MAX_BODY_EVENTS)
    return list(
        map(RawRecord._make, zip(raws, repeat(None), repeat("$"), repeat(None)))
    )  # a third of what `RawRecord(raw)` takes for each


def parse_foreign_dead_letter(raw: bytes, parser: FormatParser) -> list[RawRecord]:
    """The records in a dead letter of a foreign format; where it can not be taken apart, it is refused again."""
    if isinstance(parser, RecordMapping):
        parser = parser.without_wrapper()  # a letter holds a record, which was cut before it was refused
    try:
        return parser(raw, {}).records
    except MalformedEvent as error:
        return [rejected_record(raw, error)]


def parse_dead_letter(raw: bytes) -> RawRecord:
    """A record out of a dead letter, which does not say in which format it came: CloudEvents name themselves."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return RawRecord(raw)
    return structured_record(raw) if "specversion" in members else RawRecord(raw)


def _cloudevent_envelope(headers: Mapping[str, str], body: bytes) -> bytes:
    return binary_envelope(
        {name: headers[f"ce-{name}"] for name in CONTEXT_ATTRIBUTES if f"ce-{name}" in headers}, body
    )
