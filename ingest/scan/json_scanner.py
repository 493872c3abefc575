"""Read the JSON text of a record byte by byte: blanks, strings, numbers, and values that are skipped.

Every record ends in a zero byte that is not part of it. JSON has no such byte, so all loops end there without counting.
Positions are indices into the batch's bytes; -1 means that the text is unusual: invalid, or not plain enough.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..compilation import allocation_free, as_int, inlined
from ..hashing import load_word

Bytes = npt.NDArray[np.uint8]

QUOTE, BACKSLASH, COMMA, COLON, PLUS, MINUS, DOT, AT_SIGN, SLASH = b'"\\,:+-.@/'
ZERO, NINE = b"09"
OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = b"{}[]"
NULL_BEGINS, TRUE_BEGINS = b"nt"
_SPACE_BYTE, _NEWLINE, _RETURN, _TAB = b" \n\r\t"
_SIMPLE_ESCAPES = tuple(b'"\\/bfnrt')
_NULL, _TRUE, _FALSE = (int.from_bytes(word, "little") for word in (b"null", b"true", b"false"))
_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_INDEX = np.uint64(0x0001020304050607)
"""Factor for a number with one bit, the lowest of a byte: the product's highest byte is that byte's position."""
MAX_NESTING = 60
"""Maximum nesting of a skipped value; the levels are kept as the bits of one number."""
MAX_EXACT_DIGITS = 15
"""A number with at most this many digits and its power of ten are exact as float64, so their quotient is correctly
rounded."""


@inlined
def skip_blanks(data: Bytes, at: int) -> int:
    """Return the next position that is not a blank."""
    while data[at] == _SPACE_BYTE or data[at] == _NEWLINE or data[at] == _RETURN or data[at] == _TAB:
        at += 1
    return at


@inlined
def is_digit(byte: int) -> bool:
    return ZERO <= byte <= NINE


@inlined
def _any_equal(word: np.uint64, byte: int) -> np.uint64:
    """Return the high bit of each byte of a word that equals *byte*; those above the lowest such byte may be wrong."""
    other = word ^ (_ONES * np.uint64(byte))
    return (other - _ONES) & ~other & _HIGH


@inlined
def string_end(data: Bytes, start: int) -> int:
    """Return the position of the quote that ends the string whose first character is at *start*; -1 if it has an
    escape."""
    at, above = start, np.uint64(0)
    while True:
        word = load_word(data, at)
        control = (word - _ONES * np.uint64(_SPACE_BYTE)) & ~word & _HIGH
        stops = _any_equal(word, QUOTE) | _any_equal(word, BACKSLASH) | control
        if stops != 0:
            break
        above |= word & _HIGH
        at += 8
    first = (stops & (~stops + np.uint64(1))) >> np.uint64(7)  # one bit, in the byte where the string stops
    above |= word & _HIGH & (first - np.uint64(1))
    at += as_int((first * _INDEX) >> np.uint64(56))
    if data[at] != QUOTE:
        return -1
    return at if above == 0 or count_characters(data, start, at) >= 0 else -1


@allocation_free
def count_characters(data: Bytes, at: int, end: int) -> int:
    """Count the characters of a text in UTF-8; -1 if it is invalid (RFC 3629: shortest form, no surrogates)."""
    count = 0
    while at < end:
        more = _continuation(data[at], data[at + 1])
        if more < 0:
            return -1
        for k in range(1, more + 1):
            if data[at + k] & 0xC0 != 0x80:
                return -1
        at += more + 1
        count += 1
    return count if at == end else -1


@allocation_free
def _continuation(first: int, second: int) -> int:
    """Return the number of bytes that follow the first one of a UTF-8 character; -1 if the first two are not valid."""
    if first < 0x80:
        return 0
    if 0xC2 <= first <= 0xDF:
        return 1
    if 0xE0 <= first <= 0xEF:
        wrong = (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F)
        return -1 if wrong else 2
    if 0xF0 <= first <= 0xF4:
        wrong = (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F)
        return -1 if wrong else 3
    return -1


@inlined
def integer_end(data: Bytes, at: int) -> int:
    """Return the end of an integer of at most 15 digits without a sign; -1 for any other text."""
    start = at
    while is_digit(data[at]):
        at += 1
    digits = at - start
    if digits == 0 or digits > MAX_EXACT_DIGITS or (digits > 1 and data[start] == ZERO):
        return -1
    return at


@inlined
def number_end(data: Bytes, at: int) -> int:
    """Return the end of a number of at most 15 digits without sign and exponent; -1 for any other text."""
    start, at = at, integer_end(data, at)
    if at < 0 or data[at] != DOT:
        return at
    dot = at
    at += 1
    while is_digit(data[at]):
        at += 1
    return at if dot + 1 < at <= start + MAX_EXACT_DIGITS + 1 else -1


@inlined
def number_at(data: Bytes, at: int, end: int) -> float:
    """Return the value of a number that `number_end` accepts. It is correctly rounded, because both sides of the
    division are exact."""
    digits, scale, fraction = 0, 1.0, False
    while at < end:
        if data[at] == DOT:
            fraction = True
        else:
            digits = digits * 10 + as_int(data[at] - ZERO)
            if fraction:
                scale *= 10.0
        at += 1
    return np.float64(digits) / scale


@inlined
def _literal_end(data: Bytes, at: int, letters: int, length: int) -> int:
    mask = (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    return at + length if load_word(data, at) & mask == np.uint64(letters) else -1


@inlined
def null_end(data: Bytes, at: int) -> int:
    """Return the end of `null`; -1 if the text differs."""
    return _literal_end(data, at, _NULL, 4)


@inlined
def boolean_end(data: Bytes, at: int) -> int:
    """Return the end of `true` or `false`; -1 if the text differs."""
    if data[at] == TRUE_BEGINS:
        return _literal_end(data, at, _TRUE, 4)
    return _literal_end(data, at, _FALSE, 5)


@allocation_free
def _scalar_end(data: Bytes, at: int) -> int:
    first = data[at]
    if first == QUOTE:
        return _skipped_string_end(data, at + 1)
    if first == MINUS:
        return number_end(data, at + 1)
    if is_digit(first):
        return number_end(data, at)
    return null_end(data, at) if first == NULL_BEGINS else boolean_end(data, at)


@allocation_free
def _skipped_string_end(data: Bytes, start: int) -> int:
    at, above = start, 0
    while data[at] != QUOTE:
        if data[at] < _SPACE_BYTE:
            return -1
        if data[at] == BACKSLASH:
            at += 1
            if data[at] not in _SIMPLE_ESCAPES:
                return -1
        above |= data[at]
        at += 1
    return at + 1 if above < 0x80 or count_characters(data, start, at) >= 0 else -1


@inlined
def value_after_name(data: Bytes, at: int) -> int:
    """Return the start of the value of a member whose name's opening quote is at *at*; -1 if there is no name."""
    if data[at] != QUOTE:
        return -1
    at = _skipped_string_end(data, at + 1)
    return value_after_colon(data, at) if at >= 0 else -1


