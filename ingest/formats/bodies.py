"""Request bodies: decompressed, and cut into records of any format. Small enough to import in a pool of workers."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Final, NamedTuple, overload

import msgspec

from ..errors import MalformedEvent, TrustwatchError
from . import otlp
from .cloudevents import CONTEXT_ATTRIBUTES, binary_envelope, decode_http_binary, split_batch, structured_record
from .format_registry import MEDIA_TYPE_FORMATS, create_parser
from .raw_records import (
    Enclosure,
    FormatParser,
    ParsedRecords,
    ParserBudget,
    RawRecord,
    Surroundings,
    TooManyRecords,
    rejected_record,
    split_json,
    split_ndjson,
)
from .record_mapping import mapping_spec


class BodyTooLarge(TrustwatchError):
    """Raised if a request has more bytes or events than allowed, or needs more memory."""

    code = "body_too_large"


class UnsupportedBody(TrustwatchError):
    """Raised for an unsupported media type, character set or content coding. The message names the supported ones."""

    code = "unsupported_body"


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


def parse_foreign_body(content_type: str, body: bytes, parser: FormatParser) -> ParsedRecords:
    """Parse the records of a body in the format of a gateway or an authorization server, in order.

    Raises UnsupportedBody, MalformedEvent, BodyTooLarge.
    """
    kind = _media_type(content_type, (JSON_MEDIA_TYPE, *NDJSON_MEDIA_TYPES, TEXT_MEDIA_TYPE))
    values = [body] if kind == JSON_MEDIA_TYPE else split_ndjson(body, MAX_BODY_EVENTS)
    _check_count(len(values))
    raw_records, skipped, budget = [], 0, ParserBudget(MAX_BODY_EVENTS)
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


class BodyFormat(NamedTuple):
    """The format of a body: as the media type says if `name` is native, else that of another program."""

    name: str = "native"
    mapping: bytes = b""  # JSON of `mapping` in the settings
    protobuf: otlp.OtlpSignal | None = None

    @property
    def is_foreign(self) -> bool:
        """True for formats of other programs. Their records are shuffled, so they are sorted by time."""
        return self.name not in MEDIA_TYPE_FORMATS

    def parser(self) -> FormatParser:
        """Return the parser of a foreign format. Raises ConfigError."""
        return _parser(self.name, self.mapping)

    def parse(self, headers: Mapping[str, str], body: bytes) -> ParsedRecords:
        """Parse the records of a body, in order. Raises UnsupportedBody, MalformedEvent, BodyTooLarge."""
        content_type = headers.get("content-type", "")
        if not self.is_foreign:
            return ParsedRecords(parse_body(content_type, headers, body))
        if self.protobuf is not None:
            content_type, body = JSON_MEDIA_TYPE, otlp.protobuf_to_json(self.protobuf, body)
        return parse_foreign_body(content_type, body, self.parser())


@lru_cache(64)
def _parser(name: str, mapping: bytes) -> FormatParser:
    return create_parser(name, mapping_spec(msgspec.json.decode(mapping)) if mapping else None)


# Records as a worker of a pool returns them: converted, and in chunks, so that the process that answers unpacks a few
# at a time.

CHUNK_RECORDS: Final = 32


class _PackedRecord(msgspec.Struct, array_like=True, gc=False):
    raw: bytes | int  # a number is the position of bytes that several records share
    native: bytes | None
    refused: tuple[str, str] | None  # reason and path
    path_prefix: str
    around: int  # position of the surroundings, -1 = there are none
    before: bytes = b""
    after: bytes = b""


_pack_chunk = msgspec.msgpack.Encoder().encode
_unpack_chunk = msgspec.msgpack.Decoder(list[_PackedRecord]).decode


class PackedRecords(Sequence[RawRecord]):
    """Records of a body that are unpacked chunk by chunk, when they are read."""

    def __init__(self, records: Sequence[RawRecord]) -> None:
        uses = Counter(id(record.raw) for record in records)
        self._length = len(records)
        shared: dict[int, tuple[int, bytes]] = {}
        surroundings: dict[int, tuple[int, Surroundings]] = {}
        self._chunks = []
        for start in range(0, len(records), CHUNK_RECORDS):
            chunk = []
            for record in records[start : start + CHUNK_RECORDS]:
                raw: bytes | int = record.raw
                if uses[id(raw)] > 1:
                    raw = shared.setdefault(id(raw), (len(shared), record.raw))[0]
                chunk.append(_packed(record, raw, surroundings))
            self._chunks.append(_pack_chunk(chunk))
        self._shared = [raw for _, raw in shared.values()]
        self._surroundings = [around for _, around in surroundings.values()]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> RawRecord: ...
    @overload
    def __getitem__(self, at: slice) -> list[RawRecord]: ...
    def __getitem__(self, at: int | slice) -> RawRecord | list[RawRecord]:
        wanted = range(self._length)[at]
        if isinstance(wanted, int):
            return self._unpacked(wanted // CHUNK_RECORDS)[wanted % CHUNK_RECORDS]
        if wanted.step != 1:
            return [self[one] for one in wanted]
        start, stop = wanted.start, max(wanted.start, wanted.stop)
        first = start // CHUNK_RECORDS
        records = [record for chunk in range(first, -(-stop // CHUNK_RECORDS)) for record in self._unpacked(chunk)]
        return records[start - first * CHUNK_RECORDS : stop - first * CHUNK_RECORDS]

    def _unpacked(self, chunk: int) -> list[RawRecord]:
        records = []
        for packed in _unpack_chunk(self._chunks[chunk]):
            raw = self._shared[packed.raw] if isinstance(packed.raw, int) else packed.raw
            enclosure = None
            if packed.around >= 0:
                enclosure = Enclosure(self._surroundings[packed.around], packed.before, packed.after)
            if packed.refused is not None:
                records.append(rejected_record(raw, MalformedEvent(*packed.refused), enclosure))
            else:
                to_native = None if packed.native is None else partial(bytes, packed.native)
                records.append(RawRecord(raw, to_native, packed.path_prefix, enclosure))
        return records


def _packed(record: RawRecord, raw: bytes | int, surroundings: dict[int, tuple[int, Surroundings]]) -> _PackedRecord:
    native, refused, around = None, None, -1
    try:
        native = None if record.to_native is None else record.to_native()
    except MalformedEvent as error:
        refused = error.reason, error.path
    if record.enclosure is None:
        return _PackedRecord(raw, native, refused, record.path_prefix, around)
    shared, before, after = record.enclosure
    around = surroundings.setdefault(id(shared), (len(surroundings), shared))[0]
    return _PackedRecord(raw, native, refused, record.path_prefix, around, before, after)


class ReadBody(NamedTuple):
    """A body that was read: its decompressed bytes if it is malformed, else its records; how many were skipped."""

    size: int
    records: Sequence[RawRecord] = ()
    skipped: int = 0
    malformed: tuple[str, str, bytes] | None = None  # reason, path, body


def read_body(body: bytes, coding: str, headers: Mapping[str, str], body_format: BodyFormat) -> ReadBody:
    """Decompress and parse a body. Raises UnsupportedBody, BodyTooLarge."""
    try:
        body = decompress_body(body, coding)
        parsed = body_format.parse(headers, body)
    except MalformedEvent as error:
        return ReadBody(len(body), malformed=(error.reason, error.path, body))
    return ReadBody(len(body), parsed.records, parsed.skipped)


def read_body_in_worker(
    body: bytes, coding: str, headers: Mapping[str, str], body_format: BodyFormat
) -> ReadBody | tuple[type[BodyTooLarge | UnsupportedBody], str]:
    """Do the same as `read_body` with packed records. Errors are returned: they do not survive between processes."""
    try:
        read = read_body(body, coding, headers, body_format)
    except (BodyTooLarge, UnsupportedBody) as error:
        return type(error), str(error)
    return read._replace(records=PackedRecords(read.records))
