"""RFC 3339 times, to the millisecond of the reference path."""

from __future__ import annotations

import numpy as np

from ..compiled import allocation_free, as_int, inlined
from .text import COLON, DOT, MINUS, PLUS, ZERO, Bytes, is_digit

FIRST_YEAR, LAST_YEAR = 1970, 2250
"""Until then microseconds since 1970 are exact as float64."""

_DATE_TIME_MARK, _ZULU = b"TZ"
_SHORTEST = len("2026-01-01T00:00:00Z")
_DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EPOCH_DAY = 719_162
"""Days from 0001-01-01 to 1970-01-01."""


@inlined
def _two_digits(data: Bytes, at: int) -> int:
    """Two digits as a number; negative where they are none."""
    if not (is_digit(data[at]) and is_digit(data[at + 1])):
        return -10_000
    return as_int(data[at] - ZERO) * 10 + as_int(data[at + 1] - ZERO)


@allocation_free
def _days_since_epoch(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date; -1 where the calendar has no such date in our years."""
    if not (FIRST_YEAR <= year <= LAST_YEAR and 1 <= month <= 12):
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _DAYS[month - 1] + (1 if leap and month == 2 else 0):
        return -1
    before = year - 1
    passed = before * 365 + before // 4 - before // 100 + before // 400 - _EPOCH_DAY
    return passed + _DAYS_BEFORE[month - 1] + (1 if leap and month > 2 else 0) + day - 1


@allocation_free
def _offset_s(data: Bytes, at: int, end: int) -> int:
    """UTC offset in seconds of `Z` or `+hh:mm` that fills the rest of the text; 100,000 for any other."""
    if at + 1 == end and data[at] == _ZULU:
        return 0
    if at + 6 != end or data[at + 3] != COLON or not (data[at] == MINUS or data[at] == PLUS):
        return 100_000
    hours, minutes = _two_digits(data, at + 1), _two_digits(data, at + 4)
    if not (0 <= hours <= 23 and 0 <= minutes <= 59):
        return 100_000
    seconds = hours * 3600 + minutes * 60
    return -seconds if data[at] == MINUS else seconds


@allocation_free
def _seconds_since_epoch(data: Bytes, at: int) -> int:
    """Seconds from 1970 to `yyyy-mm-ddThh:mm:ss`, without an offset; -1 where the text is another."""
    marks = data[at + 4] == MINUS and data[at + 7] == MINUS and data[at + 10] == _DATE_TIME_MARK
    if not (marks and data[at + 13] == COLON and data[at + 16] == COLON):
        return -1
    day = _days_since_epoch(
        _two_digits(data, at) * 100 + _two_digits(data, at + 2), _two_digits(data, at + 5), _two_digits(data, at + 8)
    )
    hour, minute, second = _two_digits(data, at + 11), _two_digits(data, at + 14), _two_digits(data, at + 17)
    if day < 0 or not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return -1
    return ((day * 24 + hour) * 60 + minute) * 60 + second


@allocation_free
def rfc3339_ms(data: Bytes, at: int, end: int) -> int:
    """UTC milliseconds of the time in data[at:end]; -1 where it is unusual, more than six decimals included."""
    if end - at < _SHORTEST:
        return -1
    seconds, micros = _seconds_since_epoch(data, at), 0
    at += 19
    if data[at] == DOT:
        at, scale = at + 1, 100_000
        while is_digit(data[at]) and scale > 0:
            micros += as_int(data[at] - ZERO) * scale
            scale //= 10
            at += 1
        if scale == 100_000 or is_digit(data[at]):
            return -1
    offset = _offset_s(data, at, end)
    if seconds < 0 or offset == 100_000 or seconds < offset:
        return -1
    # The reference goes through seconds as float64 (`datetime.timestamp`); its last microsecond is part of the answer.
    exact = np.float64((seconds - offset) * 1_000_000 + micros)
    return as_int(np.rint(exact / 1e6 * 1e6)) // 1000
