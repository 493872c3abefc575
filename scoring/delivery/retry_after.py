"""Retry-After, the header by which a server asks for a pause (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

_MAX_DIGITS = 9
"""Most digits that are read: so long a pause is bounded by the caller anyhow."""


def parse_retry_after(header: str | None, now_ms: int) -> float | None:
    """Seconds to wait by a Retry-After header, which is a number or a date; None = absent or not understood.

    >>> parse_retry_after("120", 0), parse_retry_after("soon", 0)
    (120.0, None)
    >>> parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10_000)
    20.0
    """
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:_MAX_DIGITS])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - now_ms / 1000)
