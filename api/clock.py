"""The machine's clock: the only place that reads it. Everything else is given a clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic = time.monotonic
sleep = time.sleep


def now_s() -> float:
    """Return seconds since 1970, UTC."""
    return time.time()


def now_ms() -> int:
    """Return milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def utc_now() -> datetime:
    """Return the current time as an aware datetime."""
    return datetime.now(UTC)
