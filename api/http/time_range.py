"""Ranges of time as a URL has them: relative (`24h`) or absolute, so that a link shows the same to everybody."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

from .problems import ProblemError, invalid_value_error

CHOICES = (("1h", "last hour"), ("24h", "last 24 hours"), ("7d", "last 7 days"), ("30d", "last 30 days"))
"""Relative beginnings that pages offer; a URL may have any other."""

_RELATIVE = re.compile(r"^(\d{1,5})([mhd])$")
_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


class TimeRange(NamedTuple):
    """From `since_ms` on, before `until_ms`, UTC milliseconds; 0 = no bound."""

    since_ms: int = 0
    until_ms: int = 0


def parse_time_range(since: str, until: str, now_ms: int) -> TimeRange:
    """The range of two texts; an empty one is no bound.

    Raises:
        ProblemError: 422, one can not be read, or the range ends before it begins.
    """
    time_range = TimeRange(_moment("since", since, now_ms), _moment("until", until, now_ms))
    if time_range.until_ms and time_range.since_ms >= time_range.until_ms:
        raise invalid_value_error("until", "is not after since")
    return time_range


def _moment(name: str, text: str, now_ms: int) -> int:
    """UTC milliseconds of a text.

    >>> _moment("since", "2h", 10_000_000_000), _moment("since", "2026-11-28T18:04", 0), _moment("since", "", 5)
    (9992800000, 1795889040000, 0)
    """
    text = text.strip()
    if not text:
        return 0
    relative = _RELATIVE.match(text)
    if relative is not None:
        return max(1, now_ms - int(relative[1]) * _UNITS_MS[relative[2]])
    try:
        at = datetime.fromisoformat(text)
        return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise _unreadable(name) from None


def _unreadable(name: str) -> ProblemError:
    return invalid_value_error(name, "is no time: write 24h, 7d or 2026-11-28T18:04 (UTC)")
