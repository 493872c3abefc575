"""The only place of the client that reads clocks; tests pass another one."""

from __future__ import annotations

import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """Seconds since 1970 (`wall`), and seconds that never go back (`steady`)."""

    def wall(self) -> float: ...

    def steady(self) -> float: ...


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()


_system_random = random.SystemRandom()
MAX_BACKOFF_EXPONENT = 20


_MAX_DIGITS = 9
"""Most digits of a pause that are read: so long a one is bounded by the caller anyhow."""


def parse_retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds that `Retry-After` (RFC 9110), a number or a date, asks for; None if it is missing or not readable.

    >>> parse_retry_after("120", 0), parse_retry_after("soon", 0)
    (120.0, None)
    >>> parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10)
    20.0
    """
    header = (header or "").strip()
    if header.isascii() and header.isdigit():
        return float(header[:_MAX_DIGITS])
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, TypeError, IndexError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - now_s)


def backoff(attempt: int, first_s: float, most_s: float) -> float:
    """Seconds to wait before the next attempt: at random up to a bound that doubles, so that many senders spread."""
    return _system_random.uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt - 1, MAX_BACKOFF_EXPONENT)))
