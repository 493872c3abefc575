"""Ranges of time in URLs: relative and absolute, and what is said of what is none."""

from __future__ import annotations

import pytest

from trustwatch.api.decisions.service import TimeRange, parse_time_range
from trustwatch.api.http.problems import ProblemError

NOW = 1_764_000_000_000
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        ("", "", TimeRange(0, 0)),
        ("24h", "", TimeRange(NOW - 24 * HOUR, 0)),
        ("7d", "90m", TimeRange(NOW - 168 * HOUR, NOW - 90 * 60_000)),
        ("2025-11-24T16:00", "2025-11-24T17:00:00+01:00", None),
        ("2025-11-24", "2025-11-24 16:00:00Z", TimeRange(1_763_942_400_000, NOW)),
        ("99999d", "", TimeRange(1, 0)),
    ],
)
def test_a_range_is_what_it_says(since: str, until: str, found: TimeRange | None) -> None:
    if found is None:
        with pytest.raises(ProblemError, match="not after"):
            parse_time_range(since, until, NOW)
    else:
        assert parse_time_range(since, until, NOW) == found


@pytest.mark.parametrize("text", ["yesterday", "24", "h", "-3h", "9" * 40, "2025-13-01"])
def test_what_is_no_time_is_refused_with_what_to_write(text: str) -> None:
    for since, until in ((text, ""), ("", text)):
        with pytest.raises(ProblemError, match="write 24h"):
            parse_time_range(since, until, NOW)
