"""Times in answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_rfc3339(at_ms: int) -> str:
    """UTC milliseconds since 1970 as RFC 3339.

    >>> iso_ms(1_764_023_054_130)
    '2025-11-24T22:24:14.130Z'
    """
    return (_EPOCH + timedelta(milliseconds=at_ms)).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def format_rfc3339_or_none(at_ms: int) -> str | None:
    """As `format_rfc3339`; None for 0, which stands for never."""
    return format_rfc3339(at_ms) if at_ms else None
