"""Lines of logs: `key=value` pairs behind a time and a level, and JSON that a shipper has wrapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from ..timestamps import EPOCH
from .raw_records import MAX_BODY_RECORDS, split_array, split_ndjson

_LOGFMT_PAIR = re.compile(r'(?:^|\s)([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|.*?)(?=\s[A-Za-z_][\w.-]*=|$)')
_LOGFMT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\S+")


def decode_logfmt(line: str) -> dict[str, str]:
    """Pairs of one line; the time in front, where there is one, is `time`. Unquoted values may hold spaces.

    Raises MalformedEvent.

    >>> decode_logfmt("2025-07-10T18:10:46Z\\tinfo\\trequest\\thttp.status=403 error=no token found duration=0ms")
    {'http.status': '403', 'error': 'no token found', 'duration': '0ms', 'time': '2025-07-10T18:10:46Z'}
    """
    pairs = {name: _unquoted(value.strip()) for name, value in _LOGFMT_PAIR.findall(line.rstrip())}
    if not pairs:
        raise MalformedEvent("record is neither JSON nor a line of key=value pairs")
    time = _LOGFMT_TIME.match(line)
    if time:
        pairs.setdefault("time", time[0])
    return pairs


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"':
        return value
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value[1:-1]


# Log shippers wrap lines into JSON: Fluent Bit, Vector, Filebeat and containers' runtimes put the line into one member
# of an object and the time into another; servers with a JSON log of their own (Keycloak's) do the same.


TEXT_MEMBERS = ("message", "log", "msg", "MESSAGE", "line", "_raw")
"""Members in which log shippers put the line."""

TIME_MEMBERS = ("timestamp", "@timestamp", "time", "ts", "date")
"""Members in which they put the time."""

AGENTGATEWAY_SIGN = " src.addr="
"""A key that each line of agentgateway's log has."""

_decode = msgspec.json.Decoder().decode
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?")


def split_records(value: bytes) -> list[bytes]:
    """A JSON object, the elements of an array, or lines of text or JSON; at most one more than a body may have.

    Raises MalformedEvent.
    """
    text = value.lstrip()
    if text[:1] == b"{" and b"\n{" not in text.rstrip():
        return [value]
    # An array begins with an object, a line of a log never does: `[2025-…]`, `[WARN]`.
    is_array = text[:1] == b"[" and text[1:].lstrip()[:1] in (b"{", b"]")
    return split_array(value, most=MAX_BODY_RECORDS) if is_array else split_ndjson(value, MAX_BODY_RECORDS)


def decode_object(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises MalformedEvent."""
    record = decode_json(_decode, raw)
    if not isinstance(record, dict):
        raise MalformedEvent("record must be a JSON object, an array of objects, or a line of the log")
    return record


def shipper_text(record: Mapping[str, Any]) -> str | None:
    """The line in a log shipper's record; None where it holds none."""
    return next((text for name in TEXT_MEMBERS if isinstance(text := record.get(name), str)), None)


def shipper_time_ms(record: Mapping[str, Any]) -> int | None:
    """UTC milliseconds that a log shipper's record names; None where there are none.

    Numbers are seconds since 1970, or milliseconds where they are too large for that.
    """
    for name in TIME_MEMBERS:
        value = record.get(name)
        if isinstance(value, str) and (time_ms := parse_timestamp_ms(value)) is not None:
            return time_ms
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e14:
            return int(value * 1000 if value < 1e11 else value)
    return None


def parse_timestamp_ms(text: str) -> int | None:
    """UTC milliseconds of the first time in *text*; one without offset counts as UTC. None where there is none.

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