@inlined
def value_after_colon(data: Bytes, at: int) -> int:
    """Return the start of the value after a colon; *at* is just after the name."""
    at = skip_blanks(data, at)
    return skip_blanks(data, at + 1) if data[at] == COLON else -1


@allocation_free
def value_end(data: Bytes, at: int) -> int:
    """Return the end of a value that is not needed, of at most 60 levels; it must still be strict JSON."""
    kinds, depth = 0, 0  # of `kinds`, the lowest bit is 1 inside an object, the next one shows what is around it
    while at >= 0:
        first = data[at]
        if first in (OPEN_OBJECT, OPEN_LIST):
            kinds, depth = (kinds << 1) | as_int(first == OPEN_OBJECT), depth + 1
            at = skip_blanks(data, at + 1)
            if depth > MAX_NESTING:
                return -1
            if data[at] not in (CLOSE_OBJECT, CLOSE_LIST):
                at = value_after_name(data, at) if first == OPEN_OBJECT else at
                continue
        else:
            at = _scalar_end(data, at)
        at, kinds, depth = _close_containers(data, at, kinds, depth)
        if depth == 0:
            return at
        at = _next_value(data, at, kinds)
    return -1


@allocation_free
def _close_containers(data: Bytes, at: int, kinds: int, depth: int) -> tuple[int, int, int]:
    while at >= 0 and depth > 0:
        at = skip_blanks(data, at)
        if data[at] != (CLOSE_OBJECT if kinds & 1 else CLOSE_LIST):
            break
        at, kinds, depth = at + 1, kinds >> 1, depth - 1
    return at, kinds, depth


@allocation_free
def _next_value(data: Bytes, at: int, kinds: int) -> int:
    if at < 0 or data[at] != COMMA:
        return -1
    at = skip_blanks(data, at + 1)
    return value_after_name(data, at) if kinds & 1 else at


# RFC 3339 times, equal to the millisecond of the reference path.


FIRST_YEAR, LAST_YEAR = 1970, 2250
"""Supported years, in which microseconds since 1970 are exact as float64."""

_DATE_TIME_MARK, _ZULU = b"TZ"
_SHORTEST = len("2026-01-01T00:00:00Z")
_DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EPOCH_DAY = 719_162
"""Days from 0001-01-01 to 1970-01-01."""


@inlined
def _two_digits(data: Bytes, at: int) -> int:
    if not (is_digit(data[at]) and is_digit(data[at + 1])):
        return -10_000
    return as_int(data[at] - ZERO) * 10 + as_int(data[at + 1] - ZERO)


@allocation_free
def _days_since_epoch(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date; -1 if the calendar has no such date in the supported years."""
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
    """Return the UTC offset in seconds of `Z` or `+hh:mm` that fills the rest of the text; 100,000 for other texts."""
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
    """Return the seconds from 1970 to `yyyy-mm-ddThh:mm:ss`, without an offset; -1 for any other text."""
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
    """Return the UTC milliseconds of the time in data[at:end]; -1 if it is unusual, as with more than six decimals."""
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
