"""The part of a name that decides: the network of an address, the host of a URL or mail address."""

from __future__ import annotations

from ..compiled import allocation_free, as_int, inlined
from .text import AT_SIGN, COLON, DOT, MINUS, SLASH, ZERO, Bytes, is_digit

NO_HOST, UNDECIDED_HOST = -1, -2

_FIRST_LETTER, _LAST_LETTER, _FIRST_CAPITAL, _LAST_CAPITAL, _QUERY, _FRAGMENT, _SPACE = b"azAZ?# "
_BEYOND = 0x7F
_LETTER_W, _LOWER_CASE_BIT = ord("w"), 0x20


@allocation_free
def ipv4_prefix(data: Bytes, at: int, end: int) -> int:
    """Bytes of the first three numbers of a dotted IPv4 address, without the dot behind; 0 for any other text."""
    begin, kept = at, 0
    for part in range(4):
        start, value = at, 0
        while at < end and is_digit(data[at]):
            value = value * 10 + as_int(data[at] - ZERO)
            at += 1
        digits = at - start
        if not 1 <= digits <= 3 or value > 255 or (digits > 1 and data[start] == ZERO):
            return 0
        if part == 2:
            kept = at - begin
        if part < 3:
            if at >= end or data[at] != DOT:
                return 0
            at += 1
    return kept if at == end else 0


@allocation_free
def plain_host_span(data: Bytes, begin: int, end: int) -> tuple[int, int]:
    """Where the host of a plain URL or mail address stands; the compiled twin of `targets.host_of`.

    Returns:
        Its first byte and its end. Both NOWHERE for a name that is neither URL nor mail address, and both UNSURE where
        that takes a longer look (capitals, other alphabets, users and addresses in URLs, URLs without scheme).
    """
    mark, mail, plain = NO_HOST, NO_HOST, True
    for at in range(begin, end):
        byte = data[at]
        if byte == AT_SIGN:
            mail = at
        elif byte == COLON and mark < 0 and at + 2 < end and data[at + 1] == SLASH and data[at + 2] == SLASH:
            mark = at
        plain = plain and _SPACE < byte < _BEYOND and not _FIRST_CAPITAL <= byte <= _LAST_CAPITAL
    if mark >= 0:
        return _host_of_url(data, begin, mark, end)
    if _begins_with_www(data, begin, end):
        return UNDECIDED_HOST, UNDECIDED_HOST
    if mail < 0:
        return NO_HOST, NO_HOST
    if not plain or mail == begin or not _has_dot(data, mail + 1, end):
        return UNDECIDED_HOST, UNDECIDED_HOST
    return mail + 1, end


@inlined
def _begins_with_www(data: Bytes, begin: int, end: int) -> bool:
    return (
        end - begin >= 4
        and data[begin] | _LOWER_CASE_BIT == _LETTER_W
        and data[begin + 1] | _LOWER_CASE_BIT == _LETTER_W
        and (data[begin + 2] | _LOWER_CASE_BIT == _LETTER_W and data[begin + 3] == DOT)
    )


@allocation_free
def _has_dot(data: Bytes, begin: int, end: int) -> bool:
    for at in range(begin, end):  # noqa: SIM110
        if data[at] == DOT:
            return True
    return False


@allocation_free
def _host_of_url(data: Bytes, begin: int, mark: int, end: int) -> tuple[int, int]:
    """As `host_of`, for a name with `://` at *mark*: small letters before it, behind it a host and maybe a port."""
    for at in range(begin, mark):
        if not _FIRST_LETTER <= data[at] <= _LAST_LETTER:
            return UNDECIDED_HOST, UNDECIDED_HOST
    start = mark + 3
    at = start
    while at < end and (_FIRST_LETTER <= data[at] <= _LAST_LETTER or is_digit(data[at]) or data[at] in (DOT, MINUS)):
        at += 1
    stop = at
    if at < end and data[at] == COLON:
        at += 1
        while at < end and is_digit(data[at]):
            at += 1
    ends = at == end or data[at] in (SLASH, _QUERY, _FRAGMENT)
    return (start, stop) if ends and stop > start and mark > begin else (UNDECIDED_HOST, UNDECIDED_HOST)
