"""Raw records, cut out of bodies and messages, and the interface that every format implements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec

from ..errors import MalformedEvent
from ..events import check_json_values, decode_json
from ..record_keys import RawRecordHash
from ..timestamps import EPOCH

MAX_REPEATED_BYTES = 64 * 1024
"""Bytes of surroundings that are repeated with further records; only the first copy may hold more."""


class Surroundings:
    """JSON around all records of a part of a body, such as the resource of spans: kept once, however many they are."""

    def __init__(self, before: Sequence[bytes], short: Sequence[bytes], after: bytes) -> None:
        self._before, self._short, self.after = tuple(before), tuple(short), after
        self.hashed = RawRecordHash(before)

    def __reduce__(self) -> tuple[type[Surroundings], tuple[Sequence[bytes], Sequence[bytes], bytes]]:
        return Surroundings, (self._before, self._short, self.after)

    def length(self, *, short: bool) -> int:
        """Bytes that a copy has without its records."""
        return sum(map(len, self._short if short else self._before)) + len(self.after)

    def enclose(self, records: Sequence[RawRecord], *, short: bool = False) -> bytes:
        """Records with the JSON around them, so that they can be parsed again."""
        parts = [
            enclosure.before + b",".join(record.raw for record in together) + enclosure.after
            for enclosure, together in groupby(records, attrgetter("enclosure"))
        ]
        return b"".join((*(self._short if short else self._before), b",".join(parts), self.after))


class Enclosure(NamedTuple):
    """JSON that has to be around a record to parse it again.

    Attributes:
        surroundings: shared with records of other enclosures.
        before: short JSON between the surroundings and the record.
        after: likewise.
    """

    surroundings: Surroundings
    before: bytes
    after: bytes

    def digest(self, raw: bytes) -> str:
        """Digest of the record with everything around it, computed without making that."""
        around = self.surroundings
        return around.hashed.followed_by(self.before, raw, self.after, around.after).hex()


class RawRecord(NamedTuple):
    """One record as it came in.

    Attributes:
        raw: kept in the dead letter if the record is refused. Records that came in one enclosing record share it.
        to_native: makes native event JSON of it; None = it is native already.
        path_prefix: path of the native event in the sent record, for paths of rejections.
        enclosure: JSON that has to be around *raw* to parse it again; None = it stands alone.
    """

    raw: bytes
    to_native: Callable[[], bytes] | None = None
    path_prefix: str = "$"
    enclosure: Enclosure | None = None

    @property
    def whole(self) -> bytes:
        """The record alone, in a form that its format parses again."""
        return self.raw if self.enclosure is None else self.enclosure.surroundings.enclose([self])


class ParsedRecords(NamedTuple):
    """Content of a foreign record: raw records in order, and the number of parts that are skipped by design."""

    records: list[RawRecord]
    skipped: int = 0


MAX_BODY_RECORDS = 100_000
"""Records in one body, or in one value of a topic or file."""

OUTPUT_FACTOR, OUTPUT_BYTES_PER_RECORD = 2, 1024
"""Bytes of native events that a body may become: its own times the factor, and so many for each record. What is refused
takes up to 1.8 times its bytes as dead letters, so that a body becomes at most four times its bytes in all."""


class TooManyRecords(MalformedEvent):
    """Raised for a value that holds more records than may be in one."""

    def __init__(self, most: int = MAX_BODY_RECORDS) -> None:
        super().__init__(f"the value holds more than {most} records: send fewer at once")


class TooMuchOutput(MalformedEvent):
    """Raised for a value whose events would have many times its bytes."""

    def __init__(self) -> None:
        super().__init__(
            f"its events would have more than {OUTPUT_FACTOR} times its bytes and {OUTPUT_BYTES_PER_RECORD} for each "
            "record: members that many records share are too long, or the mapping repeats long members"
        )


class ParserBudget:
    """Records and bytes that parsers may make of one body; counts across all values of the body."""

    def __init__(self, most: int = MAX_BODY_RECORDS) -> None:
        self.records = 0
        self._most = most
        self._left_bytes = 0

    def check_count(self, more: int) -> None:
        """Raise TooManyRecords if the body cannot hold so many further records."""
        if self.records + more > self._most:
            raise TooManyRecords(self._most)

    def open_value(self, value: bytes) -> int:
        """Grant what the bytes of a value allow; returns the number of records that it may hold."""
        self._left_bytes = max(self._left_bytes, 0) + OUTPUT_FACTOR * len(value)
        return self._most - self.records

    def count(self, native: bytes | None) -> None:
        """Count one record and its event, if it has one. Raises TooManyRecords, TooMuchOutput."""
        self.check_count(1)
        self.records += 1
        self._left_bytes += OUTPUT_BYTES_PER_RECORD
        self.check_bytes(len(native or b""))

    def check_bytes(self, more: int) -> None:
        """Count bytes of events. Raises TooMuchOutput."""
        self._left_bytes -= more
        if self._left_bytes < 0:
            raise TooMuchOutput


class FormatParser(Protocol):
    """Splits the value of a record into records; names of headers are in lower case."""

    def __call__(
        self, value: bytes, headers: Mapping[str, str], budget: ParserBudget | None = None, /
    ) -> ParsedRecords:
        """Return the records in a value, within *budget*; None allows what a body with this value alone may hold.

        Raises MalformedEvent if the value as a whole cannot be split; `to_native` of a record raises what is wrong with
        that record.
        """


def rejected_record(raw: bytes, error: MalformedEvent, enclosure: Enclosure | None = None) -> RawRecord:
    """Return a raw record whose conversion raises *error*."""

    def refuse() -> bytes:
        raise error

    return RawRecord(raw, refuse, enclosure=enclosure)


# Bodies are cut into records without decoding them, so that a bad record rejects only itself.
#
# *most* bounds what a hostile body can cost: a caller that gives it gets one record more if there are more, and so can
# detect that.


_NDJSON_LINE = re.compile(rb"\S[^\n]*")
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def split_json(raw: bytes, most: int | None = None) -> list[bytes]:
    """Split a native JSON body, which is one object or an array of objects. Raises MalformedEvent."""
    body = raw.strip()
    if body.startswith(b"{"):
        return [body]
    return split_array(body, "an object or an array of objects", most)


def split_array(raw: bytes, expected: str = "an array of objects", most: int | None = None) -> list[bytes]:
    """Split a JSON array into its elements, which are not checked to be events. Raises MalformedEvent."""
    if not raw.lstrip().startswith(b"["):
        raise MalformedEvent(f"body must be {expected}")
    check_json_values(raw)
    try:
        return [bytes(element) for element in islice(_array_decoder.decode(raw), _limit_with_one_more(most))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"body is not a JSON array: {error}") from None


def split_ndjson(raw: bytes, most: int | None = None) -> list[bytes]:
    """Split a newline-delimited body into the lines that are not blank."""
    if most is None or raw.count(b"\n") <= most:  # half of what the expression takes
        return [line for line in map(bytes.strip, raw.split(b"\n")) if line]
    return [line.group().rstrip() for line in islice(_NDJSON_LINE.finditer(raw), _limit_with_one_more(most))]


def _limit_with_one_more(most: int | None) -> int | None:
    return None if most is None else most + 1


# Lines of logs: `key=value` pairs behind a time and a level, and JSON that a shipper has wrapped.

_LOGFMT_PAIR = re.compile(r'(?:^|\s)([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|.*?)(?=\s[A-Za-z_][\w.-]*=|$)')
_LOGFMT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\S+")


def decode_logfmt(line: str) -> dict[str, str]:
    """Decode the pairs of one line; a time at its beginning becomes `time`. Unquoted values may hold spaces.

    Raises MalformedEvent.

    >>> decode_logfmt("2025-07-10T18:10:46Z\\tinfo\\trequest\\thttp.status=403 error=no token found duration=0ms")
    {'http.status': '403', 'error': 'no token found', 'duration': '0ms', 'time': '2025-07-10T18:10:46Z'}
    """
    pairs: dict[str, str] = {}
    for name, quoted in _LOGFMT_PAIR.findall(line.rstrip()):
        pairs[name] = value = quoted.strip()
        if len(value) > 1 and value[0] == '"':
            try:
                pairs[name] = msgspec.json.decode(value, type=str)
            except (msgspec.DecodeError, UnicodeDecodeError):
                pairs[name] = value[1:-1]
    if not pairs:
        raise MalformedEvent("record is neither JSON nor a line of key=value pairs")
    time = _LOGFMT_TIME.match(line)
    if time:
        pairs.setdefault("time", time[0])
    return pairs


# Log shippers wrap lines into JSON: Fluent Bit, Vector, Filebeat and containers' runtimes put the line into one member
# of an object and the time into another; servers that log JSON themselves (Keycloak) do the same.


TEXT_MEMBERS = ("message", "log", "msg", "MESSAGE", "line", "_raw")
"""Members in which log shippers put the line."""

TIME_MEMBERS = ("timestamp", "@timestamp", "time", "ts", "date")
"""Members in which they put the time."""

AGENTGATEWAY_SIGN = " src.addr="
"""A key that each line of agentgateway's log has."""

