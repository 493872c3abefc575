"""Raw records, cut out of bodies and messages, and the interface that every format implements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from ..errors import MalformedEvent


class RawRecord(NamedTuple):
    """One record as it came in.

    Attributes:
        raw: kept in the dead letter if the record is refused, and enough to try it again.
        to_native: makes native event JSON of it; None = it is native already.
        path_prefix: path of the native event in the sent record, for paths of rejections.
    """

    raw: bytes
    to_native: Callable[[], bytes] | None = None
    path_prefix: str = "$"


class ParsedRecords(NamedTuple):
    """Content of a foreign record: raw records in order, and the number of parts that are no audit events by design."""

    records: list[RawRecord]
    skipped: int = 0


FormatParser = Callable[[bytes, Mapping[str, str]], ParsedRecords]
"""Takes a record apart: its value and its headers (names in small letters).

Raises MalformedEvent where the record as a whole can not be taken apart; what is wrong with one of several events in it
is raised by that record's `to_native`.
"""


def rejected_record(raw: bytes, error: MalformedEvent) -> RawRecord:
    """A raw record that is refused already."""

    def refuse() -> bytes:
        raise error

    return RawRecord(raw, refuse)


# Bodies are cut into records without decoding them, so that a bad record rejects only itself.
#
# *most* bounds what a hostile body can cost: 16 MiB hold 8 million records of one byte, and an object for each of them
# takes half a minute. A caller that gives it gets one record more where there are more, and so can tell.


_NDJSON_LINE = re.compile(rb"\S[^\n]*")
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def split_json(raw: bytes, most: int | None = None) -> list[bytes]:
    """Records of a native JSON body: one object, or an array of objects.

    Raises:
        MalformedEvent: at `$`, when the body is neither, or the array as such is broken.
    """
    body = raw.strip()
    if body.startswith(b"{"):
        return [body]
    return split_array(body, "an object or an array of objects", most)


def split_array(raw: bytes, expected: str = "an array of objects", most: int | None = None) -> list[bytes]:
    """Elements of a JSON array, each as it stands, not checked to be an event.

    Raises:
        MalformedEvent: at `$`, when the body is no JSON array; *expected* is named.
    """
    if not raw.lstrip().startswith(b"["):
        raise MalformedEvent(f"body must be {expected}")
    try:
        return [bytes(element) for element in islice(_array_decoder.decode(raw), _limit_with_one_more(most))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"body is no JSON array: {error}") from None


MAX_VALUE_RECORDS = 10_000
"""Records that a mapping takes out of one value: each is decoded, and takes some hundred times its bytes."""


class TooManyRecords(MalformedEvent):
    """Raised for a value that holds more than `MAX_VALUE_RECORDS`."""

    def __init__(self) -> None:
        super().__init__(f"the value holds more than {MAX_VALUE_RECORDS} records: send fewer at once")


def split_ndjson(raw: bytes, most: int | None = None) -> list[bytes]:
    """Lines of a newline-delimited body that are not blank."""
    if most is None or raw.count(b"\n") <= most:  # half of what the expression takes
        return [line for line in map(bytes.strip, raw.split(b"\n")) if line]
    return [line.group().rstrip() for line in islice(_NDJSON_LINE.finditer(raw), _limit_with_one_more(most))]


def _limit_with_one_more(most: int | None) -> int | None:
    return None if most is None else most + 1
