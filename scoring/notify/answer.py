"""What an HTTP answer of a target means for the delivery."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from ..outbox.base import DeliveryResult

MAX_ERROR_CHARS = 200
"""So much of an answer is kept and logged, and no more: it is the target's text, not ours."""

# Request Timeout, Too Early, Too Many Requests: the only refusals (4xx) that time may change.
_RETRIED_STATUSES = frozenset({408, 425, 429})


def classify_response(status: int, retry_after: str | None, text: str, now_ms: int) -> DeliveryResult:
    """Meaning of an answer.

    Args:
        status: HTTP status.
        retry_after: that header, None = absent.
        text: beginning of the body, for the operator.
        now_ms: UTC milliseconds.
    """
    if 200 <= status < 300:
        return DeliveryResult("delivered")
    error = f"HTTP {status}" + _printable_detail(text)
    if status == 410:
        return DeliveryResult("gone", error)
    if status >= 500 or status in _RETRIED_STATUSES:
        return DeliveryResult("retry", error, parse_retry_after(retry_after, now_ms))
    if 300 <= status < 400:
        return DeliveryResult("failed", f"HTTP {status}: redirects are not followed; configure the final URL")
    return DeliveryResult("failed", error)


def parse_retry_after(header: str | None, now_ms: int) -> float | None:
    """Seconds to wait by a Retry-After header, which is a number or a date; None = absent or not understood.

    >>> retry_after_s("120", 0), retry_after_s("Thu, 01 Jan 1970 00:00:30 GMT", 10_000), retry_after_s("soon", 0)
    (120.0, 20.0, None)
    """
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - now_ms / 1000)


def _printable_detail(text: str) -> str:
    """One line without control characters: a target must not write into our log or terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())[:MAX_ERROR_CHARS]
    return f": {line}" if line else ""
