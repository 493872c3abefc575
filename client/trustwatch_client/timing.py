"""Clocks, pauses and backoff. Only this module of the client reads clocks, so that tests can replace them."""

from __future__ import annotations

import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """Clock with seconds since 1970 (`wall`), and seconds that never go back (`steady`)."""

    def wall(self) -> float: ...

    def steady(self) -> float: ...


class SystemClock:
    """Clock of this machine."""

    def wall(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()


_system_random = random.SystemRandom()
MAX_BACKOFF_EXPONENT = 20


_MAX_DIGITS = 9
"""Maximum number of digits read; the caller bounds longer pauses anyway."""


def parse_retry_after(header: str | None, now_s: float) -> float | None:
    """Return the seconds in `Retry-After` (RFC 9110), a number or a date, or None if it is missing or invalid.

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
    """Return the seconds until the next attempt: random up to a bound that doubles, so that senders spread out."""
    return _system_random.uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt - 1, MAX_BACKOFF_EXPONENT)))
