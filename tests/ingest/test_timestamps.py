"""The texts that times are written as, against Python's own."""

from datetime import UTC, date, datetime, timedelta

import pytest

from trustwatch.ingest.timestamps import (
    DAY_MS,
    DAY_S,
    HOUR_MS,
    HOUR_S,
    MINUTE_MS,
    WEEK_MS,
    format_day,
    format_rfc3339,
    format_rfc3339_seconds,
)

TIMES = [0, 1, 999, 1_000, 951_782_399_999, 1_764_023_054_130, 4_102_444_800_001, 221_845_392_000_007]


def test_units_are_what_they_say():
    assert [MINUTE_MS, HOUR_MS, DAY_MS, WEEK_MS] == [60_000, 3_600_000, 86_400_000, 604_800_000]
    assert [HOUR_S * 1000, DAY_S * 1000] == [HOUR_MS, DAY_MS]


@pytest.mark.parametrize("at_ms", TIMES)
def test_a_time_is_written_to_the_millisecond(at_ms):
    exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)

    assert format_rfc3339(at_ms) == exact.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert format_rfc3339_seconds(at_ms) == exact.isoformat(timespec="seconds").replace("+00:00", "Z")


@pytest.mark.parametrize("day", [0, 59, 11_016, 20_000])
def test_a_day_is_written_as_its_date(day):
    assert date.fromisoformat(format_day(day)) == date(1970, 1, 1) + timedelta(days=day)
