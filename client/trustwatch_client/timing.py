"""The only place of the client that reads clocks; tests pass another one."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
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


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds that `Retry-After` asks for (a number or a date), from 0; None if it is missing or not readable."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit() and len(said) <= 9:
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - wall)
    except (ValueError, TypeError, IndexError):
        return None


def backoff(attempt: int, first_s: float, most_s: float) -> float:
    """Seconds to wait before the next attempt: at random up to a bound that doubles, so that many senders spread.

    Args:
        attempt: attempts that failed so far, from 1.
    """
    return _system_random.uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt - 1, MAX_BACKOFF_EXPONENT)))
