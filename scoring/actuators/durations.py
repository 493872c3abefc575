"""Durations as Go writes them (`1h30m0s`), which Hydra speaks."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_go_duration(text: str) -> float:
    """Seconds of a Go duration. Raises ValueError.

    >>> duration_s("1h30m0s"), duration_s("1.5s"), duration_s("250ms"), duration_s("0")
    (5400.0, 1.5, 0.25, 0.0)
    """
    if text == "0":
        return 0.0
    total, at = 0.0, 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != at:
            break
        total += float(part.group(1)) * _UNITS_NS[part.group(2)]
        at = part.end()
    if at != len(text) or not text:
        raise ValueError(f"{text!r} is no duration")
    return total / 10**9
