"""Units of time, and the texts that times are written as. Times are UTC milliseconds since 1970."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

HOUR_S = 3_600
DAY_S = 24 * HOUR_S

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_rfc3339(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds.

    >>> format_rfc3339(1_764_023_054_130)
    '2025-11-24T22:24:14.130Z'
    """
    return f"{_seconds_text(at_ms // 1000)}.{at_ms % 1000:03d}Z"


def format_rfc3339_seconds(at_ms: int) -> str:
    """RFC 3339 in UTC with whole seconds; milliseconds are cut off.

    >>> format_rfc3339_seconds(1_764_023_054_130)
    '2025-11-24T22:24:14Z'
    """
    return f"{_seconds_text(at_ms // 1000)}Z"


def format_day(day: int) -> str:
    """Date of a day of UTC, counted from 1970-01-01.

    >>> format_day(20_000)
    '2024-10-04'
    """
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


@lru_cache(maxsize=1_024)  # what is written together happened in few seconds
def _seconds_text(at_s: int) -> str:
    # Integers all the way: a float of seconds would be off by a millisecond in far years.
    return (EPOCH + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%S")
