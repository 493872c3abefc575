"""One record as it came in, cut out of whatever carried it, and the seam that every format implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import MalformedEvent


class RawRecord(NamedTuple):
    """One record as it came in.

    Attributes:
        raw: kept in the dead letter if the record is refused, and enough to try it again.
        to_native: makes native event JSON of it; None = it is native already.
        path_prefix: where the native event stands in what was sent, for paths of rejections.
    """

    raw: bytes
    to_native: Callable[[], bytes] | None = None
    path_prefix: str = "$"


class ParsedRecords(NamedTuple):
    """What a foreign record holds: parcels in order, and how many of its records are no audit events by design."""

    records: list[RawRecord]
    skipped: int = 0


FormatParser = Callable[[bytes, Mapping[str, str]], ParsedRecords]
"""Takes a record apart: its value and its headers (names in small letters).

Raises MalformedEvent where the record as a whole can not be taken apart; what is wrong with one of several events in it
is raised by that parcel's `native`.
"""


def rejected_record(raw: bytes, error: MalformedEvent) -> RawRecord:
    """A parcel of which it is known already that it is refused."""

    def refuse() -> bytes:
        raise error

    return RawRecord(raw, refuse)