_decode = msgspec.json.Decoder().decode
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?")


def split_records(value: bytes) -> list[bytes]:
    """Split a value into a JSON object, the elements of an array, or lines of text or JSON.

    Returns at most one record more than a body may have.

    Raises MalformedEvent.
    """
    text = value.lstrip()
    if text[:1] == b"{" and b"\n{" not in text.rstrip():
        return [value]
    # An array begins with an object, a line of a log never does: `[2025-…]`, `[WARN]`.
    is_array = text[:1] == b"[" and text[1:].lstrip()[:1] in (b"{", b"]")
    return split_array(value, most=MAX_BODY_RECORDS) if is_array else split_ndjson(value, MAX_BODY_RECORDS)


def decode_object(raw: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises MalformedEvent."""
    record = decode_json(_decode, raw)
    if not isinstance(record, dict):
        raise MalformedEvent("record must be a JSON object, an array of objects, or a line of the log")
    return record


def shipper_text(record: Mapping[str, Any]) -> str | None:
    """Return the line in a log shipper's record; None if it holds none."""
    return next((text for name in TEXT_MEMBERS if isinstance(text := record.get(name), str)), None)


def shipper_time_ms(record: Mapping[str, Any]) -> int | None:
    """Return the time of a log shipper's record, UTC milliseconds; None if it has none.

    Numbers are seconds since 1970, or milliseconds if they are too large for that.
    """
    for name in TIME_MEMBERS:
        value = record.get(name)
        if isinstance(value, str) and (time_ms := parse_timestamp_ms(value)) is not None:
            return time_ms
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e14:
            return int(value * 1000 if value < 1e11 else value)
    return None


def parse_timestamp_ms(text: str) -> int | None:
    """Return the first time in *text*, UTC milliseconds; None if there is none. Without an offset it is UTC.

    >>> parse_timestamp_ms("2025-12-19 09:55:39,647 WARN"), parse_timestamp_ms("2025-12-19T09:55:39.647379+01:00")
    (1766138139647, 1766134539647)
    >>> parse_timestamp_ms("09:55") is None
    True
    """
    match = _TIMESTAMP.search(text)
    if match is None:
        return None
    day, time, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{'+00:00' if offset in (None, 'Z') else offset}")
    except ValueError:
        return None
    seconds = (moment - EPOCH) // timedelta(seconds=1)
    return seconds * 1000 + int((fraction or "0").ljust(3, "0")[:3])
